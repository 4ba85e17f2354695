"""Fourier transforms as products with a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import scalar
from trtforge_plugins.convert.builder import Builder, rank, static_shape
from trtforge_plugins.convert.choice import chosen, from_front
from trtforge_plugins.convert.facts import (
    attribute,
    declared_size,
    is_run_time,
    named_dims,
    operand,
)
from trtforge_plugins.convert.rule import Refusal, Rule

MAX_MATRIX = 1 << 24
"""Entries of the matrix of one transform; a fast algorithm is needed above it."""
MAX_AXES = 4
_FLOAT = ir.DataType.FLOAT


class Dft(Rule):
    """Write a discrete Fourier transform as one product with its matrix.

    Where the axis is a run-time input, the transform along each axis that fits the declared shape
    is computed and one of them chosen.
    """

    name: ClassVar[str] = "dft"
    ops: ClassVar[tuple[str, ...]] = ("DFT",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__DFT.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Transpose, multiply, transpose back."""
        value, axis, dims = node.inputs[0], operand(node, 2), rank(node.inputs[0])
        if value is None or value.dtype is None or not dims:
            return Refusal("the rank of its input is not known")
        default = -2 if build.opset >= 20 else 1
        known = attribute(node, "axis", default) if axis is None else scalar(axis)
        axes = range(dims - 1) if known is None else [int(known) % dims]
        fitting = [(each, length) for each in axes if (length := _length(node, each))]
        if not fitting or len(fitting) > MAX_AXES:
            return Refusal("the length of its transform is open")
        parts = declared_size(value, dims - 1)
        if parts is None:
            return Refusal("whether its input is complex is not known")
        largest = max(length for _, length in fitting)
        if (2 * largest) ** 2 > MAX_MATRIX:
            return Refusal(f"a transform of length {largest} needs too large a matrix")
        results = [self._along(node, each, length, parts, build) for each, length in fitting]
        if axis is None or len(results) == 1:
            return [build.cast(results[0], value.dtype)]
        keys = [[each] for each, _ in fitting]
        result = chosen(results, keys, from_front(axis, dims, build), build)
        return [build.cast(result, value.dtype)]

    def _along(self, node: ir.Node, axis: int, length: int, parts: int, build: Builder) -> ir.Value:
        value, dims = node.inputs[0], rank(node.inputs[0]) or 0
        assert value is not None  # noqa: S101  # rewrite looked
        inverse, onesided = (bool(attribute(node, name, 0)) for name in ("inverse", "onesided"))
        size = declared_size(value, axis) or 0
        matrix = fourier_matrix(
            min(size, length), length, parts, inverse=inverse, onesided=onesided
        )
        kept = min(size, matrix.shape[0] // parts)
        signal = build.cast(value, _FLOAT)
        signal = signal if kept == size else build.slice(signal, axis, 0, kept)
        order = [*(i for i in range(dims - 1) if i != axis), axis, dims - 1]
        lead = [0] * (dims - 2)  # 0 in a Reshape: as it was
        moved = order != list(range(dims))
        signal = build.op("Transpose", signal, perm=order) if moved else signal
        flat = build.reshape(signal, [*lead, kept * parts])
        product = build.op("MatMul", flat, matrix[: kept * parts].astype(np.float32))
        if inverse:
            product = build.op("Div", product, length)
        results = 1 if inverse and onesided else 2
        whole = build.reshape(product, [*lead, matrix.shape[1] // results, results])
        back = [int(i) for i in np.argsort(order)]
        return build.op("Transpose", whole, perm=back) if moved else whole


def _length(node: ir.Node, axis: int) -> int | None:
    """Return the length of the transform along ``axis``, None where open or not as declared."""
    inverse, onesided = (bool(attribute(node, name, 0)) for name in ("inverse", "onesided"))
    size, declared = declared_size(node.inputs[0], axis), declared_size(node.outputs[0], axis)
    given = operand(node, 1)
    number = scalar(given)
    if size is None:
        return None
    if given is None:
        length = 2 * (size - 1) if inverse and onesided else size
    elif number is not None:
        length = int(number)
    elif declared is not None and (inverse or not onesided):
        length = declared
    else:
        return None
    result = length // 2 + 1 if onesided and not inverse else length
    before, after = named_dims(node.inputs[0]), named_dims(node.outputs[0])
    if before is not None and after is not None:
        expected = (*before[:axis], result, *before[axis + 1 : -1])
        return length if length > 0 and expected == after[:-1] else None
    return length if length > 0 and declared in (None, result) else None


def fourier_matrix(
    size: int, length: int, parts: int, *, inverse: bool, onesided: bool
) -> np.ndarray:
    """Return the matrix of a transform of interleaved numbers, in float64.

    Args:
        size: Entries of the signal; up to ``length``, the rest of it is 0.
        length: Entries of the transform.
        parts: 1 for a real signal, 2 for real and imaginary parts.
        inverse: Whether it is the inverse, without its factor of 1 / length.
        onesided: Whether the spectrum is that of a real signal, given or made up to its middle.

    Returns:
        ``size * parts`` rows; two columns per result, one where the result is real.
    """
    half = length // 2 + 1
    rows = np.arange(min(size, half) if inverse and onesided else size)
    columns = np.arange(half if onesided and not inverse else length)
    # The product of the indices is reduced first, so that large ones lose no digits.
    turns = np.outer(rows, columns) % length / length
    angle = (2 if inverse else -2) * np.pi * turns
    real, imaginary = np.cos(angle), np.sin(angle)
    scale = np.ones(len(rows))
    if inverse and onesided:  # the other half of the spectrum is the conjugate of this one
        scale[1 : (length + 1) // 2] *= 2
    table = np.empty((len(rows), 2, len(columns), 2))
    table[:, 0, :, 0], table[:, 0, :, 1] = real, imaginary
    table[:, 1, :, 0], table[:, 1, :, 1] = -imaginary, real
    table *= scale[:, None, None, None]
    table[np.abs(table) < 1e-15] = 0  # sines and cosines that are 0 but for the rounding of pi
    results = 1 if inverse and onesided else 2
    return table[:, :parts, :, :results].reshape(len(rows) * parts, -1)


class Stft(Rule):
    """Write a short-time Fourier transform as gathered frames times the matrix of one transform.

    Step and length of the frames may be run-time inputs where the declared shape settles them.
    """

    name: ClassVar[str] = "stft"
    ops: ClassVar[tuple[str, ...]] = ("STFT",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7, TensorRT 10 and 11: frame_step and window must be an initializer"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__STFT.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Gather, weigh, multiply."""
        value, window = node.inputs[0], operand(node, 2)
        if not any(is_run_time(each) for each in node.inputs[1:] if each is not None):
            return None
        parts = 1 if rank(value) == 2 else declared_size(value, 2)
        if value is None or value.dtype is None or parts is None:
            return Refusal("whether its signal is complex is not known")
        found = _frames(node)
        if len(found) != 1:
            return Refusal("its frames are run-time inputs and the shapes do not settle them")
        ((frame, step, count),) = found
        onesided = bool(attribute(node, "onesided", 1))
        if (2 * frame) ** 2 > MAX_MATRIX:
            return Refusal(f"a transform of length {frame} needs too large a matrix")
        matrix = fourier_matrix(frame, frame, parts, inverse=False, onesided=onesided)
        places = np.arange(count)[:, None] * step + np.arange(frame)
        frames = build.op("Gather", build.cast(value, _FLOAT), places, axis=1)
        if window is not None:
            weights = build.reshape(build.cast(window, _FLOAT), [frame, *[1] * (rank(value) == 3)])
            frames = build.op("Mul", frames, weights)
        flat = build.reshape(frames, [0, count, frame * parts])
        product = build.op("MatMul", flat, matrix.astype(np.float32))
        whole = build.reshape(product, [0, count, matrix.shape[1] // 2, 2])
        return [build.cast(whole, value.dtype)]


def _frames(node: ir.Node) -> list[tuple[int, int, int]]:
    """Return the lengths, steps and numbers of frames that fit the shapes and the constants."""
    size, shape = declared_size(node.inputs[0], 1), static_shape(node.outputs[0])
    step, length = scalar(operand(node, 1)), scalar(operand(node, 3))
    if size is None:
        return []
    steps = range(1, size + 1) if step is None else [int(step)]
    if length is None:
        length = declared_size(operand(node, 2))
    if length is not None:
        lengths = [int(length)]
    elif shape is None:
        return []
    else:
        onesided = bool(attribute(node, "onesided", 1))
        lengths = [2 * shape[2] - 2, 2 * shape[2] - 1] if onesided else [shape[2]]
    found = [(each, by, 1 + (size - each) // by) for each in lengths for by in steps]
    return [each for each in found if shape is None or each[2] == shape[1]]
