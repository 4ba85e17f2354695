"""Model repositories for Triton: what is written is read back with Triton's own protobuf.

Nothing here is served: ``test_triton_server.py`` does that.
"""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from bundles import RTX, contents, engine, plan
from command import trtforge
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as triton

from trtforge import demo
from trtforge.api import run
from trtforge.bundle.writer import write
from trtforge.errors import EnvironmentLacks, RequestError
from trtforge.evidence import read_report
from trtforge.testing import run_model
from trtforge.triton.chain import chained
from trtforge.triton.config import ModelConfig, TensorConfig, quoted
from trtforge.triton.repository import export
from trtforge.triton.serving import Wishes, serve

TRT = "10.13.3.9"
FULL = {"flavor": "tensorrt", "version": TRT, "cuda": "12"}
PROFILE = {"x": "1x4:8x4:32x4"}
TWO_INPUTS = """
<ir_version: 10, opset_import: ["" : 20]>
two (float16[batch,3,height] image, int64[batch] ids) => (float16[batch,3,height] y, int64[batch] z)
{
  y = Relu(image)
  z = Neg(ids)
}
"""
TOKENS = """
<ir_version: 10, opset_import: ["" : 20]>
tokens (float[tokens,4] x) => (float[tokens,4] y)
{
  y = Relu(x)
}
"""


def plans(folder, *targets, **facts):
    """Return engines of TensorRT, one for each target, of different content."""
    return [
        engine(
            folder,
            target,
            targets=(target,),
            data=plan("tensorrt", str(facts.get("version", TRT)), payload=target.encode()),
            **{**FULL, **facts},
        )
        for target in targets
    ]


def bundle(folder, *engines, profiles=(PROFILE,), **more):
    """Write a bundle whose engines were built with these profiles; return its path."""
    made = contents(folder / "run", *engines, **more)
    (report,) = made.reports
    request = replace(report.request, profiles=tuple(profiles))
    # Runs on several machines: each engine comes with a report of its own.
    reports = tuple(replace(report, request=request, engines=(each,)) for each in report.engines)
    write(replace(made, reports=reports), folder / "b")
    return folder / "b"


def parsed(repository, name="add_one"):
    text = (repository / name / "config.pbtxt").read_text()
    return text_format.Parse(text, triton.ModelConfig())


def test_one_model_for_two_kinds_of_gpu(tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86", "sm_89"))
    export([made], tmp_path / "repo")
    config = parsed(tmp_path / "repo")
    assert config.name == "add_one"
    assert config.platform == "tensorrt_plan"
    assert dict(config.cc_model_filenames) == {
        "8.6": "model.sm_86.plan",
        "8.9": "model.sm_89.plan",
    }
    assert config.default_model_filename == ""  # no engine is for any other GPU
    version = tmp_path / "repo" / "add_one" / "1"
    for target in ("sm_86", "sm_89"):
        assert (version / f"model.{target}.plan").read_bytes() == plan(
            "tensorrt", TRT, payload=target.encode()
        )
    assert len(list(version.iterdir())) == 2


def test_batching_inputs_and_warm_up_follow_the_profile(tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"))
    export([made], tmp_path / "repo", wishes=Wishes(instances=2, queue_delay=100))
    config = parsed(tmp_path / "repo")
    assert config.max_batch_size == 32
    for tensors, name in ((config.input, "x"), (config.output, "y")):
        (tensor,) = tensors
        assert (tensor.name, tensor.data_type, list(tensor.dims)) == (name, triton.TYPE_FP32, [4])
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.kind, group.count) == (triton.ModelInstanceGroup.KIND_GPU, 2)
    assert list(group.profile) == []
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert list(config.dynamic_batching.preferred_batch_size) == []
    (warm_up,) = config.model_warmup
    assert warm_up.batch_size == 8
    assert list(warm_up.inputs["x"].dims) == [4]
    assert warm_up.inputs["x"].random_data
    assert config.default_model_filename == "model.sm_86.plan"


def test_several_profiles_are_all_used(tmp_path):
    profiles = ({"x": "1x4:1x4:1x4"}, {"x": "1x4:16x4:64x4"})
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"), profiles=profiles)
    export([made], tmp_path / "repo")
    config = parsed(tmp_path / "repo")
    assert config.max_batch_size == 64
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 16]
    assert [request.batch_size for request in config.model_warmup] == [1, 16]


