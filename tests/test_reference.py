"""The reference runs what ONNX says, and says clearly what it cannot run."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from trtforge.errors import DataError, EnvironmentLacks, ModelError, StepError
from trtforge.reference import CUDA, Reference

ADD = """
<ir_version: 10, opset_import: ["" : 21]>
add (float[N,2] x, int64[1] k) => (float[N,2] y, int64[1] z) <float[2] w = {0.5, -0.5}>
{ y = Add (x, w)  z = Add (k, k) }
"""


def model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def test_outputs_come_by_name_and_inputs_are_described():
    reference = Reference(model(ADD), provider="cpu")
    assert [(s.name, s.dtype.name, s.shape) for s in reference.inputs] == [
        ("x", "float32", ("N", 2)),
        ("k", "int64", (1,)),
    ]
    result = reference.run({"x": np.ones((3, 2), np.float32), "k": np.array([21])})
    np.testing.assert_array_equal(result["y"], np.tile(np.float32([1.5, 0.5]), (3, 1)))
    assert result["z"] == 42


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": np.ones((1, 2), np.float32)}, "no data for input 'k'"),
        ({"x": np.ones((1, 2)), "k": np.array([1])}, "input 'x' has type float64, not float32"),
        ({"x": np.ones((1, 3), np.float32), "k": np.array([1])}, "Got invalid dimensions"),
        (
            {"x": np.ones((1, 2), np.float32), "k": np.array([1]), "kk": np.array([1])},
            "no input 'kk'. Did you mean 'k'",
        ),
    ],
)
def test_data_that_does_not_fit_is_named(feed, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        Reference(model(ADD), provider="cpu").run(feed)


def test_a_file_that_onnxruntime_refuses_is_a_model_error(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
    unknown (float[1] x) => (float[1] y) { y = acme.Frobnicate (x) }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(ModelError, match="Frobnicate") as caught:
        Reference(path, provider="cpu")
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    with pytest.raises(StepError, match="Frobnicate"):  # in memory: some step's doing
        Reference(model(text), provider="cpu")


def test_a_failure_while_running_is_a_step_error():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    gather (int64[1] x) => (float[1] y) <float[2] w = {1, 2}> { y = Gather (w, x) }"""
    reference = Reference(model(text), provider="cpu")
    with pytest.raises((StepError, DataError), match="ONNX Runtime failed"):
        reference.run({"x": np.array([5])})


def test_custom_ops_run_by_their_model_local_function():
    text = """<ir_version: 10, opset_import: ["" : 21, "trtforge" : 1]>
    custom (float[2] x) => (float[2] y) { y = trtforge.Twice (x) }
    <domain: "trtforge", opset_import: ["" : 21]> Twice (v) => (r) { r = Add (v, v) }"""
    result = Reference(model(text), provider="cpu").run({"x": np.float32([1, 2])})
    np.testing.assert_array_equal(result["y"], [2, 4])


def quantized_matmul() -> onnx.ModelProto:
    """Full-range activations and weights: integer kernels without VNNI saturate here."""
    return onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21]>
    qdq (float[4,64] x, float[64,32] w) => (float[4,32] y)
    <float s = {0.02}, uint8 zu = {0}, float sw = {0.01}, int8 zi = {0}>
    {
        xq = QuantizeLinear (x, s, zu)   xd = DequantizeLinear (xq, s, zu)
        wq = QuantizeLinear (w, sw, zi)  wd = DequantizeLinear (wq, sw, zi)
        y = MatMul (xd, wd)
    }
    """)


def test_quantized_models_compute_what_their_nodes_say():
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.uniform(0, 5, (4, 64)).astype(np.float32),
        "w": rng.uniform(-1.27, 1.27, (64, 32)).astype(np.float32),
    }
    (expected,) = ReferenceEvaluator(quantized_matmul()).run(None, feed)
    actual = Reference(ir.from_proto(quantized_matmul()), provider="cpu").run(feed)["y"]
    # float32 sums of 64 products of magnitude 6 in another order: 64 * 6 * 2**-24 at most
    np.testing.assert_allclose(actual, expected, rtol=0, atol=64 * 6 * 2**-24)


def test_large_weights_are_not_copied_and_the_model_stays(tmp_path):
    weights = np.arange(4096, dtype=np.float32).reshape(64, 64)
    graph = onnx.parser.parse_graph("g (float[1,64] x) => (float[1,64] y) { y = MatMul (x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    proto.ir_version = 10
    path = tmp_path / "external.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    loaded = ir.load(path)
    x = np.ones((1, 64), np.float32)
    for source in (path, loaded):
        result = Reference(source, provider="cpu").run({"x": x})
        np.testing.assert_array_equal(result["y"], x @ weights)
    assert loaded.graph.initializers["w"].const_value.path.endswith("w.bin")


TYPES = [
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN,
    ir.DataType.INT4, ir.DataType.BOOL, ir.DataType.UINT16,
]  # fmt: skip
EVERYWHERE = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2048] x, bool c) => (float[2048] y) {
  wide = Cast<to: int = 1>(kept)
  inner = Constant()
  wider = Cast<to: int = 1>(inner)
  chosen = If (c) <
    then_branch = t () => (float[2048] a) { own = Constant()  a = Cast<to: int = 1>(own) },
    else_branch = e () => (float[2048] b) { b = Identity (x) }>
  both = Add (wide, wider)
  all = Add (both, chosen)
  y = Add (all, x)
}
"""


