"""Runs a model on data and hands out the tensors that a calibrator asks for, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context, StepError
from trtforge.reference import Reference

if TYPE_CHECKING:
    from trtforge.artifacts import Array


def observe(
    model: ir.Model, tensors: Mapping[ir.Value, ir.DataType], batches: Batches, ctx: Context
) -> Iterator[dict[str, Array]]:
    """Yield the values of ``tensors`` for each batch; only one batch is held at a time.

    Only ``tensors`` (with their element types) are fetched, under ONNX Runtime.

    Raises:
        DataError: the data does not fit the model's inputs.
        StepError: the model cannot be run, or a tensor holds NaN or Inf.
    """
    inputs = set(model.graph.inputs)
    fetched = {value: dtype for value, dtype in tensors.items() if value not in inputs}
    direct = [str(value.name) for value in tensors if value in inputs]
    with _only_outputs(model, fetched):
        reference = Reference(model) if fetched else None
    for index, feed in enumerate(batches.feeds):
        ctx.progress.update("calibrating", index, len(batches.feeds))
        seen = {name: feed[name] for name in direct}
        if reference is not None:
            seen.update(reference.run(feed))
        for name, array in seen.items():
            _check_finite(name, array, f"batch {index} of {batches.source}")
        yield seen
    ctx.progress.update("calibrating", len(batches.feeds), len(batches.feeds))


@contextmanager
def _only_outputs(model: ir.Model, tensors: Mapping[ir.Value, ir.DataType]) -> Iterator[None]:
    """Make ``tensors`` the only outputs of the model, for as long as the block runs."""
    kept = list(model.graph.outputs)
    declared = {tensor: tensor.type for tensor in tensors}
    model.graph.outputs[:] = tensors
    for tensor, dtype in tensors.items():
        tensor.type = tensor.type or ir.TensorType(dtype)
    try:
        yield
    finally:
        model.graph.outputs[:] = kept
        for tensor, type_ in declared.items():
            tensor.type = type_


def _check_finite(name: str, array: Array, where: str) -> None:
    if array.size == 0 or np.isfinite(array).all():
        return
    kind = "NaN" if np.isnan(array).any() else "Inf"
    raise StepError(
        f"tensor {name!r} holds {kind} on {where}",
        remedy="look at that sample; the model itself computes this value",
    )
