"""Which way each weight is rounded, so that a layer's results change least.

The error of one output channel is a quadratic form in its weights, so rounding them up or down is
a quadratic unconstrained binary optimization (Nagel et al., "Up or down? Adaptive rounding for
post-training quantization", ICML 2020). The paper relaxes it and follows gradients; here weights
are flipped one after the other, each where that lowers the form, so it never rises. Updates of the
gradient are gathered in blocks, as in Frantar et al., "GPTQ", ICLR 2023 (lazy batch updates).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trtforge.artifacts import Array

_BLOCK = 128
"""Weights of a channel whose flips are gathered before the gradient of the others is updated."""
LARGEST = 127.0


@dataclass(frozen=True)
class Moments:
    """Sums over the rows that a layer multiplies: its exact inputs x and the quantized ones q."""

    quantized: Array
    """Sum of q qᵀ: float32[k, k]."""
    mixed: Array
    """Sum of q xᵀ: float32[k, k]."""

    @classmethod
    def of(cls, length: int) -> Moments:
        """Return the sums over no rows."""
        empty = (length, length)
        return cls(np.zeros(empty, np.float32), np.zeros(empty, np.float32))

    def add(self, exact: Array, quantized: Array) -> None:
        """Add rows, float32[rows, k], in place."""
        self.quantized[...] += quantized.T @ quantized
        self.mixed[...] += quantized.T @ exact


def choose_codes(
    weight: Array, scales: Array, moments: Moments, *, damping: float, sweeps: int
) -> Array:
    """Return the codes that make ``sum |codes * scale @ q - weight @ x|²`` small.

    Each is the number below or above ``weight / scale``; the start is the nearest one, and the sum
    (with the damping) is never larger than there.

    Args:
        weight: float32[n, k], one row per output channel.
        scales: float32[n], or float32[1].
        moments: Of the rows.
        damping: Part of the mean square of an input that is added to each, so that weights whose
            inputs the data hardly varies are not rounded far away.
        sweeps: How often all weights are gone through at most.

    Returns:
        float32[n, k], whole numbers from -127 to 127.
    """
    scales = np.broadcast_to(scales.reshape(-1, 1), (len(weight), 1)).astype(np.float32)
    ideal = np.clip(weight / scales, -LARGEST, LARGEST)
    codes: Array = np.rint(ideal)
    other = np.where(codes > ideal, np.floor(ideal), np.ceil(ideal))
    fixed = (codes == ideal) | (np.abs(codes) == LARGEST)  # the largest makes the scale
    other = np.where(fixed, codes, other)
    form = moments.quantized.copy()
    ridge = np.float32(damping * np.trace(form) / len(form))
    form[np.diag_indices_from(form)] += ridge
    # In units of codes: the gradient of the form at codes, halved.
    gradient = codes @ form - ((weight / scales) @ moments.mixed.T + ridge * (weight / scales))
    for _ in range(sweeps):
        if not _sweep(codes, other, gradient, form):
            break
    return codes


def _sweep(codes: Array, other: Array, gradient: Array, form: Array) -> int:
    """Flip what lowers the form, in place; return how many weights that were."""
    flipped = 0
    for first in range(0, codes.shape[1], _BLOCK):
        block = slice(first, min(first + _BLOCK, codes.shape[1]))
        local, own = gradient[:, block].copy(), form[block, block]
        changes = np.zeros_like(local)
        for index in range(local.shape[1]):
            change = other[:, first + index] - codes[:, first + index]
            gain = change * (2 * local[:, index] + change * own[index, index])
            change = np.where(gain < 0, change, np.float32(0))
            if not change.any():
                continue
            local += change[:, None] * own[index]
            changes[:, index] = change
        flipped += int(np.count_nonzero(changes))
        moved = changes != 0
        before = codes[:, block][moved]
        codes[:, block] += changes
        other[:, block][moved] = before
        gradient += changes @ form[block]
    return flipped