def test_large_weights_that_nobody_reads_are_no_matter(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[N,256] x) => (float[N,64] y, float[256,64] kept) { y = MatMul (x, w) }"""
    model = onnx.parser.parse_model(text)
    weight = np.ones((256, 64), np.float32)
    for name in ("w", "kept", "unread"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "m.onnx")
    for given in (tmp_path / "m.onnx", ir.from_proto(model)):
        found = Reference(given).run({"x": np.ones((2, 256), np.float32)})
        assert (found["y"] == 256).all()
        assert (found["kept"] == 1).all()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_weights_in_a_data_file_may_have_any_type_and_place(tmp_path, kind):
    """As a model has them that comes from the step cache; bfloat16 once failed on a second run."""
    array = (np.arange(2048) % 2).astype(kind.numpy())
    data = tmp_path / "0123abcd"
    data.write_bytes(ir.tensor(array, kind).tobytes())

    def weight() -> ir.ExternalTensor:
        return ir.ExternalTensor(
            data.name, 0, data.stat().st_size, kind,
            shape=ir.Shape([2048]), name="kept", base_dir=str(tmp_path),
        )  # fmt: skip

    whole = ir.from_onnx_text(EVERYWHERE)
    kept = ir.Value(name="kept", const_value=weight())
    kept.type, kept.shape = ir.TensorType(kind), ir.Shape([2048])
    whole.graph.register_initializer(kept)
    whole.graph.node(0).replace_input_with(0, kept)
    constants = [node for node in whole.graph.all_nodes() if node.op_type == "Constant"]
    for node in constants:
        node.attributes["value"] = ir.AttrTensor("value", weight())
    feed = {"x": np.zeros(2048, np.float32), "c": np.array(True)}
    result = Reference(whole, provider="cpu").run(feed)["y"]
    np.testing.assert_array_equal(result, 3 * (np.arange(2048) % 2))
    assert len(constants) == 2
    assert isinstance(kept.const_value, ir.ExternalTensor)
    assert isinstance(constants[0].attributes["value"].as_tensor(), ir.ExternalTensor)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="NOT RUN: needs Linux and two cores",
)
def test_threads_stay_on_the_cores_that_the_process_may_use():
    """By itself, ONNX Runtime binds a thread to each core of the machine."""
    allowed = os.sched_getaffinity(0)
    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir())
    try:
        os.sched_setaffinity(0, {min(allowed)})
        reference = Reference(model(ADD), provider="cpu")
        made = set(tasks.iterdir()) - before
        assert all(os.sched_getaffinity(int(each.name)) == {min(allowed)} for each in made)
        del reference
    finally:
        os.sched_setaffinity(0, allowed)


def test_unoptimized_and_threads_are_accepted():
    reference = Reference(model(ADD), provider="cpu", optimize=False, threads=1)
    assert reference.run({"x": np.zeros((1, 2), np.float32), "k": np.array([1])})["z"] == 2


def test_cuda_is_never_replaced_by_the_cpu_without_a_word():
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        assert Reference(model(ADD), provider="cuda").provider == CUDA
    else:
        with pytest.raises(EnvironmentLacks, match="CUDA"):
            Reference(model(ADD), provider="cuda")
