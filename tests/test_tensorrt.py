"""The `tensorrt` step builds for real here: TensorRT-RTX needs no GPU to build.

All tests need TensorRT-RTX; without it they fail, on purpose: nothing else proves the builds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tensorrt_builds import DISGUISED, FOUR, FP8, MLP, UNKNOWN_OPERATORS, build, context, files
from trtforge_plugins.tensorrt import TensorRT, gpu, library

from trtforge import BuildError, ByteSize, EnvironmentLacks, ExitCode, RequestError
from trtforge.options import as_data
from trtforge.worker import Cause, Job, Worker, WorkerFailure


def test_one_engine_for_four_targets_with_its_figures_and_layers(tmp_path):
    engine = build(MLP, tmp_path, {"x": "1x4:8x4:32x4"}, targets=FOUR)
    assert engine.path == tmp_path / "engines" / "mlp.engine"
    assert engine.path.stat().st_size == engine.size
    assert engine.path.read_bytes()[:4] != b"\0\0\0\0"
    assert (engine.flavor, engine.targets) == ("tensorrt_rtx", FOUR)
    assert engine.version == library.find().version
    assert engine.memory.activation > 0
    assert engine.memory.weights >= 4 * 2 * 4
    assert engine.memory.build_peak_rss > 50 * 2**20  # TensorRT's library alone is larger
    assert engine.layer_dump.read_text().startswith("Layers:\nName: ")
    assert "[ONNX Layer: product]" in engine.layer_dump.read_text()
    assert engine.events == ()
    assert files(tmp_path) == ["engines/mlp.engine", "engines/mlp.layers.txt", "logs/tensorrt.log"]


def test_what_turing_cannot_do_is_explained(tmp_path):
    with pytest.raises(BuildError, match="FP32 GEMM is not supported") as raised:
        build(MLP, tmp_path, {"x": "8x4"}, targets=["sm_75", "sm_86"])
    assert "leave sm_75 out of the targets" in raised.value.remedy


def test_the_same_order_gives_the_same_bytes(tmp_path):
    first, second = (build(MLP, tmp_path / name, {"x": "8x4"}) for name in "ab")
    assert first.path.read_bytes() == second.path.read_bytes()


def test_the_model_stays_as_it_is(tmp_path):
    ctx = context(MLP, tmp_path, {"x": "8x4"})
    before = ir.to_onnx_text(ctx.model)
    TensorRT().run(ctx)
    assert ir.to_onnx_text(ctx.model) == before


def test_weights_that_are_handed_over_in_a_data_file_are_in_the_engine(tmp_path):
    wide = ir.from_onnx_text(MLP)
    weights = np.random.default_rng(0).standard_normal((4, 65_536), np.float32)
    wide.graph.initializers["w"].const_value = ir.tensor(weights)
    wide.graph.initializers["w"].shape = ir.Shape(weights.shape)
    wide.graph.outputs[0].shape = ir.Shape(["N", weights.shape[1]])
    engine = build(wide, tmp_path, {"x": "8x4"})
    assert engine.memory.weights >= weights.nbytes
    first_row = weights[0, :16].tobytes()
    assert first_row in engine.path.read_bytes()


def test_two_profiles_are_both_in_the_engine(tmp_path):
    one = build(MLP, tmp_path / "one", {"x": "1x4:8x4:32x4"})
    two = build(MLP, tmp_path / "two", {"x": "1x4:8x4:32x4"}, {"x": "64x4:128x4:256x4"})
    assert two.size > one.size


def test_values_of_a_shape_input_are_ranged_like_shapes(tmp_path):
    reshaped = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,4] x, int64[2] shape) => (float[A,B] y) { [r] y = Reshape (x, shape) }
    """
    shapes = {"x": "1x4:8x4:32x4", "shape": "1x4:4x8:8x16"}
    assert build(reshaped, tmp_path, shapes).size > 0
    with pytest.raises(RequestError, match="'shape' \\(decides shapes\\)"):
        build(reshaped, tmp_path, {"x": "1x4:8x4:32x4"})
    with pytest.raises(RequestError, match="its range gives its 2 values; found 3"):
        build(reshaped, tmp_path, {**shapes, "shape": "1x1x1"})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "add to the recipe: shapes: {x: {min: 1x4, opt: 8x4, max: 32x4}}"),
        ({"xx": "8x4"}, "has no input 'xx'. Did you mean 'x'?"),
        ({"x": "8x4x1"}, "input 'x' has rank 2 (?x4), but its range has rank 3"),
        ({"x": "8x5"}, "dimension 1 of input 'x' is 4 in the model (?x4), but its range has 5"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_before_the_build(tmp_path, shapes, message):
    with pytest.raises(RequestError) as raised:
        build(MLP, tmp_path, shapes)
    assert message in str(raised.value)
    assert raised.value.exit_code is ExitCode.BAD_REQUEST
    assert files(tmp_path) == ["logs/tensorrt.log"]


def test_all_refused_nodes_are_named_and_noted(tmp_path):
    ctx = context(UNKNOWN_OPERATORS, tmp_path)
    with pytest.raises(BuildError) as raised:
        TensorRT().run(ctx)
    assert "node 'first' (Swirl): " in str(raised.value)
    assert "node 'second' (Twirl): " in str(raised.value)
    assert "make-convertible" in raised.value.remedy
    assert [note.node for note in ctx.notes] == ["first", "second"]
    assert raised.value.exit_code is ExitCode.STEP_FAILED
    assert files(tmp_path) == ["logs/tensorrt.log"]


def test_types_that_a_target_lacks_are_refused_before_the_build(tmp_path):
    with pytest.raises(RequestError) as raised:
        build(FP8, tmp_path, targets=["sm_86", "sm_89"])
    assert "uses float8e4m3fn (quantize), which does not build for sm_86" in str(raised.value)
    assert "sm_89" in raised.value.remedy
    assert files(tmp_path) == []
    assert build(FP8, tmp_path, targets=["sm_89", "sm_120"]).size > 0


def test_a_target_that_this_tensorrt_does_not_know_is_refused(tmp_path):
    with pytest.raises(RequestError, match="does not build for sm_90") as raised:
        build(MLP, tmp_path, {"x": "8x4"}, targets=["sm_90"])
    assert raised.value.code == "target-not-built"
    assert "sm_86" in raised.value.remedy


def test_a_model_without_nodes_is_refused(tmp_path):
    empty = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] x) {}'
    with pytest.raises(RequestError, match="no nodes"):
        build(empty, tmp_path)


