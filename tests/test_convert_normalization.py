"""Normalizations: statistics as outputs, training mode, inputs without a spatial axis."""

from __future__ import annotations

import numpy as np
import onnx
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
from hypothesis.extra.numpy import arrays

HEADER = '<ir_version: 9, opset_import: ["" : 21]>'
LAYER_NORM = f"""{HEADER}
g (float16[2,3,4] x, float16[4] s, float16[4] b)
  => (float16[2,3,4] y, float[2,3,1] mean, float[2,3,1] inv)
{{ [norm] y, mean, inv = LayerNormalization <epsilon = 0.01> (x, s, b) }}"""
UNUSED_STATISTICS = f"""{HEADER}
g (float[2,3,4] x, float[4] s) => (float[2,3,4] y) {{ y, mean, inv = LayerNormalization (x, s) }}"""
ONLY_INVERSE = f"""{HEADER}
g (float[2,3,4] x, float[4] s) => (float[2,3,4] y, float[2,3,1] inv)
{{ y, "", inv = LayerNormalization (x, s) }}"""
TRAINING = f"""{HEADER}
g (float16[N,3,4] x, float16[3] s, float16[3] b, float[3] m, float[3] v)
  => (float16[N,3,4] y, float[3] mean, float[3] var)
{{ [norm] y, mean, var = BatchNormalization <training_mode = 1> (x, s, b, m, v) }}"""
FLAT_GROUPS = f"""{HEADER}
g (float[2,4] x, float[4] s, float[4] b) => (float[2,4] y)
{{ y = GroupNormalization <num_groups = 2> (x, s, b) }}"""


@pytest.mark.parametrize(
    "name", suite("layer_normalization", "batchnorm", "group_normalization", "instancenorm")
)
def test_suite_case_keeps_its_outputs(name: str) -> None:
    check_suite_case(name)


def test_layer_normalization_stays_one_node_beside_its_statistics() -> None:
    after, _, _ = convert(LAYER_NORM)
    (norm,) = [node for node in after.graph.node if node.op_type == "LayerNormalization"]
    assert list(norm.output) == ["y"]


def test_unused_statistics_are_not_computed() -> None:
    after, _, _ = convert(UNUSED_STATISTICS)
    assert [node.op_type for node in after.graph.node] == ["LayerNormalization"]


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3,4] x, float[4] s) => (float[2,3,4] y) { y = LayerNormalization (x, s) }",
        """(float[2,3] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3] y)
        { y = BatchNormalization (x, s, b, m, v) }""",
        """(float[2,4,5] x, float[4] s, float[4] b) => (float[2,4,5] y)
        { y = InstanceNormalization (x, s, b) }""",
    ],
)
def test_what_tensorrt_takes_is_not_touched(text: str) -> None:
    assert convert(f"{HEADER} g {text}")[1] == 0


PER_ELEMENT = """<ir_version: 4, opset_import: ["" : 8]>
g (float[N,3,4] x, float[3,4] s, float[3,4] b, float[3,4] m, float[3,4] v) => (float[N,3,4] y)
{ y = BatchNormalization <spatial = 0, epsilon = 0.01> (x, s, b, m, v) }"""


def test_statistics_of_each_element_are_written_out() -> None:
    random = np.random.default_rng(0)
    feeds = {name: random.uniform(0.5, 2, (3, 4)).astype(np.float32) for name in "sbmv"}
    feeds["x"] = random.standard_normal((2, 3, 4)).astype(np.float32)
    # a handful of roundings of 2**-24 of numbers up to 10
    _, count = check_same(PER_ELEMENT, feeds, rtol=1e-5, atol=1e-5)
    assert count == 1
    assert convert(PER_ELEMENT.replace("3,4] ", "3] ").replace("spatial = 0, ", ""))[1] == 0


def test_training_before_opset_14_is_refused() -> None:
    model = (
        '<ir_version: 7, opset_import: ["" : 9]> '
        "g (float[2,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3,4] y) "
        "{ [norm] y, a, c, d, e = BatchNormalization (x, s, b, m, v) }"
    )
    _, count, notes = convert(model)
    assert count == 0
    assert "before opset 14" in notes[0].text


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 3), elements=st.floats(-9, 9, width=32)),
    st.integers(-3, 2),
    st.sampled_from([(0, 1, 2), (0, 1), (0, 2)]),
)
def test_any_layer_normalization_keeps_its_statistics(
    x: np.ndarray, axis: int, wanted: tuple[int, ...]
) -> None:
    outputs = [name if index in wanted else "" for index, name in enumerate(("y", "mean", "inv"))]
    model = _layer_norm(x, axis, outputs)
    feeds = {"x": x, "s": np.linspace(0.5, 2, x[0, 0].size, dtype=np.float32)}
    feeds["s"] = np.broadcast_to(feeds["s"], x.shape[axis % 3 :]).copy()
    expected = reference(model, feeds)
    found = evaluate(convert(model)[0], feeds)
    # the reference takes the mean of squares less the squared mean: it cancels in float32
    assert_close(list(found.values()), list(expected.values()), rtol=1e-3, atol=1e-3)


def _layer_norm(x: np.ndarray, axis: int, outputs: list[str]) -> onnx.ModelProto:
    float32, shape = onnx.TensorProto.FLOAT, list(x.shape)
    axis_from_front = axis % 3
    small = shape[:axis_from_front] + [1] * (3 - axis_from_front)
    inputs = [("x", ["a", "b", shape[2]]), ("s", shape[axis_from_front:])]
    results = [(name, shape if name == "y" else small) for name in outputs if name]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("LayerNormalization", ["x", "s"], outputs, axis=axis, epsilon=0.1)],
        "g",
        *(
            [onnx.helper.make_tensor_value_info(name, float32, list(dims)) for name, dims in each]
            for each in (inputs, results)
        ),
    )
    return onnx.helper.make_model(
        graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 21)]
    )


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 3), elements=st.floats(-9, 9, width=32)),
    st.floats(0.0, 1.0, width=32),
)
def test_any_training_batch_normalization_keeps_its_outputs(x: np.ndarray, momentum: float) -> None:
    channels = x.shape[1]
    model = onnx.parser.parse_model(
        f"{HEADER} g (float[N,{channels},D] x, float[{channels}] s, float[{channels}] b, "
        f"float[{channels}] m, float[{channels}] v) => "
        f"(float[N,{channels},D] y, float[{channels}] mean, float[{channels}] var) "
        "{ y, mean, var = BatchNormalization <training_mode = 1, epsilon = 0.1> (x, s, b, m, v) }"
    )
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("momentum", momentum))
    ramp = np.linspace(0.5, 2, channels, dtype=np.float32)
    feeds = {"x": x, "s": ramp, "b": -ramp, "m": ramp, "v": ramp}
    expected = reference(model, feeds)
    found = evaluate(convert(model)[0], feeds)
    # sums of at most 16 values up to 81, whose order differs
    assert_close(list(found.values()), list(expected.values()), rtol=1e-4, atol=1e-4)


@needs_tensorrt
def test_tensorrt_builds_every_rule() -> None:
    forms = {
        "statistics": LAYER_NORM,
        "unused": UNUSED_STATISTICS,
        "inverse": ONLY_INVERSE,
        "training": TRAINING.replace("N,", "2,"),
        "flat groups": FLAT_GROUPS,
        "per element": PER_ELEMENT.replace("N,", "2,"),
    }
    build_converted(forms)
