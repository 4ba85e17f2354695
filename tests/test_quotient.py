"""Division by a scale before rounding to 8 bits: two products give what a division gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtforge import CustomOp, Launch, kernel_source
from trtforge.host_launch import ORDERS, launch_on_host

FLOAT8_MIDPOINTS = range(16, 32)
"""Leading bits of what lies halfway between neighbours in FP8 (of subnormal ones, too)."""
INT8_MIDPOINTS = range(1, 256, 2)
"""Twice what lies halfway between two integers."""


@dataclass(frozen=True)
class Divided(CustomOp):
    """Divides each float16 by the scale, in float32, as the kernels that quantize do."""

    name = "test::Divided"
    inputs = ("x", "scale: float32")
    outputs = ("y: float32",)
    dtypes = ("float16",)
    kernel = "divided.cu.jinja"
    function = """
        wide = Cast <to = 1> (x)
        y = Div (wide, scale)
    """

    def shapes(self, *inputs: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (inputs[0],)

    def launch(self, inputs: Any, outputs: Any, tactic: Any) -> Launch:
        return Launch(grid=-(-inputs[0][0] // 64), block=64, scalars=inputs[0])

    def reference(self, *inputs: Any) -> Any:
        return (inputs[0].astype(np.float32) / inputs[1],)


TEMPLATE = """
#include "trtforge/quotient.cuh"
extern "C" __global__ void {{ entry }}(const {{ T }}* x, const float* scale, int count, float* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float v = float(x[i]);
    y[i] = trtforge::extreme(*scale) ? v / *scale : trtforge::Quotient<{{ T }}>(*scale)(v);
}
"""


@pytest.fixture
def divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Divide as a kernel does, on the CPU: float16 values by a float32 scale."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_source.inspect, "getfile", lambda _: str(tmp_path / "module.py"))
    (tmp_path / Divided.kernel).write_text(TEMPLATE)

    def divide(values: Any, scale: float) -> Any:
        inputs: list[Any] = [np.asarray(values, np.float16), np.asarray(scale, np.float32)]
        return launch_on_host(Divided(), inputs, "float16", ORDERS[0])[0]

    return divide


def critical(midpoints: Iterable[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield v, scale, and how far v / scale is from where its rounding to float32 jumps.

    Only jumps beside a midpoint can be seen after rounding to 8 bits. v has 11 bits, the scale 24,
    a jump 25: of all scales the nearest to each is taken. The distance is ``numerator / v'``.
    """
    for midpoint in midpoints:
        wide = midpoint << (24 - midpoint.bit_length())
        jumps = [2 * wide - 1, 2 * wide + 1]
        if wide == 2**23:  # below a power of two floats are twice as dense
            jumps.append(4 * wide - 1)
        for jump in jumps:
            for shift in range(36, 40):
                for v in range(1024, 2048):
                    scale = (2 * (v << shift) + jump) // (2 * jump)
                    if 2**23 <= scale < 2**24:
                        yield v, scale, abs((v << shift) - scale * jump), v << shift


@pytest.mark.parametrize("midpoints", [FLOAT8_MIDPOINTS, INT8_MIDPOINTS], ids=["FP8", "INT8"])
def test_only_one_pair_is_nearer_than_two_to_the_minus_44_to_where_rounding_jumps(
    midpoints: Iterable[int], divide: Any
) -> None:
    near = [pair[:2] for pair in critical(midpoints) if 0 < pair[2] * 2**44 < pair[3]]
    assert near == [(1024, 2**24 - 1)]
    ((v, scale),) = near
    assert divide([v], scale)[0] == np.float32(v) / np.float32(scale)


def test_two_products_are_within_two_to_the_minus_45_of_one_over_the_scale() -> None:
    """The bound behind the search, in exact arithmetic."""
    rng = np.random.default_rng(0)
    for scale in (*rng.uniform(1, 2, 2000).astype(np.float32), np.float32(1), np.float32(1.5)):
        inverse = np.float32(1) / scale
        near = np.nextafter(inverse, np.float32(0), dtype=np.float32)
        remainder = 1 - Fraction(float(near)) * Fraction(float(scale))
        rest = np.float32(np.float32(float(remainder)) * inverse)
        error = (Fraction(float(near)) + Fraction(float(rest))) * Fraction(float(scale)) - 1
        assert abs(error) < Fraction(1, 2**45), scale
        assert rest > 0


@pytest.mark.parametrize("scale", [0.3, -7.0, 1.0, 2.0**-12, 448.0, 3e-21, 4e21, 16777215.0])
def test_all_values_of_float16_divided(scale: float, divide: Any) -> None:
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float32) / np.float32(scale)
    found = divide(values, scale)
    normal = (abs(expected) < 1e9) & (abs(expected) > 1e-30)
    np.testing.assert_array_equal(found[normal], expected[normal])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    far = abs(expected) >= 1e9  # saturates whatever it is
    np.testing.assert_array_equal(np.sign(found[far]), np.sign(expected[far]))
    assert (abs(found[far]) >= 1e8).all()
    small = abs(expected) <= 1e-30  # rounds to zero whatever it is
    assert (abs(found[small]) < 1e-29).all()
