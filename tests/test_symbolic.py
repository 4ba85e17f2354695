"""Rules as expressions: they say for each size what the rule itself says."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import array_op_cases
import op_cases
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.op_testing import launches
from trtforge.ops import ceil_div
from trtforge.symbolic import CPlusPlus, Expression, NotSymbolic, Numbers, evaluate, trace


def numbers(value, shapes):
    """Put sizes into everything that a rule returned."""
    if isinstance(value, Expression):
        return evaluate(value, Numbers(shapes))
    if isinstance(value, tuple):
        return tuple(numbers(each, shapes) for each in value)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: numbers(getattr(value, name), shapes) for name in names})
    return value


def sizes(case):
    """Return the shapes of a case, which may also give the values."""
    return tuple(tuple(getattr(each, "shape", each)) for each in case)


def over(cases):
    return pytest.mark.parametrize(
        ("op", "cases"), cases, ids=[op_cases.name(op) for op, _ in cases]
    )


@over(op_cases.CASES)
def test_the_shapes_of_every_shipped_op_are_symbolic(op, cases):
    """A TensorRT plugin needs that much: TensorRT asks for its outputs' shapes as expressions."""
    for case in cases:
        shapes = sizes(case)
        assert numbers(trace(op.shapes, [len(s) for s in shapes]), shapes) == op.shapes(*shapes)


@over(op_cases.CASES[: -len(array_op_cases.CASES)])
def test_the_launches_of_ops_on_rows_and_images_are_symbolic(op, cases):
    """Those of ``array_op_cases`` choose kernels by loops over the sizes, as a plugin may: it knows
    them when it runs. A launch that is written into an engine could not."""
    for shapes in map(sizes, cases):
        tactic = op.tactic(op.dtypes[0], shapes)

        def rule(*inputs, tactic=tactic):
            outputs = op.shapes(*inputs)
            launched = launches(op, inputs, outputs, tactic)
            return outputs, launched, op.workspace(inputs, outputs)

        traced = trace(rule, [len(shape) for shape in shapes])
        assert numbers(traced, shapes) == rule(*shapes)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 9))
def test_branches_minima_and_quotients_are_followed(a, b, c):
    def rule(shape):
        x, y = shape
        wide = next((n for n in (8, 16, 32) if n * c >= x), 64)
        return (
            max(1, x - y), min(x, y), ceil_div(x, y), -x // y, x % y, c - x, wide,
            x if x != 3 and y >= 7 else y * c,
        )  # fmt: skip

    assert numbers(trace(rule, [2]), [(a, b)]) == rule((a, b))


def count_up(shape):
    count = 0
    while count < shape[0]:
        count += 1
    return count


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda shape: [0] * shape[0], "needs the number of d0.0 itself"),
        (lambda shape: (shape[0],) * (2 if shape[0] > 3 else 1), "the rule returns"),
        (count_up, "without end"),
    ],
)
def test_a_rule_that_is_not_symbolic_is_refused_with_the_reason(rule, reason):
    with pytest.raises(NotSymbolic, match=reason):
        trace(rule, [1])


def test_it_writes_c_plus_plus():
    (launched,) = trace(lambda shape: (max(1, ceil_div(shape[0], 4)),), [1])
    quotient = "ceilDiv(in(0, 0), INT64_C(4))"
    assert (
        evaluate(launched, CPlusPlus()) == f"((INT64_C(1) < {quotient}) ? {quotient} : INT64_C(1))"
    )
