"""Bit operators by arithmetic: every bit equal, for every integer type and every shift."""

from __future__ import annotations

import numpy as np
import pytest
from conversion import build_converted, check_same, check_suite_case, convert, needs_tensorrt, suite
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model

TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def model(op: str, kind: str, attributes: str = "") -> str:
    inputs = f"{kind}[n] x" if op == "BitwiseNot" else f"{kind}[n] x, {kind}[n] y"
    names = "x" if op == "BitwiseNot" else "x, y"
    return (
        '<ir_version: 10, opset_import: ["" : 22]> '
        f"g ({inputs}) => ({kind}[n] z) {{ z = {op} {attributes} ({names}) }}"
    )


def numbers(kind: str) -> st.SearchStrategy[int]:
    limits = np.iinfo(kind)
    edges = st.sampled_from([limits.min, limits.max, 0, 1, limits.max // 2 + 1])
    return edges | st.integers(int(limits.min), int(limits.max))


@pytest.mark.parametrize("name", suite("bitwise", "bitshift"))
def test_suite_case_keeps_its_outputs(name: str) -> None:
    after, count = check_suite_case(name)
    left = name == "bitshift_right_uint64"  # see test_right_shift_of_uint64_is_left
    assert count == (0 if left else 1)
    assert any(node.op_type.startswith("Bit") for node in after.graph.node) == left


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(TYPES), data=st.data())
def test_logic_is_the_same_bit_by_bit(op: str, kind: str, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(numbers(kind), numbers(kind)), min_size=1, max_size=9))
    left, right = np.asarray(pairs, dtype=kind).T
    after, _, _ = convert(model(op, kind))
    operation = {"And": np.bitwise_and, "Or": np.bitwise_or, "Xor": np.bitwise_xor}[op[7:]]
    found = run_model(after, {"x": left, "y": right})["z"]
    np.testing.assert_array_equal(found, operation(left, right))


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(TYPES), data=st.data())
def test_complement_is_the_same(kind: str, data: st.DataObject) -> None:
    values = np.asarray(data.draw(st.lists(numbers(kind), min_size=1, max_size=9)), dtype=kind)
    check_same(model("BitwiseNot", kind), {"x": values})


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(TYPES), data=st.data())
def test_shift_is_the_same(direction: str, kind: str, data: st.DataObject) -> None:
    if (direction, kind) == ("RIGHT", "uint64"):
        return  # refused
    width = np.iinfo(kind).bits
    least = -width if np.iinfo(kind).min else 0
    shifts = st.integers(least, min(2 * width, np.iinfo(kind).max))
    pairs = data.draw(st.lists(st.tuples(numbers(kind), shifts), min_size=1, max_size=9))
    values, by = [first for first, _ in pairs], [second for _, second in pairs]
    after, _, _ = convert(model("BitShift", kind, f'<direction="{direction}">'))
    feeds = {"x": np.asarray(values, kind), "y": np.asarray(by, kind)}
    found = run_model(after, feeds)["z"]
    expected = [shifted(value, shift, direction, width, least < 0) for value, shift in pairs]
    np.testing.assert_array_equal(found, np.asarray(expected, kind))


def shifted(value: int, shift: int, direction: str, width: int, signed: bool) -> int:
    """The shift in Python's unbounded integers, cut to the type."""
    if not 0 <= shift < width:
        return -1 if direction == "RIGHT" and value < 0 else 0
    if direction == "RIGHT":
        return value >> shift
    kept = (value << shift) % 2**width
    return kept - 2**width if signed and kept >= 2 ** (width - 1) else kept


def test_right_shift_of_uint64_is_left() -> None:
    _, count, notes = convert(model("BitShift", "uint64", '<direction="RIGHT">'))
    assert count == 0
    assert "orders 64-bit unsigned numbers" in notes[0].text


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    texts = {
        "and": model("BitwiseAnd", "int32"),
        "xor": model("BitwiseXor", "int64"),
        "not": model("BitwiseNot", "uint8"),
        "left": model("BitShift", "uint8", '<direction="LEFT">'),
        "right": model("BitShift", "int64", '<direction="RIGHT">'),
    }
    build_converted({name: text.replace("[n]", "[4]") for name, text in texts.items()})
