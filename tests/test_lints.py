"""Advice of `trtforge check`: each lint speaks on one model, and is silent on its twin.

The two models of a pair differ in what the lint is about, and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt.lints import HUGE, LINTS, lint

from trtforge import Request, ShapeRange


@dataclass(frozen=True)
class Pair:
    """A model on which a lint speaks, and its twin on which it does not."""

    code: str
    bad: str
    good: str
    where: tuple[str, ...]
    """Nodes or values that are named, in the model's order."""
    evidence: str
    """Part of what is said to have been found."""
    ranges: dict[str, str] = field(default_factory=dict)
    """Ranges of inputs of the good twin."""


def model(text: str, opset: int = 21) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}'


def with_constant(dtype: str, value: str, node: str = "Add (x, w)") -> str:
    return model(
        f"g ({dtype}[2] x) => ({dtype}[2] y) <{dtype}[1] w = {{{value}}}> {{ y = {node} }}"
    )


RELU = "g (float[2] x) => (float[2] y) { y = Relu (x) }"
UNUSED = "g (float[2] x) => (float[2] y) <float[1] w = {1}, float[1] v = {2}> { y = Add (x, w) }"
DYNAMIC = model("g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }")
TRIP = (
    "g (int64 n, float[2] x) => (float[K,2] y) <int64 three = {3}, bool c = {1}> "
    "{ [turns] y = Loop (three, c) <body = b (int64 i, bool ci) => (bool co, float[2] s) "
    "{ co = Identity (ci) s = Relu (x) }> }"
)
PRODUCT = """g (float[2,4] x, float[4,4] w) => (float[2,4] y) <float s = {0.5}> {
    qx = QuantizeLinear (x, s) dx = DequantizeLinear (qx, s)
    qw = QuantizeLinear (w, s) dw = DequantizeLinear (qw, s)
    [product] y = MatMul (dx, dw) }"""
ACTIVATION = """g (float[2,4] x, float[4,4] w) => (float[2,4] y) <float s = {0.5}> {
    a = MatMul (x, w) [q] qa = QuantizeLinear (a, s) [d] da = DequantizeLinear (qa, s)
    y = Relu (da) }"""
BEHIND = """g (float[2,4] x, float[4,4] w) => (float[2,4] y) <float s = {0.5}> {
    a = MatMul (x, w) r = Relu (a) [q] qa = QuantizeLinear (r, s)
    [d] y = DequantizeLinear (qa, s) }"""
SCALES = """g (float[2,4] x) => (float[2,4] y) <float[4] s = {1,1,1,1}> {
    [q] c = QuantizeLinear <axis = 1> (x, s) y = DequantizeLinear <axis = 1> (c, s) }"""
ONE_SCALE = SCALES.replace("float[4] s = {1,1,1,1}", "float s = {1}")
COMPUTED = """g (float[2,4] x, float t) => (float[2,4] y) <float u = {1}> {
    s = Abs (t) [q] c = QuantizeLinear (x, s) y = DequantizeLinear (c, u) }"""
LOOSE = """g (float[2,4] x) => (int8[2,4] y) <float s = {1}> {
    [q] c = QuantizeLinear (x, s) y = Abs (c) }"""

PAIRS = [
    Pair("old-opset", model(RELU, 12), model(RELU, 13), ("",), "opset 12"),
    Pair(
        "float64",
        model("g (double[2] x) => (double[2] y) { [n] y = Relu (x) }"),
        model("g (double[2] x) => (float[2] y) { [n] y = Cast <to = 1> (x) }"),
        ("n",),
        "float64",
    ),
    Pair(
        "integer-range",
        with_constant("int64", "2147483648"),
        with_constant("int64", "2147483647"),
        ("w",),
        "to 2147483648",
    ),
    Pair("unused-initializer", model(UNUSED), with_constant("float", "1"), ("v",), "4B"),
    Pair("input-without-range", DYNAMIC, DYNAMIC, ("x",), "[N,2]", {"x": "1x2:2x2:4x2"}),
    Pair(
        "float16-overflow",
        with_constant("float", "65536"),
        with_constant("float", "65504"),
        ("w",),
        "6.554e+04",
    ),
    Pair(
        "float16-overflow",
        with_constant("float", "0.00000001"),
        with_constant("float", "0.0000001"),
        ("w",),
        "below",
    ),
    Pair(
        "data-dependent-shape",
        model("g (float[4] x) => (int64[1,N] y) { [n] y = NonZero (x) }"),
        model("g (float[4] x) => (int64[1] y) { [n] y = Size (x) }"),
        ("n",),
        "depends on the data",
    ),
    Pair(
        "data-dependent-shape",
        model(TRIP.replace("Loop (three, c)", "Loop (n, c)")),
        model(TRIP),
        ("turns",),
        "not known beforehand",
    ),
    Pair(
        "qdq-misplaced",
        model(PRODUCT.replace("MatMul (dx, dw)", "MatMul (dx, w)")),
        model(PRODUCT),
        ("product",),
        "its first input is quantized and its second is not",
    ),
    Pair(
        "qdq-misplaced",
        model(PRODUCT.replace("MatMul (dx, dw)", "MatMul (x, dw)")),
        model(PRODUCT),
        ("product",),
        "its second input is quantized to 8 bits and its first is not",
    ),
    Pair("qdq-misplaced", model(ACTIVATION), model(BEHIND), ("q",), "between MatMul and Relu"),
    Pair("qdq-misplaced", model(SCALES), model(ONE_SCALE), ("q",), "4 scales for an activation"),
    Pair("qdq-misplaced", model(COMPUTED), model(ONE_SCALE), ("q",), "scale is not a constant"),
    Pair("qdq-misplaced", model(LOOSE), model(ONE_SCALE), ("q",), "without a DequantizeLinear"),
]
LARGE = ("huge-constant", "duplicated-initializer")
"""Their models are made by a program: text of that many numbers is no text to read."""


