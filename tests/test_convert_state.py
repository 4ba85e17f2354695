"""Operators that carry state: recurrent networks, caches, and the Slice that cuts them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conversion import (
    assert_close,
    build_converted,
    check_same,
    check_suite_case,
    convert,
    evaluate,
    needs_tensorrt,
    reference,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.reference import Reference

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("name", suite("gru", "lstm", "simple_rnn", "tensorscatter"))
def test_suite_case_keeps_its_outputs(name: str) -> None:
    _, count = check_suite_case(name)
    assert count == (name.endswith("_batchwise") or name in {"tensorscatter_3d", CIRCULAR})


CIRCULAR = "tensorscatter_circular"


def recurrent(op: str, directions: int, layout: int) -> str:
    """A recurrent node with states, 2 samples of 3 steps of 4 numbers, 5 hidden ones."""
    gates, direction = GATES[op], "bidirectional" if directions == 2 else "forward"
    first = "2,3" if layout else "3,2"
    state = f"2,{directions}" if layout else f"{directions},2"
    all_steps = f"2,3,{directions}" if layout else f"3,{directions},2"
    cell = op == "LSTM"
    return f"""<ir_version: 8, opset_import: ["" : 14]>
    g (float[{first},4] x, float[{directions},{gates * 5},4] w, float[{directions},{gates * 5},5] r,
       float[{state},5] h{f", float[{state},5] c" if cell else ""})
      => (float[{all_steps},5] y, float[{state},5] last{f", float[{state},5] cell" if cell else ""})
    {{ y, last{", cell" if cell else ""} =
       {op} <hidden_size = 5, layout = {layout}, direction = "{direction}">
       (x, w, r, "", "", h{", c" if cell else ""}) }}"""


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_batch_first_is_time_first_transposed(op: str, directions: int) -> None:
    """The network after is run with the batch second, and held to ONNX Runtime's own."""
    after, count, _ = convert(recurrent(op, directions, layout=1))
    assert count == 1
    plain, none, _ = convert(recurrent(op, directions, layout=0))
    assert none == 0
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.standard_normal(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in plain.graph.input
    }
    expected = evaluate(plain, feeds)
    swapped = {name: array.swapaxes(0, 1) for name, array in feeds.items() if name in "xhc"}
    found = evaluate(after, {**feeds, **swapped})
    # the same kernel on the same numbers
    assert_close([found["y"]], [expected["y"].transpose(2, 0, 1, 3)], rtol=0, atol=0)
    assert_close([found["last"]], [expected["last"].swapaxes(0, 1)], rtol=0, atol=0)


COUPLED = """<ir_version: 8, opset_import: ["" : 14]>
g (float[3,2,4] x, float[D,20,4] w, float[D,20,5] r, float[D,40] b, float[D,2,5] h, float[D,2,5] c,
   float[D,15] p) => (float[3,D,2,5] y, float[D,2,5] last, float[D,2,5] cell)
{ y, last, cell = LSTM <hidden_size = 5, input_forget = 1, CLIP direction = "WAY">
  (x, w, r, BIAS, "", h, c, PEEPHOLES) }"""


