"""Casts, quantization and integer products: TensorRT takes the result, all outputs stay equal."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from conversion import assert_close, case, convert, evaluate, needs_tensorrt, reference, suite
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from layer_dumps import build_dumps
from trtforge_plugins.convert import WidenTypes
from trtforge_plugins.convert.number_types import GRIDS, rounded

from trtforge.reference import Reference
from trtforge.testing import apply, run_model

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(
    "name",
    suite("cast_", "castlike_", "bitcast_", "quantizelinear", "dequantizelinear", "qlinear",
          "matmulinteger", "convinteger", "dynamicquantize"),
)  # fmt: skip
def test_suite_case_keeps_its_outputs(name: str) -> None:
    """Values of types that numpy lacks are TensorProto in the suite; the reference takes them."""
    given_case = case(name)
    after, _, _ = convert(given_case.model)
    names = [value.name for value in after.graph.input]
    for inputs, expected in given_case.data_sets:
        feeds = dict(zip(names, map(as_array, inputs), strict=True))
        wanted = list(map(as_array, expected))
        # 1: numpy has the type itself, so ONNX Runtime takes its arrays
        plain = all(array.dtype.isbuiltin == 1 for array in (*feeds.values(), *wanted))
        found = (evaluate if plain else reference)(after, feeds)
        assert_close(list(found.values()), wanted, given_case.rtol, 1e-7)


def as_array(value: Any) -> np.ndarray[Any, Any]:
    is_proto = isinstance(value, onnx.TensorProto)
    return onnx.numpy_helper.to_array(value) if is_proto else np.asarray(value)


def widened(text: str, interface: str = "keep") -> tuple[ir.Model, int]:
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    after, count, _ = apply(WidenTypes(interface=interface), proto)  # type: ignore[arg-type]  # a parameter
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert apply(WidenTypes(interface=interface), after)[1] == 0  # type: ignore[arg-type]  # as above
    return after, count


def numbers(dtype: str, size: int = 12) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Any values of the type, its ends among them."""
    return arrays.arrays(np.dtype(dtype), size)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "Div", "Mod"])
@few
@given(data=st.data())
def test_arithmetic_of_widened_types_wraps_as_theirs(
    dtype: str, op: str, data: st.DataObject
) -> None:
    text = f"{HEAD} g ({dtype}[12] a, {dtype}[12] b) => ({dtype}[12] y) {{ y = {op} (a, b) }}"
    after, count = widened(text, "adapt")
    first, second = data.draw(numbers(dtype)), data.draw(numbers(dtype))
    if op in ("Div", "Mod"):
        second = np.where(np.isin(second, (0, np.asarray(-1).astype(dtype))), 1, second)
        second = second.astype(dtype)
    numpy_op = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum,
                "Min": np.minimum, "Mod": np.mod}  # fmt: skip
    with np.errstate(over="ignore"):
        expected = numpy_op[op](first, second) if op != "Div" else truncated(first, second)
    found = Reference(after, provider="cpu").run({"a": first, "b": second})["y"]
    assert count > 0
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, expected)


def truncated(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ONNX divides integers towards zero; Python's numbers have no largest one."""
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    quotients = [abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) for a, b in pairs]
    return np.array(quotients, dtype=first.dtype)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
@few
@given(data=st.data())
def test_float8e8m0_takes_the_power_of_two_that_the_mode_says(
    mode: str, saturate: int, data: st.DataObject
) -> None:
    """ONNX's own conversion is the judge; any float32 may come, also NaN and denormal numbers."""
    after, count = widened(
        '<ir_version: 13, opset_import: ["" : 24]> g (float[12] x) => (float[12] y)'
        f' {{ p = Cast <to = 24, round_mode = "{mode}", saturate = {saturate}> (x)'
        " y = Cast <to = 1> (p) }",
    )
    assert count
    assert all(value.dtype != ir.DataType.FLOAT8E8M0 for value in all_values(after))
    x = data.draw(arrays.arrays(np.float32, 12, elements=st.floats(width=32)))
    bits = onnx.numpy_helper.to_float8e8m0(x, bool(saturate), mode)
    np.testing.assert_array_equal(run_model(after, {"x": x})["y"], bits.astype(np.float32))