def found(graph: ir.Model, code: str, ranges: dict[str, str] | None = None):
    profile = {name: ShapeRange.read(text) for name, text in (ranges or {}).items()}
    request = Request("m.onnx", profiles=(profile,) if profile else ())
    return [finding for finding in lint(graph, request) if finding.code == code]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{p.code}-{i}" for i, p in enumerate(PAIRS)])
def test_a_lint_speaks_on_the_bad_model_and_not_on_its_twin(pair):
    findings = found(ir.from_onnx_text(pair.bad), pair.code)
    assert tuple(each.node for each in findings) == pair.where
    assert all(pair.evidence in each.evidence for each in findings)
    assert all(each.level == "advice" and each.remedies for each in findings)
    assert not found(ir.from_onnx_text(pair.good), pair.code, pair.ranges)


def with_arrays(node: str, **arrays: np.ndarray) -> ir.Model:
    """Return a model of one node that reads ``x`` and constants of these values."""
    graph = ir.from_onnx_text(model(f"g (float[N] x) => (float[M] y) {{ [n] y = {node} }}"))
    for name, array in arrays.items():
        value = next(v for v in graph.graph.node("n").inputs if v is not None and v.name == name)
        value.const_value = ir.Tensor(array, name=name)
        graph.graph.register_initializer(value)
    return graph


def test_a_huge_constant_is_named_unless_it_is_a_weight_or_a_byte_smaller():
    huge = np.zeros(HUGE // 4, np.float32)
    findings = found(with_arrays("Add (x, mask)", mask=huge), "huge-constant")
    assert [each.node for each in findings] == ["mask"]
    assert "64MiB of FLOAT" in findings[0].evidence
    assert not found(with_arrays("MatMul (x, mask)", mask=huge), "huge-constant")
    assert not found(with_arrays("Add (x, mask)", mask=huge[1:]), "huge-constant")


def test_a_huge_constant_may_be_a_node():
    graph = with_arrays("Add (x, mask)", mask=np.zeros(1, np.float32))
    attribute = ir.AttrTensor("value", ir.Tensor(np.zeros(HUGE // 4, np.float32)))
    node = ir.Node("", "Constant", [], [attribute], name="table")
    graph.graph.append(node)
    assert [each.node for each in found(graph, "huge-constant")] == ["table"]


def test_a_constant_of_the_same_values_is_named_with_its_first():
    values = np.arange(256, dtype=np.float32)
    code = "duplicated-initializer"
    findings = found(with_arrays("Sum (x, a, b)", a=values, b=values.copy()), code)
    assert [(each.node, each.evidence) for each in findings] == [("b", "the same as 'a'")]
    other = values.copy()
    other[-1] += 1
    assert not found(with_arrays("Sum (x, a, b)", a=values, b=other), code)
    small = values[:255]  # below a KiB nobody gains by merging them
    assert not found(with_arrays("Sum (x, a, b)", a=small, b=small.copy()), code)


def test_scales_and_bounds_are_no_values_that_overflow():
    """Scales of Q/DQ stay in float32, and a Slice may say `to the end` by a number beyond int32."""
    scale = with_constant("float", "100000", "Identity (x)").replace(
        "Identity (x)", "DequantizeLinear (c, w)"
    )
    scale = scale.replace("(float[2] x)", "(int8[2] c)")
    assert not found(ir.from_onnx_text(scale), "float16-overflow")
    bound = model(
        "g (float[4] x) => (float[N] y) <int64[1] a = {0}, int64[1] w = {9223372036854775807}> "
        "{ y = Slice (x, a, w) }"
    )
    assert not found(ir.from_onnx_text(bound), "integer-range")


def test_weights_alone_may_be_in_four_bits():
    text = """g (float[2,4] x, int4[4,4] c) => (float[2,4] y) <float s = {0.5}> {
        w = DequantizeLinear (c, s) [product] y = MatMul (x, w) }"""
    assert not found(ir.from_onnx_text(model(text)), "qdq-misplaced")
    eight = text.replace("int4", "int8")
    assert [each.node for each in found(ir.from_onnx_text(model(eight)), "qdq-misplaced")]


def test_every_lint_has_a_test_here():
    assert {pair.code for pair in PAIRS} | set(LARGE) == {each.code for each in LINTS}