@pytest.mark.parametrize("way", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("clip", ["", "clip = 0.5,"])
@pytest.mark.parametrize("optional", [("b", "p"), ("b", '""'), ('""', "p")])
def test_coupled_gates_become_a_forget_gate(way: str, clip: str, optional: tuple[str, str]) -> None:
    text = COUPLED.replace("WAY", way).replace("D,", f"{1 + (way == 'bidirectional')},")
    text = text.replace("CLIP", clip).replace("BIAS", optional[0]).replace("PEEPHOLES", optional[1])
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.standard_normal(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in model.graph.input
    }
    # 1 - sigmoid(x) and sigmoid(-x) round differently, by 2**-24, in three steps
    _, count = check_same(text, feeds, rtol=1e-5, atol=1e-6)
    assert count == 1


def test_coupled_gates_that_are_no_sigmoids_are_refused() -> None:
    text = COUPLED.replace("WAY", "forward").replace("D,", "1,").replace("BIAS", "b")
    activations = 'activations = ["HardSigmoid", "Tanh", "Tanh"],'
    _, count, notes = convert(text.replace("CLIP", activations).replace("PEEPHOLES", "p"))
    assert count == 0
    assert "no sigmoids" in notes[0].text


BFLOAT_GRU = recurrent("GRU", 2, layout=0).replace("float[", "bfloat16[").replace("14", "22")


def test_a_gru_of_bfloat16_is_computed_in_float32() -> None:
    after, count, _ = convert(BFLOAT_GRU)
    assert count == 1
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.standard_normal(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ).astype(ml_dtypes.bfloat16)
        for value in after.graph.input
    }
    wide = onnx.parser.parse_model(BFLOAT_GRU.replace("bfloat16[", "float["))
    expected = evaluate(wide, {name: array.astype(np.float32) for name, array in feeds.items()})
    found = Reference(ir.from_proto(after)).run(feeds)
    for name, array in expected.items():  # the same numbers, rounded once
        np.testing.assert_array_equal(found[name], array.astype(ml_dtypes.bfloat16))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 4), st.integers(1, 4), st.sampled_from(["linear", "circular"]),
    st.integers(2, 4), st.integers(-3, 3), st.booleans(), st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_cache_keeps_its_outputs(  # noqa: PLR0917  # one argument per option of the operator
    sizes: tuple[int, ...], new: int, mode: str, rank: int, axis: int, opened: bool, random: object
) -> None:
    axis = max(1, axis % rank)
    cache = np.arange(np.prod(sizes[:rank]), dtype=np.float32).reshape(sizes[:rank])
    new = min(new, cache.shape[axis])
    update = -1 - np.take(cache, range(new), axis)
    room = cache.shape[axis] - (new if mode == "linear" else 1)
    starts = np.array([random.randint(0, room) for _ in range(sizes[0])])  # type: ignore[attr-defined]
    feeds = {"cache": cache, "update": update, "starts": starts}
    node = onnx.helper.make_node("TensorScatter", ["relu", "update", "starts"], ["y"])
    node.attribute.append(onnx.helper.make_attribute("axis", axis))
    node.attribute.append(onnx.helper.make_attribute("mode", mode))
    inputs = [
        onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"{name}{i}" for i in range(array.ndim)] if opened else array.shape,
        )
        for name, array in feeds.items()
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * rank)
    relu = onnx.helper.make_node("Relu", ["cache"], ["relu"])
    graph = onnx.helper.make_graph([relu, node], "g", inputs, [output])
    opset = onnx.helper.make_opsetid("", 24)
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset])
    after, count, _ = convert(model)
    assert count == 1
    found, expected = evaluate(after, feeds), reference(model, feeds)
    assert_close([found["y"]], [expected["y"]], rtol=0, atol=0)  # it only moves numbers


INT32_SLICE = """<ir_version: 8, opset_import: ["" : 13]>
g (float[4,8] x, int32[1] from, int32[1] to) => (float[a,8] y, float[2,8] z)
<int32[1] start = {1}, int32[1] end = {3}, int32[1] axis = {0}>
{ y = Slice (x, from, to, axis)  z = Slice (x, start, end, axis) }"""


def test_int32_bounds_cut_the_same() -> None:
    after, count, _ = convert(INT32_SLICE)
    assert count == 2
    feeds = {
        "x": np.arange(32, dtype=np.float32).reshape(4, 8),
        "from": np.array([-3], np.int32),
        "to": np.array([2**31 - 1], np.int32),
    }
    expected = evaluate(onnx.parser.parse_model(INT32_SLICE), feeds)
    assert_close(list(evaluate(after, feeds).values()), list(expected.values()), 0, 0)


@needs_tensorrt
def test_tensorrt_builds_every_rule() -> None:
    circular = """<ir_version: 10, opset_import: ["" : 24]>
    g (float16[2,3,8,4] c, float16[2,3,2,4] u, int64[2] w) => (float16[2,3,8,4] y)
    { y = TensorScatter <mode = "circular"> (c, u, w) }"""
    cut = INT32_SLICE.replace("from, to, axis", "start, end, axis").replace("[a,8]", "[2,8]")
    coupled = COUPLED.replace("WAY", "bidirectional").replace("D,", "2,").replace("CLIP", "")
    coupled = (
        coupled.replace("BIAS", "b").replace("PEEPHOLES", '""').replace(",\n   float[2,15] p", "")
    )
    forms = {op: recurrent(op, 2, layout=1) for op in GATES} | {"cache": circular, "slice": cut}
    forms |= {"coupled": coupled, "bfloat16": BFLOAT_GRU}
    build_converted(forms)
