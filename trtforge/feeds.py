"""Input data that is made up from a seed, and parts of data that was loaded.

Synthesized data shows that two models compute the same; it says nothing of accuracy on real data,
so every :class:`~trtforge.artifacts.Batches` from here has ``real=False``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.artifacts import Batches
from trtforge.errors import DataError
from trtforge.graph import is_op
from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.quantities import ShapeRange

    Feed = Mapping[str, Array]

LARGEST = 2 * 2**30
"""Bytes that one synthesized input may have; a larger one is a mistake in a shape."""
_SAME_VALUES = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


def synthesize(
    model: ir.Model,
    profile: Mapping[str, ShapeRange] | None = None,
    *,
    samples: int = 8,
    seed: int = 0,
    without: Collection[str] = (),
) -> Batches:
    """Return at least ``samples`` samples for the inputs of ``model``, the same for the same seed.

    Floating-point inputs are standard normal. Integers that index a table (a Gather from an
    initializer) are uniform over its rows; ``uint8`` and ``int8`` are uniform over their range;
    other integers are 1, which suits attention masks. Booleans are fair coins.

    Args:
        model: Its input types, and its shapes where they are fixed.
        profile: Shape ranges by input; the usual shape (``opt``) is taken, with a smaller leading
            dimension where fewer samples are asked for and the range allows it.
        samples: How many; the leading axis of an input counts samples.
        seed: Of NumPy's default generator.
        without: Inputs that get no data.

    Raises:
        DataError: a dynamic dimension has no value, or an input has a type that cannot be made up.
    """
    rng = np.random.default_rng(seed)
    inputs = [
        value
        for value in model.graph.inputs
        if not value.is_initializer() and value.name not in without
    ]
    shapes = input_shapes(inputs, profile or {}, samples)
    leading = next((shape[0] for shape in shapes.values() if shape), 1)
    feeds = tuple(
        {value.name or "": _values(value, shapes[value.name or ""], rng) for value in inputs}
        for _ in range(-(-samples // max(leading, 1)))
    )
    return Batches(feeds, source=f"synthesized (seed {seed})", real=False)


def input_shapes(
    inputs: Sequence[ir.Value], profile: Mapping[str, ShapeRange], samples: int
) -> dict[str, tuple[int, ...]]:
    """Return a static shape for each input; dimensions of the same name get the same value.

    Raises:
        DataError: a dynamic dimension is neither in the profile nor the leading one.
    """
    named = _named_dims(inputs, profile, samples)
    shapes = {}
    for value in inputs:
        shape = value.shape
        if shape is None:
            raise DataError(f"input {value.name!r} has no shape, so no data can be made up for it")
        ranges = profile.get(value.name or "")
        shapes[value.name or ""] = tuple(
            _dim(value, axis, named, ranges, samples) for axis in range(len(shape))
        )
    return shapes


def _named_dims(
    inputs: Sequence[ir.Value], profile: Mapping[str, ShapeRange], samples: int
) -> dict[str, int]:
    named: dict[str, int] = {}
    for value in inputs:
        ranges = profile.get(value.name or "")
        for axis, dim in enumerate(value.shape or ()):
            if ranges and not isinstance(dim, int) and dim.value and axis < len(ranges.opt):
                named.setdefault(dim.value, _of_range(ranges, axis, samples))
    return named


def _of_range(ranges: ShapeRange, axis: int, samples: int) -> int:
    usual = ranges.opt[axis]
    return max(ranges.min[axis], min(usual, samples)) if axis == 0 else usual


def _dim(
    value: ir.Value,
    axis: int,
    named: Mapping[str, int],
    ranges: ShapeRange | None,
    samples: int,
) -> int:
    dim = value.shape[axis] if value.shape else 0
    if isinstance(dim, int):
        return dim
    if dim.value is not None and dim.value in named:
        return named[dim.value]
    if ranges and axis < len(ranges.opt):
        return _of_range(ranges, axis, samples)
    if axis == 0:
        return min(samples, 8)
    name = f" ({dim.value})" if dim.value else ""
    raise DataError(
        f"dimension {axis}{name} of input {value.name!r} is dynamic, so no data can be made up",
        remedy=f"give a shape range for {value.name!r} under shapes, or load data",
    )


def _values(value: ir.Value, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = np.dtype(value.dtype.numpy()) if value.dtype else np.dtype(np.float32)
    size = prod(shape) * dtype.itemsize
    if size > LARGEST:
        raise DataError(f"input {value.name!r} would have {format_bytes(size)}; check its shape")
    if value.dtype is not None and value.dtype.is_floating_point():
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind not in "iu":
        raise DataError(f"input {value.name!r} has type {dtype}; load data for it")
    rows = table_rows(value)
    if rows is not None:
        return rng.integers(0, rows, shape).astype(dtype)
    if dtype.itemsize == 1:
        low = -128 if dtype.kind == "i" else 0
        return rng.integers(low, low + 256, shape).astype(dtype)
    return np.ones(shape, dtype)


def table_rows(value: ir.Value) -> int | None:
    """Return the length of the shortest table that ``value`` indexes; None: it indexes none."""
    rows = []
    todo, seen = [value], {id(value)}
    while todo:
        for node, index in todo.pop().uses():
            if is_op(node, "Gather") and index == 1:
                table = node.inputs[0]
                axis_attribute = node.attributes.get("axis")
                axis = axis_attribute.as_int() if axis_attribute else 0
                length = table.shape[axis] if table is not None and table.shape else None
                if isinstance(length, int) and length > 0:
                    rows.append(length)
            elif is_op(node, *_SAME_VALUES) and index == 0:
                fresh = [out for out in node.outputs if id(out) not in seen]
                seen.update(map(id, fresh))
                todo.extend(fresh)
    return min(rows, default=None)


def first(batches: Batches, count: int, *, cut: bool) -> tuple[Feed, ...]:
    """Return the first ``count`` samples of ``batches``.

    Args:
        batches: Data whose arrays have the samples on their first axis.
        count: How many; more when ``cut`` is False and batches end elsewhere.
        cut: Whether a batch may be cut, that is, whether the model's leading axes are dynamic.
    """
    feeds: list[Feed] = []
    left = count
    for feed in batches.feeds:
        if left <= 0:
            break
        lengths = {len(array) if array.ndim else 1 for array in feed.values()}
        length = max(lengths, default=1)
        cuttable = cut and len(lengths) == 1 and length > left
        feeds.append({name: array[:left] for name, array in feed.items()} if cuttable else feed)
        left -= length
    return tuple(feeds)