# --- functions: what TensorRT's parser reads wrongly by itself ---------------------------------

ONE_NAME_TWO_DOMAINS = """
<ir_version: 10, opset_import: ["" : 21, "a" : 1, "b" : 1]>
g (float[2,4] x) => (float[2,4] y) { [one] h = a.Act (x) [two] y = b.Act (h) }
<domain: "a", opset_import: ["" : 21]> Act (x) => (y) { y = Sigmoid (x) }
<domain: "b", opset_import: ["" : 21]> Act (x) => (y) { y = Tanh (x) }
"""
NAMED_LIKE_A_STANDARD_ONE = """
<ir_version: 10, opset_import: ["" : 21, "a" : 1]>
g (float[2,4] x) => (float[2,4] y) { [one] y = a.Relu (x) }
<domain: "a", opset_import: ["" : 21]> Relu (x) => (y) { y = Tanh (x) }
"""


@pytest.mark.parametrize(
    ("model", "operators", "absent"),
    [
        (ONE_NAME_TWO_DOMAINS, ("sigmoid", "tanh"), "relu"),
        (NAMED_LIKE_A_STANDARD_ONE, ("tanh",), "relu"),
    ],
    ids=["one name in two domains", "named like a standard operator"],
)
def test_functions_mean_what_their_bodies_say(tmp_path, model, operators, absent):
    dump = build(model, tmp_path, log_level="verbose").layer_dump.read_text().lower()
    log = (tmp_path / "logs" / "tensorrt.log").read_text().lower()
    parsed = [line for line in log.splitlines() if "parsing node" in line]
    assert all(any(f"[{name}]" in line for line in parsed) for name in operators), parsed
    assert not any(f"[{absent}]" in line for line in parsed)
    assert "name:" in dump


def test_an_unknown_operator_with_a_standard_name_is_refused(tmp_path):
    with pytest.raises(BuildError, match=r"odd \(foo::Relu\) for the standard operator"):
        build(DISGUISED, tmp_path)


# --- options -----------------------------------------------------------------------------------


def test_options_reach_tensorrt(tmp_path):
    engine = build(
        MLP,
        tmp_path,
        {"x": "8x4"},
        optimization_level=1,
        workspace="1GiB",
        tactic_shared_memory="64KiB",
        tactic_dram="256MiB",
        max_aux_streams=0,
        weight_streaming=True,
        tf32=False,
        file="small.plan",
    )
    assert engine.path.name == "small.plan"
    assert engine.events == ()


def test_a_workspace_that_is_too_small_is_named(tmp_path):
    with pytest.raises(BuildError, match="within workspace limit") as raised:
        build(MLP, tmp_path, {"x": "8x4"}, workspace="1KiB")
    assert "raise the option workspace" in raised.value.remedy


def test_options_that_this_tensorrt_lacks_are_refused_and_not_ignored(tmp_path):
    with pytest.raises(EnvironmentLacks, match="lean"):
        build(MLP, tmp_path, {"x": "8x4"}, version_compatible=True)
    with pytest.raises(EnvironmentLacks, match="unsupported in TensorRT-RTX"):
        build(MLP, tmp_path, {"x": "8x4"}, hardware_compatibility="ampere_plus")
    assert not (tmp_path / "engines" / "mlp.engine").exists()


