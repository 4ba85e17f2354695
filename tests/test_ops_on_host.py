"""Kernels of the shipped ops, executed on the CPU with NaN, infinities and zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import op_cases
import pytest
import sampling_op_cases
import trtforge_ops as ops

from trtforge.host_launch import ORDERS, launch_on_host
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


def test_products_of_deform_conv_have_21_bits() -> None:
    """One product a sum; the CPU cuts as tensor cores do (with parts in bfloat16: 18 bits)."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (1, 1, 16, 16)).astype(np.float32)
    weight = rng.uniform(1, 2, (64, 1, 1, 1)).astype(np.float32)
    places, mask = np.zeros((1, 2, 16, 16), np.float32), np.ones((1, 1, 16, 16), np.float32)
    inputs = [x, weight, places, mask, np.zeros(64, np.float32)]
    (y,) = launch_on_host(ops.DeformConv(), inputs, "float32", ORDERS[0])
    error = abs(y / (x.astype(np.float64) * weight.reshape(1, 64, 1, 1)) - 1)
    assert error.max() < 2.0**-21
    assert error.mean() < 2.0**-24


@pytest.mark.parametrize("scale", [1e-30, -3e25, 0.0])
@pytest.mark.parametrize(
    "op",
    [ops.QuantizeInt8(), ops.QuantizeFloat8(), ops.RMSNormQuantize()],
    ids=lambda op: op.op_type,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scales_far_from_one(op: Any, dtype: str, scale: float) -> None:
    """They are divided by in another way: the quick one would overflow, or lose bits."""
    shapes = [(3, 208), (208,), ()] if isinstance(op, ops.RMSNormQuantize) else [(3, 208), ()]
    inputs = make_inputs(op, shapes, dtype, np.random.default_rng(3))
    inputs[0] = (inputs[0].astype(np.float32) * max(abs(scale), 1e-30)).astype(inputs[0].dtype)
    inputs[-1] = np.float32(scale) * np.ones_like(inputs[-1])
    with np.errstate(all="ignore"):
        check_on_host(op, inputs, dtype, atol=op_cases.tolerance(op))


# A template's other branches: rows longer than the registers hold, and some that fill them just so,
# of which a block has four at once, or one.
TACTICS = [
    (op, {"lanes": lanes, "items": 1, "early": early}, [shape, *more])
    for lanes, early, shape in (
        *((32, 1, (5, 1200)), (64, 0, (5, 1200))),
        *((32, 1, (8, 256)), (32, 0, (6, 256)), (64, 1, (3, 512))),
    )
    for op, more in (
        (ops.RMSNorm(), [shape[1:]]),
        (ops.AddRMSNorm(), [shape, shape[1:]]),
        (ops.LayerNorm(), [shape[1:], shape[1:]]),
        (ops.RMSNormQuantize(), [shape[1:], ()]),
    )
] + [
    (
        ops.DeformConv(groups=2, offset_groups=2),
        {"strips": 1, "resident": 3},
        [(2, 72, 6, 21), (4, 36, 2, 3), (2, 24, 5, 19), (2, 12, 5, 19), (4,)],
    ),
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
        (ops.GroupNormNHWC(4, activation="silu"), tactic, [shape, shape[-1:], shape[-1:]])
        for tactic in (
            {"ahead": 4, "blocks": 132, "last": 0},
            {"ahead": 8, "blocks": 264, "last": 1},
        )
        for shape in ((3, 20, 30, 8), (2, 3, 2, 4104), (2, 30, 20, 36))  # 4104: more than a block
    ),
    (
        ops.MultiScaleDeformableAttention(levels=3),
        {"block": 1024, "at_once": 8, "unroll": 2, "rounds": 1},  # more threads than samples fit
        sampling_op_cases.attention(200, 1, 5),
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
