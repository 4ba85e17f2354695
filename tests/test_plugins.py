"""Every shipped op becomes a TensorRT plugin: built here, not executed."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import broken_ops
import onnx_ir as ir
import op_cases
import pytest
import trtforge_ops
from trtforge_plugins.engine_layers import read_engine_layers
from trtforge_plugins.tensorrt import TensorRT, plugin_launch
from trtforge_plugins.tensorrt.plugin_fields import Carried, read_fields, write_fields
from trtforge_plugins.tensorrt.plugin_launch import Call, code_for

from trtforge import (
    BuildError,
    Context,
    Dims,
    EnvironmentLacks,
    Request,
    RequestError,
    ShapeRange,
    kernel_source,
)
from trtforge.op_testing import call_model
from trtforge.targets import KNOWN

FOUR = tuple(KNOWN[name] for name in ("sm_80", "sm_86", "sm_89", "sm_120"))
FP8 = FOUR[2:]
OPS = {kind.name: kind for kind in trtforge_ops.OPS}
FIRST = {type(op): (op, cases[0]) for op, cases in reversed(op_cases.CASES)}


@pytest.fixture(scope="module")
def step():
    return TensorRT()


@pytest.mark.slow
@pytest.mark.parametrize("kind", trtforge_ops.OPS, ids=lambda kind: kind.op_type.fget(kind()))
def test_each_op_builds_into_an_engine(kind, step, tmp_path):
    op, case = FIRST[kind]
    dtype = "float16" if "float16" in op.dtypes else op.dtypes[0]
    model = call_model(op, case, dtype, 20)
    targets = FP8 if "float8" in str(kind.outputs) else FOUR
    ctx = Context(model, tmp_path, Request("one", targets=targets), ops=OPS)
    engine = step.build(model, ctx)
    kinds = [layer.kind for layer in read_engine_layers(engine).layers]
    if kind.counted:  # TensorRT-RTX runs it between its own graphs, and then reads the counts
        assert set(kinds) == {"TrainStation", "PluginV3", "DeviceToShapeHost"}
        assert kinds.count("DeviceToShapeHost") == len(kind.counted)
    else:
        assert kinds == ["custom_layer"]
    assert ctx.notes == []
    data = Path(engine.path).read_bytes()
    assert all(f"cubin-{target.sm}-1".encode() in data for target in targets)


@pytest.mark.parametrize(
    ("rule", "method"),
    [
        ("shapes", "get_output_shapes"),
        ("tactic", "configure_plugin"),
        ("launch", "configure_plugin"),
        ("workspace", "get_workspace_size"),  # TensorRT itself swallows this one
        ("output_ports", "get_output_data_types"),
    ],
)
def test_a_rule_that_fails_fails_the_build_with_op_method_and_cause(
    rule, method, step, tmp_path, monkeypatch
):
    template = kernel_source.template_path(trtforge_ops.RMSNorm)
    kind = broken_ops.Broken
    model = call_model(kind(broken=rule), [(2, 8), (8,)], "float16", 20)
    monkeypatch.setattr(kernel_source, "template_path", lambda _: template)
    ctx = Context(model, tmp_path, Request("m", targets=FOUR), ops={kind.name: kind})
    with pytest.raises(BuildError) as raised:
        step.build(model, ctx)
    assert f"custom op test::Broken, node 'node_Broken_0': {method} failed" in str(raised.value)
    assert "ZeroDivisionError: a rule of mine" in str(raised.value)
    assert not list(tmp_path.glob("engines/*"))


def test_a_body_is_built_where_it_is_asked_for(tmp_path):
    op, case = FIRST[trtforge_ops.RMSNorm]
    model = call_model(op, case, "float16", 20)
    ctx = Context(model, tmp_path, Request("one", targets=FOUR), ops=OPS)
    layers = read_engine_layers(TensorRT(plugins="body").build(model, ctx)).layers
    assert "custom_layer" not in {layer.kind for layer in layers}


def test_a_wrong_name_is_refused(tmp_path):
    op, case = FIRST[trtforge_ops.RMSNorm]
    model = call_model(op, case, "float16", 20)
    ctx = Context(model, tmp_path, Request("one", targets=FOUR), ops=OPS)
    with pytest.raises(RequestError, match="no custom op 'acme::Nothing'"):
        TensorRT(plugins=("acme::Nothing",)).build(model, ctx)
    with pytest.raises(RequestError, match="no node of the model calls trtforge::LayerNorm"):
        TensorRT(plugins=("trtforge::LayerNorm",)).build(model, ctx)


class Recorder:
    """A CuPy that writes down what is launched."""

    def __init__(self, capability):
        self.capability, self.calls, self.streams = capability, [], []
        self.cuda = self

    def Device(self):  # noqa: N802  # CuPy's name
        return SimpleNamespace(compute_capability=self.capability)

    def ExternalStream(self, stream):  # noqa: N802  # CuPy's name
        self.streams.append(stream)
        return nullcontext()

    def get_function(self, name):
        return Started(self, name)


class Started:
    def __init__(self, recorder, name):
        self.recorder, self.name = recorder, name

    def __call__(self, grid, block, arguments, shared_mem):
        plain = [(type(each).__name__, int(each)) for each in arguments]
        assert self.max_dynamic_shared_size_bytes == shared_mem
        self.recorder.calls.append((self.name, grid, block, plain))


def test_enqueue_starts_the_carried_kernels_in_turn(monkeypatch):
    """Recorded, not executed: what would go to the driver, for an op of two kernels."""
    op = trtforge_ops.GroupNorm(groups=4)
    shapes, outputs = ((2, 8, 4, 4), (8,), (8,)), ((2, 8, 4, 4),)
    tactic = op.tactic("float16", shapes)
    carried = Carried(
        "float16", "entry", (tactic,), {(86, 1): b"86", (80, 1): b"80"}, {1: b"p"}, 80
    )
    cupy, loaded = Recorder("89"), []
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(plugin_launch, "_module", lambda code: loaded.append(code) or cupy)
    plugin_launch.enqueue(op, carried, 0, Call(shapes, outputs, (11, 12, 13), (14,), 15, 99))
    launched = op.launch(shapes, outputs, tactic)
    assert cupy.calls == [
        (
            f"entry_{each.kernel}", (each.grid,), (each.block,),
            [
                *(("uint64", address) for address in (11, 12, 13)),
                *(("int32", scalar) for scalar in each.scalars),
                *(("uint64", address) for address in (14, 15)),
            ],
        )
        for each in launched
    ]  # fmt: skip
    assert (loaded, cupy.streams) == ([b"86"], [99])  # the CUBIN of sm_86 runs on sm_89


@pytest.mark.parametrize(("sm", "code"), [(80, b"80"), (86, b"86"), (90, b"p"), (120, b"p")])
def test_a_cubin_runs_on_its_generation_and_ptx_on_later_ones(sm, code):
    carried = Carried("", "", ({},), {(80, 1): b"80", (86, 1): b"86"}, {1: b"p"}, 80)
    assert code_for(carried, 1, sm) == code
    with pytest.raises(EnvironmentLacks, match="this GPU is sm_75"):
        code_for(carried, 1, 75)


def test_fields_come_back_as_they_were():
    carried = Carried("float16", "k", ({"block": 4},), {(86, 1): b"\0a"}, {1: b"ptx"}, 86)
    assert read_fields(write_fields(carried)) == carried
    with pytest.raises(BuildError, match="damaged"):
        read_fields({"facts": b"{"})


def test_dynamic_shapes_bring_one_tactic_per_choice_of_the_op(step, tmp_path):
    """Rows few or many, short or long, want other lanes and items: each choice is carried."""
    op = trtforge_ops.RMSNorm()
    model = call_model(op, [(2, 8), (8,)], "float16", 20)
    x, weight = model.graph.inputs
    x.shape, weight.shape = ir.Shape(["rows", "columns"]), ir.Shape(["columns"])
    model.graph.outputs[0].shape = ir.Shape(["rows", "columns"])
    profile = {
        "x": ShapeRange(Dims((1, 8)), Dims((4096, 512)), Dims((8192, 8192))),
        "weight": ShapeRange(Dims((8,)), Dims((512,)), Dims((8192,))),
    }
    request = Request("dynamic", (profile,), targets=FOUR[:1])
    engine = step.build(model, Context(model, tmp_path, request, ops=OPS))
    data = Path(engine.path).read_bytes()
    shapes = ((4096, 512), (512,)), ((1, 8), (8,)), ((8192, 8192), (8192,))
    tactics = [op.tactic("float16", each) for each in shapes]
    assert len({str(tactic) for tactic in tactics}) == 3
    assert [f"cubin-80-{n}".encode() in data for n in (1, 2, 3, 4)] == [True, True, True, False]
