"""Pooling windows, written as strided slices along one axis after the other.

Largest value, sum and count over a box are those over its rows, taken over its columns, and so on:
a window of ``h`` by ``w`` needs ``h + w`` slices, and the sizes of the input may stay open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, declared_size
from trtforge_plugins.convert.rule import Refusal

MAX_SLICES = 256
"""How many slices one pooling may become; above it the graph would be larger than its use."""
_END = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Window:
    """The window along one spatial axis; its numbers are ONNX's."""

    axis: int
    """Axis of the tensor, 2 and up."""
    size: int | None
    """Number of entries of the input, None where it is open."""
    kernel: int
    stride: int
    dilation: int
    begin: int
    """Padding before the first entry."""
    end: int
    """Padding behind the last entry, as the node says."""
    fill: int
    """Padding behind the last entry that completes the last window; less than 0 cuts off."""

    @property
    def reach(self) -> int:
        """Entries that one window spans."""
        return (self.kernel - 1) * self.dilation + 1

    def slices(self, value: ir.Value, build: Builder) -> list[ir.Value]:
        """Return one slice per entry of the kernel, of equal sizes; ``value`` is padded."""
        return [
            build.slice(
                value,
                self.axis,
                offset,
                offset - self.reach + 1 if offset < self.reach - 1 else _END,
                self.stride,
            )
            for offset in range(0, self.reach, self.dilation)
        ]

    def counts(self, *, padding: bool) -> np.ndarray:
        """Return how many entries each window covers; the size must be known."""
        assert self.size is not None  # noqa: S101  # the caller looked
        whole = self.begin + self.size + self.fill
        places = np.arange(whole)
        if padding:
            counted = places < self.begin + self.size + self.end
        else:
            counted = (places >= self.begin) & (places < self.begin + self.size)
        starts = np.arange(0, whole - self.reach + 1, self.stride)
        covered = starts[:, None] + np.arange(0, self.reach, self.dilation)
        counts: np.ndarray = counted[covered].sum(1)
        return counts


def windows_of(node: ir.Node) -> list[Window] | Refusal:
    """Return the windows of a pooling node, or why they are not known."""
    value = node.inputs[0]
    kernel = attribute(node, "kernel_shape")
    if value is None or value.shape is None or kernel is None:
        return Refusal("the rank of its input is not known")
    spatial = len(kernel)
    ones = [1] * spatial
    strides = attribute(node, "strides", ones)
    dilations = attribute(node, "dilations", ones)
    pads = attribute(node, "pads", [0] * 2 * spatial)
    mode = attribute(node, "auto_pad", "NOTSET")
    ceil = bool(attribute(node, "ceil_mode", 0))
    found = []
    for i in range(spatial):
        size = declared_size(value, i + 2)
        reach = (kernel[i] - 1) * dilations[i] + 1
        begin, end = pads[i], pads[i + spatial]
        if mode.startswith("SAME"):
            if size is None and strides[i] != 1:
                return Refusal("auto_pad needs the sizes of its input, which are open")
            outputs = -(-(size or 1) // strides[i])
            total = max((outputs - 1) * strides[i] + reach - (size or 1), 0)
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
            end = total - begin
        elif mode == "VALID":
            begin = end = 0
        whole = not ceil or mode.startswith("SAME")
        fill = end if whole else _fill(size, (begin, end), reach, strides[i])
        if fill is None:
            return Refusal("ceil_mode with this padding needs the sizes of its input")
        found.append(Window(i + 2, size, kernel[i], strides[i], dilations[i], begin, end, fill))
    if sum(window.kernel for window in found) > MAX_SLICES:
        return Refusal(f"its kernel is larger than {MAX_SLICES} in sum")
    return found


def _fill(size: int | None, pads: tuple[int, int], reach: int, stride: int) -> int | None:
    """Return the padding at the end that gives ONNX's number of windows under ceil_mode.

    A window that would begin behind the input and its padding at the front is left out.
    """
    begin, end = pads
    if size is None:
        return end + stride - 1 if end + stride <= reach else None
    windows = -(-(begin + size + end - reach) // stride) + 1
    if (windows - 1) * stride >= begin + size:
        windows -= 1
    return (windows - 1) * stride + reach - begin - size


def padded(value: ir.Value, windows: Sequence[Window], fill: float, build: Builder) -> ir.Value:
    """Pad ``value`` with ``fill`` (or cut it at the end) so that every window lies inside."""
    before = [0, 0, *(window.begin for window in windows)]
    behind = [0, 0, *(max(window.fill, 0) for window in windows)]
    if any(before) or any(behind):
        if build.opset >= 11:
            value = build.op("Pad", value, before + behind, fill)
        else:
            value = build.op("Pad", value, pads=before + behind, value=float(fill))
    for window in windows:
        if window.fill < 0:
            value = build.slice(value, window.axis, 0, window.fill)
    return value