def test_an_input_of_float8e8m0_becomes_float32_by_an_adapter() -> None:
    text = """<ir_version: 13, opset_import: ["" : 24]> g (float8e8m0[4] x) => (float16[4] y)
        { y = Cast <to = 10> (x) }"""
    after, _ = widened(text, "adapt")
    assert [value.dtype for value in after.graph.inputs] == [ir.DataType.FLOAT]
    x = np.array([2.0**-127, 0.25, 8.0, np.nan], np.float32)
    np.testing.assert_array_equal(run_model(after, {"x": x})["y"], x.astype(np.float16))


def all_values(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs]


@pytest.mark.parametrize("dtype", sorted(GRIDS, key=str), ids=str)
@few
@given(values=arrays.arrays(np.float32, 16))
def test_rounding_to_narrow_floats_is_that_of_ml_dtypes(
    dtype: ir.DataType, values: np.ndarray[Any, Any]
) -> None:
    """ml_dtypes does not saturate, so finite values beyond the largest are compared to it."""
    from trtforge_plugins.convert.builder import Builder

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([16]))
    build = Builder(ir.node("Identity", [x], name="n"), 21, "test")
    y = rounded(build, x, dtype)
    graph = ir.Graph([x], [y], nodes=build.nodes, opset_imports={"": 21}, name="g")
    found = run_model(ir.Model(graph, ir_version=10), {"x": values})[y.name or ""]
    largest, kind = GRIDS[dtype].largest, dtype.numpy()
    expected = np.clip(values, -largest, largest).astype(kind).astype(np.float32)
    known = ~np.isnan(values)
    np.testing.assert_array_equal(found[known], expected[known])
    if GRIDS[dtype].has_nan:
        assert np.isnan(found[~known]).all()


@few
@given(data=st.data(), axis=st.sampled_from([0, 1, -1]), dtype=st.sampled_from(["uint8", "int8"]))
def test_quantization_with_zero_points_is_that_of_onnx_runtime(
    data: st.DataObject, axis: int, dtype: str
) -> None:
    size = 3 if axis == 0 else 4
    text = f"""{HEAD} g (float[3,4] x, float[{size}] s, {dtype}[{size}] z)
        => ({dtype}[3,4] q, float[3,4] y)
        {{ q = QuantizeLinear <axis = {axis}> (x, s, z)
           y = DequantizeLinear <axis = {axis}> (q, s, z) }}"""
    after, count, _ = convert(text)
    assert count == 2
    floats = st.floats(-(2.0**90), 2.0**90, width=32)
    feeds = {
        "x": data.draw(arrays.arrays(np.float32, (3, 4), elements=floats)),
        "s": data.draw(
            arrays.arrays(np.float32, size, elements=st.floats(2.0**-10, 2.0**10, width=32))
        ),
        "z": data.draw(numbers(dtype, size)),
    }
    before = run_model(onnx.parser.parse_model(text), feeds)
    for name, array in run_model(after, feeds).items():
        np.testing.assert_array_equal(array, before[name])


@few
@given(data=st.data(), kinds=st.sampled_from([("uint8", "int8"), ("uint8", "uint8")]),
       inner=st.sampled_from([1, 8, 300, 1000]))  # fmt: skip
def test_integer_products_are_exact(
    data: st.DataObject, kinds: tuple[str, str], inner: int
) -> None:
    a, b = kinds
    text = f"""{HEAD} g ({a}[2,{inner}] a, {b}[{inner},3] b, {a} za, {b} zb) => (int32[2,3] y)
        {{ y = MatMulInteger (a, b, za, zb) }}"""
    after, count, _ = convert(text)
    assert count == 1
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    limits = [np.iinfo(kind) for kind in (a, b)]
    shapes = ((2, inner), (inner, 3), (), ())
    feeds = {
        name: random.integers(limit.min, limit.max, shape, endpoint=True).astype(limit.dtype)
        for name, shape, limit in zip(("a", "b", "za", "zb"), shapes, limits * 2, strict=True)
    }
    first, second, zero, other = (each.astype(np.int64) for each in feeds.values())
    exact = (first - zero) @ (second - other)
    np.testing.assert_array_equal(run_model(after, feeds)["y"], exact)


