"""The rows that a layer multiplies its weight by, and sums over them that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context
from trtforge.reference import Provider
from trtforge_plugins.precision.layer_errors import Layer
from trtforge_plugins.precision.observe import observe
from trtforge_plugins.precision.quantized_weights import FORMATS, scale_of
from trtforge_plugins.precision.sampled_rows import on_cpu
from trtforge_plugins.precision.weight_rounding import Moments

if TYPE_CHECKING:
    from trtforge.artifacts import Array

LEAST_ROWS = 4096
"""Rows summed per layer where the data has as many; or twice the length of a row, if more."""
PASS_BYTES = 2**28
"""Size of the sums of one pass over the data; a larger layer gets a pass of its own."""
MOST_PRODUCTS = 8192
"""Length of the sum over which a layer is left alone: its sums would take more than 0.5 GiB."""


def why_not(layer: Layer) -> str | None:
    """Return why no rows can be taken for a layer, or None when they can."""
    length = row_length(layer)
    if length > MOST_PRODUCTS:
        return f"it adds up {length} products; more than {MOST_PRODUCTS} do not fit in memory"
    if layer.point.rule != "conv":
        return None
    attributes = layer.point.node.attributes
    if attributes.get_int("group", 1) != 1:
        return "it is a grouped convolution: its weights are rounded to nearest"
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "its padding is chosen by auto_pad: its weights are rounded to nearest"
    return None


def row_length(layer: Layer) -> int:
    """Return how many products one result of the layer adds up."""
    weight = layer.weight
    return int(weight.size // max(weight.shape[layer.channel_axis], 1))


def moments(ctx: Context, layers: Sequence[Layer], provider: Provider) -> Iterator[Moments]:
    """Yield the sums of one layer after the other; the model runs as often as memory asks for."""
    batches = ctx.get(Batches)
    for group in _passes(layers):
        sums = [Moments.of(row_length(layer)) for layer in group]
        tensors = {layer.point.tensor: ir.DataType.FLOAT for layer in group}
        for seen in observe(ctx.model, tensors, batches, provider=provider):
            ctx.progress.update("looking at layers", seen.batch, len(batches.feeds))
            for layer, own in zip(group, sums, strict=True):
                array = on_cpu(seen.tensors[str(layer.point.tensor.name)])
                exact = _rows(layer, array, batches.samples)
                own.add(exact, _quantized(exact, layer.amax))
        yield from sums


def _passes(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    group: list[Layer] = []
    size = 0
    for layer in layers:
        own = 2 * 4 * row_length(layer) ** 2
        if group and size + own > PASS_BYTES:
            yield group
            group, size = [], 0
        group.append(layer)
        size += own
    if group:
        yield group


def _quantized(rows: Array, amax: float) -> Array:
    scale = np.float32(scale_of(amax, FORMATS["int8"]))
    return np.clip(np.rint(rows / scale), -128, 127) * scale


def _rows(layer: Layer, array: Array, samples: int) -> Array:
    """Return some rows of one part of the data, evenly spread: float32[rows, length of the sum]."""
    wanted = max(LEAST_ROWS, 2 * row_length(layer))
    share = -(-wanted // max(samples, 1))
    if layer.point.rule == "conv":
        return _patches(layer, array.astype(np.float32), share)
    rows = array.reshape(-1, array.shape[-1])
    step = max(1, len(rows) // (share * max(len(array), 1)))
    return rows[::step].astype(np.float32)


def _patches(layer: Layer, array: Array, share: int) -> Array:
    """Return what the kernel sees at up to ``share`` places of each sample."""
    attributes, rank = layer.point.node.attributes, array.ndim - 2
    kernel = layer.weight.shape[2:]
    strides = attributes.get_ints("strides", [1] * rank)
    dilations = attributes.get_ints("dilations", [1] * rank)
    pads = attributes.get_ints("pads", [0] * 2 * rank)
    padded = np.pad(array, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    axes = tuple(range(2, array.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    everything = (slice(None), slice(None))
    windows = windows[(*everything, *(slice(None, None, each) for each in (*strides, *dilations)))]
    places = windows.shape[2 : 2 + rank]
    count = int(np.prod(places))
    chosen = np.arange(0, count, max(1, count // share))
    found = windows[everything + np.unravel_index(chosen, places)]
    return np.moveaxis(found, 2, 1).reshape(len(array) * len(chosen), -1)