def test_a_failed_build_leaves_the_earlier_engine(tmp_path):
    engine = build(MLP, tmp_path, {"x": "8x4"})
    before = engine.path.read_bytes()
    with pytest.raises(BuildError):
        build(MLP, tmp_path, {"x": "8x4"}, workspace="1KiB")
    assert engine.path.read_bytes() == before


def test_progress_is_reported(tmp_path):
    ctx = context(MLP, tmp_path, {"x": "8x4"})
    TensorRT().run(ctx)
    assert ctx.progress.seen
    assert all(label.startswith("tensorrt: ") for label, _, _ in ctx.progress.seen)


def test_a_step_that_was_warmed_up_builds_in_the_process_that_waits(tmp_path):
    step = TensorRT()
    step.warm_up()
    pid = step._worker.pid
    step.run(context(MLP, tmp_path, {"x": "8x4"}))
    assert step._worker.pid == pid
    assert as_data(step) == as_data(TensorRT())


# --- failures of the process -------------------------------------------------------------------


def test_a_time_limit_stops_the_build_and_leaves_no_file(tmp_path):
    with pytest.raises(WorkerFailure, match=r"did not end within 0\.01 seconds") as raised:
        build(MLP, tmp_path, {"x": "8x4"}, time_limit=0.01)
    assert raised.value.cause is Cause.TIMED_OUT
    assert not [name for name in files(tmp_path) if not name.startswith("logs/")]


def test_a_memory_limit_stops_the_build_and_leaves_no_file(tmp_path):
    big = ir.from_onnx_text(MLP)
    array = np.zeros((4, 8 * 2**20), np.float32)  # 128 MiB
    big.graph.initializers["w"].const_value = ir.tensor(array)
    big.graph.outputs[0].shape = ir.Shape(["N", array.shape[1]])
    with pytest.raises(WorkerFailure, match="its limit is 100MiB") as raised:
        build(big, tmp_path, {"x": "8x4"}, memory_limit=ByteSize("100MiB"))
    assert raised.value.cause is Cause.OUT_OF_MEMORY
    assert not [name for name in files(tmp_path) if not name.startswith("logs/")]


PLUGIN_NODE = """
<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
g (float[2,4] x) => (float[2,4] y) { [swirl] y = acme.Swirl (x) }
"""


def test_tensorrt_aborts_on_a_plugin_node_without_our_library_path_and_we_name_it(tmp_path):
    """TensorRT-RTX 1.7.1 does this by itself; a crash in it must never be one of ours."""
    job = plugin_job(tmp_path)
    with Worker() as worker, pytest.raises(WorkerFailure, match="died from SIGABRT") as raised:
        worker.call(job)
    assert raised.value.cause is Cause.CRASHED


def test_with_our_library_path_tensorrt_takes_the_plugin_node(tmp_path):
    with Worker(environment=library.find().variables()) as worker:
        assert worker.call(plugin_job(tmp_path)) == {"layers": ["PLUGIN_V3"]}


def plugin_job(folder: Path) -> Job:
    model = folder / "swirl.onnx"
    ir.save(ir.from_onnx_text(PLUGIN_NODE), model)
    return Job("tensorrt_jobs:parse_with_plugin", {"model": str(model)}, "it", folder / "log")


# --- what is installed -------------------------------------------------------------------------


def test_the_environment_names_library_and_gpu(monkeypatch):
    assert TensorRT().environment() == {
        "tensorrt": f"TensorRT-RTX {library.find().version}",
        "gpu": "none" if gpu.current() is None else TensorRT().environment()["gpu"],
    }
    monkeypatch.setattr(gpu, "current", lambda: gpu.Gpu("NVIDIA L4", 89, "CUDA 13.0"))
    assert TensorRT().environment()["gpu"] == "NVIDIA L4, sm_89, CUDA 13.0"


def test_a_missing_tensorrt_is_named_with_the_line_that_installs_it(monkeypatch):
    with pytest.raises(EnvironmentLacks, match="pip install tensorrt") as raised:
        library.find("tensorrt")
    assert raised.value.exit_code is ExitCode.ENVIRONMENT_LACKS
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentLacks, match=r"pip install 'trtforge\[cu13\]'"):
        library.find()
    assert TensorRT().environment()["tensorrt"] == "none"
    with pytest.raises(EnvironmentLacks):
        TensorRT().warm_up()


def test_the_library_link_is_made_once_and_mended(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    folder, _, rest = library.find().variables()["LD_LIBRARY_PATH"].partition(os.pathsep)
    link = Path(folder) / "libtensorrt_rtx.so"
    assert link.resolve().name == "libtensorrt_rtx.so.1"
    assert rest == "/elsewhere"
    link.unlink()
    link.symlink_to("/nowhere")
    library.find().variables()
    assert link.resolve().name == "libtensorrt_rtx.so.1"


def test_importing_the_step_imports_no_tensorrt():
    script = (
        "import trtforge_plugins.tensorrt.backend, sys, json; print(json.dumps([*sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"tensorrt", "tensorrt_rtx", "cupy"} & set(json.loads(out.stdout))
