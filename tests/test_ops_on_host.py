"""Kernels of the shipped ops, executed on the CPU with NaN, infinities and zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import op_cases
import pytest
import trtforge_ops as ops

from trtforge.op_testing import check_on_host, make_inputs

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)


def with_special_values(arrays: list[Any], rng: np.random.Generator) -> list[Any]:
    """Put special values at random places of the first input; its last row stays as it is."""
    first = arrays[0].copy()
    flat = first.reshape(-1)
    if first.dtype.kind not in "iub" and first.ndim and first.shape[0] > 1:
        places = rng.choice(first[:-1].size, min(len(SPECIAL), first[:-1].size), replace=False)
        flat[places] = np.array(SPECIAL[: len(places)], first.dtype)
    return [first, *arrays[1:]]


# How far a NaN spreads in a matrix depends on the order of the elimination.
DEFINED = [(op, cases) for op, cases in op_cases.CASES if not isinstance(op, ops.Det)]


@pytest.mark.parametrize(("op", "cases"), DEFINED, ids=[op_cases.name(op) for op, _ in DEFINED])
def test_special_values_go_through_as_the_reference_says(op: Any, cases: Any) -> None:
    rng = np.random.default_rng(1)
    for dtype in op.dtypes:
        inputs = with_special_values(make_inputs(op, cases[0], dtype, rng), rng)
        with np.errstate(all="ignore"):  # the reference computes with them, too
            check_on_host(op, inputs, dtype, atol=op_cases.tolerance(op))


def test_gelu_by_a_polynomial_is_near_for_every_float16() -> None:
    """What it may be off, see ``gelu_16_bit`` in ``fast.cuh``, and half a step of rounding."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    x = every[np.isfinite(every)].reshape(-1, 256)
    bias = np.zeros(256, np.float16)
    check_on_host(ops.BiasGelu(), [x, bias], "float16", rtol=2.0**-10, atol=4e-6)


# A template's other branches, and rows longer than the registers hold.
TACTICS = [
    (op, {"lanes": lanes, "items": 1, "early": early}, [(5, 1200), *more])
    for lanes, early in ((32, 1), (64, 0))
    for op, more in (
        (ops.RMSNorm(), [(1200,)]),
        (ops.AddRMSNorm(), [(5, 1200), (1200,)]),
        (ops.LayerNorm(), [(1200,), (1200,)]),
        (ops.RMSNormQuantize(), [(1200,), ()]),
    )
] + [
    (ops.InstanceNorm(), {"lanes": 64, "items": 1}, [(2, 3, 40, 30), (3,), (3,)]),
    (ops.MaskedSoftmax(), {"lanes": 64, "items": 1}, [(2, 3, 5, 1200), (2, 1, 1, 1200)]),
    *(
        (ops.GroupNorm(4, activation="silu"), tactic, [shape, (8,), (8,)])
        for tactic in (
            {"block": 256, "items": 2, "whole": 0, "kept": 0},
            {"block": 256, "items": 2, "whole": 1, "kept": 0},
            {"block": 256, "items": 2, "whole": 1, "kept": 12},
        )
        for shape in ((1, 8, 50, 60), (1, 8, 51, 61))
    ),
    *(
        (
            ops.GroupNormNHWC(4, activation="silu"),
            {"block": 256, "ahead": ahead},
            [(3, 20, 30, 8), (8,), (8,)],
        )
        for ahead in (2, 8)
    ),
]


@pytest.mark.parametrize(
    ("op", "tactic", "shapes"), TACTICS,
    ids=[f"{op.op_type}-{list(tactic.values())}-{shapes[0]}" for op, tactic, shapes in TACTICS],
)  # fmt: skip
def test_every_tactic_computes_what_the_reference_says(op, tactic, shapes, monkeypatch) -> None:
    monkeypatch.setattr(type(op), "tactic", lambda *_: tactic)
    inputs = make_inputs(op, shapes, "float16", np.random.default_rng(2))
    inputs[0] += np.float16(30)  # a mean far from zero
    check_on_host(op, inputs, "float16", atol=op_cases.tolerance(op))