def test_open_dimensions_and_types(tmp_path):
    ranges = {"image": "1x3x8:4x3x16:8x3x32", "ids": "1:4:8"}
    engines = plans(tmp_path / "run", "sm_86")
    made = bundle(tmp_path, *engines, profiles=(ranges,), text=TWO_INPUTS)
    export([made], tmp_path / "repo")
    config = parsed(tmp_path / "repo")
    image, ids = config.input
    assert (image.data_type, list(image.dims)) == (triton.TYPE_FP16, [3, -1])
    # One number a sample: Triton wants a dimension, and the reshape takes it away again.
    assert (ids.data_type, list(ids.dims)) == (triton.TYPE_INT64, [1])
    assert ids.HasField("reshape")
    assert list(ids.reshape.shape) == []
    inputs = config.model_warmup[0].inputs
    assert (list(inputs["image"].dims), inputs["image"].random_data) == ([3, 16], True)
    assert (list(inputs["ids"].dims), inputs["ids"].zero_data) == ([1], True)


def test_without_batching_requests_bring_the_whole_shape(tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"))
    export([made], tmp_path / "repo", wishes=Wishes(max_batch=0))
    config = parsed(tmp_path / "repo")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 4]
    assert not config.HasField("dynamic_batching")
    assert config.model_warmup[0].batch_size == 1
    assert list(config.model_warmup[0].inputs["x"].dims) == [8, 4]


