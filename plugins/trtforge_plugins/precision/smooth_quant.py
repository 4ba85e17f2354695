"""Step ``smooth-quant``: what is hard to quantize moves from activations into weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import onnx_ir as ir
from pydantic import Field

from trtforge import Batches, Context, Pass, Ranges, StepError
from trtforge.graph import constant, label
from trtforge.reference import Provider
from trtforge_plugins.precision.channel_scaling import divide_channels, multiply_weight
from trtforge_plugins.precision.placement import Point, place
from trtforge_plugins.precision.product_error import ProductError, as_matrix
from trtforge_plugins.precision.sampled_rows import Rows, sample_rows

if TYPE_CHECKING:
    from trtforge.artifacts import Array

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Tried where ``alpha`` is not given."""
WORTH_IT = 0.8
"""Part of the error that may remain; else the tensor stays as it is."""

LARGEST_LOG = 12 * float(np.log(2.0))
"""Factors stay within 1/4096 and 4096, so that float16 holds what they are folded into."""
SAME = 1e-3
"""Factors this near to 1 change nothing that 8 bits could show."""


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divide channels of activations that are much larger than others, multiply weights instead.

    The product of a MatMul or Gemm stays the same in exact arithmetic, but one INT8 scale now fits
    all channels of its input (Xiao et al., "SmoothQuant", ICML 2023, equation 4). The division goes
    into the LayerNormalization, the product or the constant factor before it; where something else
    reads the tensor, as the residual Add of a transformer does, a Mul is added on the branch.
    """

    name = "smooth-quant"
    needs = (Batches,)
    checkpoint = True

    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """How much of the difficulty goes into the weights, 0 to 1; unset: for each tensor what gives
    the smallest error of its products on the data, or nothing where that helps little."""
    provider: Provider = "auto"
    """Where ONNX Runtime runs: `cpu`, `cuda`, or `auto`: CUDA where it works."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Return the number of tensors that were smoothed.

        Raises:
            StepError: a calibrator came before, the model does not run on the data, or a tensor
                holds NaN or Inf.
        """
        if ctx.find(Ranges) is not None:
            raise StepError(
                "it changes tensors whose ranges were already chosen",
                remedy="put smooth-quant before the calibrator",
            )
        groups = dict(_groups(model, ctx))
        rows = sample_rows(model, list(groups), ctx.get(Batches), ctx, self.provider)
        done = 0
        for index, (tensor, points) in enumerate(groups.items()):
            ctx.progress.update("smoothing", index, len(groups))
            factors = self._factors(points, rows[tensor])
            if factors is None:
                ctx.note(str(tensor.name), "its channels are left as they are: no scale is better")
                continue
            divide_channels(model.graph, tensor, factors, points)
            for point in points:
                multiply_weight(model.graph, point, factors)
            done += 1
        return done

    def _factors(self, points: Sequence[Point], rows: Rows) -> Array | None:
        """Return what to divide the channels by: float32[channels]; None: leave them."""
        weights = [as_matrix(point) for point in points]
        if self.alpha is not None:
            factors = smoothing_factors(rows.amax, weights, self.alpha)
            return None if np.allclose(factors, 1, rtol=SAME) else factors
        error = ProductError(rows, weights, [point.axis is not None for point in points])
        choices = [smoothing_factors(rows.amax, weights, alpha) for alpha in ALPHAS]
        errors = [error.of(factors) for factors in choices]
        best = int(np.argmin(errors))
        return choices[best] if errors[best] < WORTH_IT * error.of(None) else None


def smoothing_factors(amax: Array, weights: Sequence[Array], alpha: float) -> Array:
    """Return ``amax**alpha / wmax**(1 - alpha)`` per channel, scaled to a geometric mean of 1.

    Args:
        amax: Largest magnitude of each channel of the activation: float32[channels].
        weights: Matrices [channels, outputs] that the activation is multiplied by.
        alpha: 0 equalizes the rows of the weights, 1 the channels of the activation.
    """
    wmax = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0).astype(np.float64)
    used = (amax > 0) & (wmax > 0)  # a dead channel needs no factor
    if not used.any():
        return np.ones(len(amax), np.float32)
    amax, wmax = np.where(used, amax, 1.0), np.where(used, wmax, 1.0)
    logs = alpha * np.log(amax) - (1 - alpha) * np.log(wmax)
    logs = np.where(used, logs - logs[used].mean(), 0.0)
    return np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG)).astype(np.float32)


def _groups(model: ir.Model, ctx: Context) -> Iterator[tuple[ir.Value, list[Point]]]:
    """Yield each activation of matrix products that all have a weight of their own."""
    found: dict[ir.Value, list[Point]] = {}
    for point in place(model).points:
        if point.rule == "matrix-product":
            found.setdefault(point.tensor, []).append(point)
    for tensor, points in found.items():
        reason = next(filter(None, map(_why_not, points)), None)
        if reason:
            ctx.note(str(tensor.name), reason)
        else:
            yield tensor, points


def _why_not(point: Point) -> str | None:
    weight = np.asarray(constant(point.constant))
    if weight.dtype != np.float32:
        return f"the weight of {label(point.node)} is {weight.dtype}; float32 is expected"
    if not np.isfinite(weight).all():
        return f"the weight of {label(point.node)} has a NaN or infinite entry"
    return None
