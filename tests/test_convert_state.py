"""Operators that carry state: recurrent networks, caches, and the Slice that cuts them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import (
    assert_close,
    build_converted,
    check_suite_case,
    convert,
    evaluate,
    needs_tensorrt,
    reference,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

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
    forms = {op: recurrent(op, 2, layout=1) for op in GATES} | {"cache": circular, "slice": cut}
    build_converted(forms)