def test_an_axis_that_may_be_time_is_not_batched_unasked(tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"), text=TOKENS)
    (served,) = export([made], tmp_path / "repo")
    assert served.config.max_batch_size == 0
    assert "tokens" in served.notes[0]
    (asked,) = export([made], tmp_path / "repo", name="asked", wishes=Wishes(max_batch=8))
    assert asked.config.max_batch_size == 8


@pytest.mark.parametrize("wished", [33, 1000])
def test_batches_that_no_profile_takes_are_refused(wished, tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"))
    with pytest.raises(RequestError, match="batches of 1 to 32"):
        export([made], tmp_path / "repo", wishes=Wishes(max_batch=wished))


def test_profiles_that_begin_above_one_are_not_batched(tmp_path):
    """Triton sends a lone request as a batch of one."""
    ranges = {"x": "4x4:8x4:32x4"}
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"), profiles=(ranges,))
    (served,) = export([made], tmp_path / "repo")
    assert served.config.max_batch_size == 0
    assert "begin with a batch of 4" in served.notes[0]


def test_shape_inputs_are_marked(tmp_path):
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        shaped (float[batch,4] x, int64[2] size) => (float[batch,4] y) { y = Relu(x) }
    """
    ranges = {"x": "1x4:8x4:32x4", "size": "1x4:8x4:32x4"}
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"), profiles=(ranges,), text=text)
    export([made], tmp_path / "repo")
    config = parsed(tmp_path / "repo")
    assert [tensor.is_shape_tensor for tensor in config.input] == [False, True]
    assert list(config.input[1].dims) == [2]
    assert config.max_batch_size == 0
    assert len(config.model_warmup) == 0


def test_an_engine_for_ampere_and_later_serves_all_others(tmp_path):
    run_folder = tmp_path / "run"
    wide = plans(run_folder, "sm_80", hardware_compatibility="ampere_plus")
    made = bundle(tmp_path, *plans(run_folder, "sm_86"), *wide)
    export([made], tmp_path / "repo")
    config = parsed(tmp_path / "repo")
    assert config.default_model_filename == "model.sm_80.plan"
    assert config.cc_model_filenames["8.6"] == "model.sm_86.plan"


def test_engines_of_two_versions_are_not_mixed(tmp_path):
    run_folder = tmp_path / "run"
    newer = plans(run_folder, "sm_89", version="11.4.0.106")
    made = bundle(tmp_path, *plans(run_folder, "sm_86"), *newer)
    with pytest.raises(RequestError, match=r"10\.13\.3\.9, 11\.4\.0\.106"):
        export([made], tmp_path / "repo")
    (served,) = export([made], tmp_path / "repo", wishes=Wishes(version="11.4.0.106"))
    assert list(served.config.files) == ["8.9"]
    assert "TensorRT 11.4.0.106" in served.notes[0]
    with pytest.raises(RequestError, match=r"no engine is of TensorRT 9\.0"):
        export([made], tmp_path / "other", wishes=Wishes(version="9.0"))


def test_version_compatible_engines_name_the_option_of_the_server(tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86", version_compatible=True))
    (served,) = export([made], tmp_path / "repo")
    assert "version-compatible=true" in served.notes[0]


def test_triton_loads_no_engines_of_tensorrt_rtx(tmp_path):
    made = bundle(tmp_path, engine(tmp_path / "run"))
    with pytest.raises(RequestError, match="tensorrt_rtx") as caught:
        export([made], tmp_path / "repo")
    assert "--backend onnxruntime" in caught.value.remedy
    assert not (tmp_path / "repo").exists()
    assert RTX not in str(caught.value)


def test_the_onnx_runtime_backend_serves_the_model(tmp_path):
    made = bundle(tmp_path, engine(tmp_path / "run"))
    export([made], tmp_path / "repo", wishes=Wishes(backend="onnxruntime"))
    config = parsed(tmp_path / "repo")
    assert config.platform == "onnxruntime_onnx"
    assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_AUTO
    assert config.max_batch_size == 32
    assert dict(config.cc_model_filenames) == {}
    file = tmp_path / "repo" / "add_one" / "1" / "model.onnx"
    onnx.checker.check_model(str(file))


def test_a_model_with_a_data_file_becomes_a_folder(tmp_path):
    weights = tmp_path / "model.onnx.data"
    weights.write_bytes(b"weights")
    write(contents(tmp_path / "run", data=(weights,)), tmp_path / "b")
    wishes = Wishes(backend="onnxruntime", max_batch=8)
    export([tmp_path / "b"], tmp_path / "repo", wishes=wishes)
    folder = tmp_path / "repo" / "add_one" / "1" / "model.onnx"
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_types_that_triton_has_not_are_refused(tmp_path):
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        narrow (float8e4m3fn[2] x) => (float8e4m3fn[2] y) { y = Identity(x) }
    """
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"), profiles=(), text=text)
    with pytest.raises(RequestError, match="no type float8e4m3fn"):
        export([made], tmp_path / "repo")


# The repository as a whole.


def test_a_model_that_is_there_is_never_replaced(tmp_path):
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"))
    export([made], tmp_path / "repo")
    with pytest.raises(RequestError, match="has a model 'add_one' already"):
        export([made], tmp_path / "repo")
    export([made], tmp_path / "repo", name="second")
    assert sorted(each.name for each in (tmp_path / "repo").iterdir()) == ["add_one", "second"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    """Here the disk is full when the second part of a chain is written."""
    made = bundle(tmp_path, *plans(tmp_path / "run", "sm_86"))
    taken = []

    def full(source, name, wishes):
        served = serve(source, name, wishes)
        taken.append(name)
        files = {"model.plan": fail} if len(taken) == 2 else served.files
        return replace(served, files=files)

    def fail(_target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trtforge.triton.repository.serve", full)
    monkeypatch.setattr("trtforge.triton.repository.chained", lambda name, parts, outputs: parts[0])
    with pytest.raises(EnvironmentLacks, match="no space"):
        export([made, made], tmp_path / "repo")
    assert list((tmp_path / "repo").iterdir()) == []
    assert not list(tmp_path.glob(".repo*"))


@given(st.text())
def test_any_name_survives_the_text_format(name):
    config = ModelConfig("m", "ensemble", 0, (TensorConfig(name, "TYPE_FP32", (1,)),), ())
    read = text_format.Parse(config.text(), triton.ModelConfig())
    assert read.input[0].name == name
    assert "\n" not in quoted(name)


# Chains.


def part(name, takes, gives, batch=8):
    def tensors(entries):
        return tuple(TensorConfig(key, *value) for key, value in entries.items())

    return ModelConfig(name, "tensorrt_plan", batch, tensors(takes), tensors(gives))


F4 = ("TYPE_FP32", (4,))


def test_a_chain_passes_tensors_on_by_name():
    first = part("a", {"x": F4}, {"h": F4, "skip": F4})
    second = part("b", {"h": F4, "x": F4}, {"k": F4})
    third = part("c", {"k": F4, "skip": F4}, {"y": F4}, batch=4)
    text = chained("m", [first, second, third]).text()
    config = text_format.Parse(text, triton.ModelConfig())
    assert config.platform == "ensemble"
    assert config.max_batch_size == 4
    assert [tensor.name for tensor in config.input] == ["x"]
    assert [tensor.name for tensor in config.output] == ["y"]
    steps = config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["a", "b", "c"]
    assert {step.model_version for step in steps} == {-1}
    assert dict(steps[1].input_map) == {"h": "h", "x": "x"}
    assert dict(steps[0].output_map) == {"h": "h", "skip": "skip"}


def test_what_nobody_takes_is_an_output_too():
    first = part("a", {"x": F4}, {"h": F4, "early": F4})
    second = part("b", {"h": F4}, {"y": F4})
    assert [each.name for each in chained("m", [first, second]).outputs] == ["early", "y"]
    named = chained("m", [first, second], ["y", "h"])
    assert [each.name for each in named.outputs] == ["y", "h"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (part("b", {"h": ("TYPE_FP16", (4,))}, {"y": F4}), "takes 'h' as TYPE_FP16"),
        (part("b", {"h": ("TYPE_FP32", (5,))}, {"y": F4}), "takes 'h' as TYPE_FP32"),
        (part("b", {"h": ("TYPE_FP32", (4, 1))}, {"y": F4}), "takes 'h' as TYPE_FP32"),
        (part("b", {"h": F4}, {"h": F4}), "is there already"),
        (part("b", {"h": F4}, {"y": F4}, batch=0), "batch a and not the other"),
    ],
)
def test_parts_that_do_not_fit_are_refused(second, message):
    with pytest.raises(RequestError, match=message):
        chained("m", [part("a", {"x": F4}, {"h": F4}), second])


def test_bundles_in_order_become_an_ensemble(tmp_path):
    first = """
        <ir_version: 10, opset_import: ["" : 20]>
        first (float[batch,4] x) => (float[batch,4] h) { h = Relu(x) }
    """
    second = first.replace("first", "second").replace("h ", "y ").replace("] h)", "] y)")
    second = second.replace("4] x", "4] h").replace("Relu(x)", "Relu(h)")
    places = []
    for name, text, tensor in (("one", first, "x"), ("two", second, "h")):
        (tmp_path / name).mkdir()
        engines = plans(tmp_path / name / "run", "sm_86")
        ranges = {tensor: "1x4:8x4:32x4"}
        places.append(bundle(tmp_path / name, *engines, profiles=(ranges,), text=text))
    export(places, tmp_path / "repo", name="whole")
    assert sorted(each.name for each in (tmp_path / "repo").iterdir()) == [
        "whole", "whole-0", "whole-1",
    ]  # fmt: skip
    config = parsed(tmp_path / "repo", "whole")
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["whole-0", "whole-1"]
    assert [tensor.name for tensor in config.output] == ["y"]
    assert (tmp_path / "repo" / "whole" / "1").is_dir()  # Triton wants a version of ensembles too


# The command.


def test_the_command_exports_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stages: [{name: build, steps: [fold-constants, tensorrt]}]\n")
    shapes = {"image": "1x1x8x8:4x1x8x8:16x1x8x8"}
    out = tmp_path / "out"
    run(recipe, demo.MODEL, out=out, shapes=shapes, targets=["sm_86"], compare=False)
    refused = trtforge("export", "triton", out, "-o", tmp_path / "repo")
    assert refused.code == 2
    assert "TensorRT backend loads engines of TensorRT only" in refused.err
    line = ("export", "triton", out, "-o", tmp_path / "repo", "--backend", "onnxruntime")
    done = trtforge(*line, "--json")
    assert done.code == 0, done.err
    assert done.json["models"][0]["config"]["max_batch_size"] == 16
    config = parsed(tmp_path / "repo", "digits")
    assert [tensor.name for tensor in config.output] == ["logits"]
    assert list(config.input[0].dims) == [1, 8, 8]
    again = trtforge(*line)
    assert again.code == 2
    assert "already" in again.err


def test_what_is_no_bundle_and_no_run_is_refused(tmp_path):
    answer = trtforge("export", "triton", tmp_path, "-o", tmp_path / "repo")
    assert answer.code == 2
    assert "no bundle" in answer.err


SPLIT = """
model: m.onnx
shapes: {x: 1x8}
stages:
  - name: cut
    steps: [{split: {parts: 2}}]
"""
SOFTMAXES = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 8] x) => (float[1, 8] early, float[1, 8] y)
{ early = Softmax (x) a = Softmax (early) b = Softmax (a) y = Softmax (b) }
"""


def split_run(tmp_path, monkeypatch):
    """Run a recipe that splits a model in two; return the folder of the run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    onnx.save(onnx.parser.parse_model(SOFTMAXES), "m.onnx")
    (tmp_path / "r.yaml").write_text(SPLIT)
    assert run("r.yaml", out=tmp_path / "out").exit_code == 0
    return tmp_path / "out"


def test_the_parts_of_a_split_model_are_served_as_one(tmp_path, monkeypatch):
    """The steps of the ensemble, run here by ONNX Runtime, give what the model gives."""
    folder = split_run(tmp_path, monkeypatch)
    export([folder], tmp_path / "repo", wishes=Wishes(backend="onnxruntime"))
    whole = parsed(tmp_path / "repo", "m")
    assert [tensor.name for tensor in whole.input] == ["x"]
    assert [tensor.name for tensor in whole.output] == ["early", "y"]  # early is read on, too
    feed = {"x": np.random.default_rng(0).random((1, 8), np.float32)}
    known = dict(feed)
    for step in whole.ensemble_scheduling.step:
        file = tmp_path / "repo" / step.model_name / "1" / "model.onnx"
        taken = {own: known[outer] for own, outer in step.input_map.items()}
        given = run_model(onnx.load(file), taken)
        known |= {outer: given[own] for own, outer in step.output_map.items()}
    for name, array in run_model(onnx.load("m.onnx"), feed).items():
        np.testing.assert_allclose(known[name], array, rtol=1e-6)


def test_engines_of_parts_go_along(tmp_path, monkeypatch):
    folder = split_run(tmp_path, monkeypatch)
    report = read_report(folder)
    built = [
        replace(each, engine=replace(*plans(folder / f"e{at}", "sm_86"), path=Path(f"p{at}")))
        for at, each in enumerate(report.chain.parts)
    ]
    for at in range(2):
        (folder / "parts" / f"p{at}").write_bytes(plan("tensorrt", TRT, payload=b"%d" % at))
    changed = replace(report, chain=replace(report.chain, parts=tuple(built)))
    monkeypatch.setattr("trtforge.triton.source.read_report", lambda folder: changed)
    export([folder], tmp_path / "repo")
    for at in range(2):
        config = parsed(tmp_path / "repo", f"m-{at}")
        assert config.platform == "tensorrt_plan"
        file = tmp_path / "repo" / f"m-{at}" / "1" / config.default_model_filename
        assert file.read_bytes() == plan("tensorrt", TRT, payload=b"%d" % at)