def test_many_products_of_nine_bits_are_refused() -> None:
    text = f"""{HEAD} g (uint8[2,9000] a, uint8[9000,3] b) => (int32[2,3] y)
        {{ y = MatMulInteger (a, b) }}"""
    _, count, notes = convert(text)
    assert count == 0
    assert "9000 products" in notes[0].text


def test_a_cast_that_drops_bits_is_not_taken_for_one_that_does_not() -> None:
    after, _ = widened(
        f"{HEAD} g (int32[3] x) => (int32[3] y) {{ n = Cast <to = 2> (x) y = Cast <to = 6> (n) }}"
    )
    found = evaluate(ir.to_proto(after), {"x": np.array([-1, 255, 256], np.int32)})["y"]
    np.testing.assert_array_equal(found, [255, 255, 0])


BUILT = {
    "cast-like": "g (float[4] x, int32[1] l) => (int32[4] y) { y = CastLike (x, l) }",
    "quantized-cast": "g (float[4] x) => (float[4] y) { q = Cast <to=17> (x) y = Cast <to=1> (q) }",
    "bit-cast": "g (int8[4] x) => (uint8[4] y) { y = BitCast <to=2> (x) }",
    "bit-cast of floats": "g (float[4] x) => (int32[4] y) { y = BitCast <to=6> (x) }",
    "bit-cast to floats": "g (int32[4] x) => (float[4] y) { y = BitCast <to=1> (x) }",
    "quantize": "g (float[4] x, float s, uint8 z) => (uint8[4] y) { y = QuantizeLinear (x, s, z) }",
    "dequantize": "g (uint8[4] x, float s) => (float[4] y) { y = DequantizeLinear (x, s) }",
    "dynamic-quantize": "g (float[4] x) => (uint8[4] y, float s, uint8 z) "
    "{ y, s, z = DynamicQuantizeLinear (x) }",
    "integer-product": "g (uint8[2,8] a, int8[8,4] b) => (int32[2,4] y) { y=MatMulInteger (a,b) }",
    "widen-types": "g (uint8[4] a, uint8[4] b) => (uint8[4] y) { y = Add (a, b) }",
}


@needs_tensorrt
def test_tensorrt_builds_what_each_rule_makes() -> None:
    jobs = {}
    for name, body in BUILT.items():
        opset = 26 if name.startswith("bit-cast") else 21  # BitCast came with 26
        proto, count, _ = convert(f'<ir_version: 10, opset_import: ["" : {opset}]> {body}')
        wide, more, _ = apply(WidenTypes(), onnx.shape_inference.infer_shapes(proto))
        assert count + more > 0, name
        jobs[name] = (ir.to_proto(wide), ("SM89",))
    assert set(build_dumps(jobs)) == set(BUILT)


BITS = """<ir_version: 13, opset_import: ["" : 26]>
g (float[n] x, int32[n] b) => (int32[n] bits, float[n] numbers)
{ bits = BitCast <to = 6> (x)  numbers = BitCast <to = 1> (b) }"""
EDGES = [0, 1, 0x7FFFFF, 0x800000, 0x800001, 0x3F7FFFFF, 0x3F800000, 0x7F7FFFFF, 0x7F800000]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from(EDGES)), min_size=1, max_size=50
    )
)
def test_any_bits_of_float32_are_read_and_made(bits: list[int]) -> None:
    bits = [*bits, *EDGES, *(each - 2**31 for each in EDGES)]
    array = np.array(bits, np.int32)
    after, count, _ = convert(BITS)
    assert count == 2
    numbers = array.view(np.float32)
    found = evaluate(after, {"x": numbers, "b": array})
    quiet = np.where(np.isnan(numbers), 0x7FC00000, array)
    np.testing.assert_array_equal(found["bits"], quiet)
    same = found["numbers"].view(np.int32) == array
    assert (same | (np.isnan(numbers) & np.isnan(found["numbers"]))).all()


def test_float8_of_ml_dtypes_has_the_sizes_of_the_grids() -> None:
    for dtype, grid in GRIDS.items():
        about = ml_dtypes.finfo(dtype.numpy())
        assert (float(about.max), about.nmant) == (grid.largest, grid.mantissa)
        assert float(about.smallest_normal) == 2.0**grid.least
