"""A few rows of each activation, and the largest magnitude of each channel over all data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context, StepError
from trtforge.reference import Provider
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.observe import observe
from trtforge_plugins.precision.qdq_writer import FLOATS

if TYPE_CHECKING:
    from trtforge.artifacts import Array

ROWS = 512
"""Rows kept of each tensor; more did not change a choice on all-MiniLM-L6-v2."""


@dataclass(frozen=True)
class Rows:
    """What is kept of one tensor, whose channels are on its last axis."""

    sample: Array
    """float32[rows, channels], evenly spaced over the data."""
    amax: Array
    """Largest magnitude of each channel over all data: float32[channels]."""


def sample_rows(
    model: ir.Model,
    tensors: Sequence[ir.Value],
    batches: Batches,
    ctx: Context,
    provider: Provider = "auto",
) -> dict[ir.Value, Rows]:
    """Run ``model`` on all ``batches`` and keep some rows of ``tensors``.

    Memory is bounded by the sample and by one part of a batch.

    Raises:
        StepError: there is no data, the model does not run on it, or a tensor holds NaN or Inf.
    """
    types = element_types(model)
    wanted = {value: types[value] for value in tensors if types.get(value) in FLOATS}
    kept: dict[str, list[Array]] = {}
    amax: dict[str, Array] = {}
    if not wanted:
        return {}
    count = len(batches.feeds)
    share = -(-ROWS // max(count, 1))
    for seen in observe(model, wanted, batches, provider=provider):
        ctx.progress.update("sampling activations", seen.batch, count)
        for name, tensor in seen.tensors.items():
            array = on_cpu(tensor)
            rows = array.reshape(-1, array.shape[-1])
            if not len(rows):
                continue
            _check_finite(name, rows, f"batch {seen.batch} of {batches.source}")
            largest = np.abs(rows).max(axis=0).astype(np.float32)
            amax[name] = np.maximum(amax.get(name, 0), largest)
            step = max(1, len(rows) // share)
            kept.setdefault(name, []).append(rows[::step][:share].astype(np.float32))
    if not kept:
        raise StepError(f"{batches.source} holds no values to look at")
    return {
        value: Rows(_evenly(np.concatenate(kept[name])), amax[name])
        for value in wanted
        if (name := str(value.name)) in kept
    }


def on_cpu(array: Any) -> Array:
    """Return a NumPy array of what may be a CuPy one."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def _evenly(rows: Array) -> Array:
    return rows[:: -(-len(rows) // ROWS)]


def _check_finite(name: str, rows: Array, where: str) -> None:
    if not np.isfinite(rows).all():
        kind = "NaN" if np.isnan(rows).any() else "Inf"
        raise StepError(
            f"tensor {name!r} holds {kind} on {where}",
            remedy="look at that sample; the model itself computes this value",
        )
