"""Bytes of tensors: of ONNX values, and of engine layers whose dump leaves dimensions open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from trtforge import EngineLayer, LayerTensor

BITS = {
    "float64": 64, "int64": 64, "uint64": 64, "float32": 32, "int32": 32, "uint32": 32,
    "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16, "float8e4m3fn": 8, "float8e5m2": 8,
    "float8e8m0": 8, "int8": 8, "uint8": 8, "bool": 8, "int4": 4, "uint4": 4, "float4e2m1": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Bytes of something; ``known`` is False where an open dimension counted as 1."""

    bytes: int
    known: bool = True


def shape_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the dimensions of ``value``, or None when one is not known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(str(dim)) for dim in value.shape)


def value_bytes(value: ir.Value) -> int | None:
    """Return the bytes of ``value``, or None when its shape or type is not known."""
    shape = shape_of(value)
    if shape is None or value.dtype is None or not value.dtype.bitwidth:
        return None
    return -(-prod(shape) * value.dtype.bitwidth // 8)


def node_bytes(node: ir.Node) -> int | None:
    """Return the bytes of each input and output of ``node`` once, or None when one is not known."""
    values = dict.fromkeys(value for value in (*node.inputs, *node.outputs) if value is not None)
    sizes = [value_bytes(value) for value in values if value.name]
    return None if None in sizes else sum(size or 0 for size in sizes)


def layer_size(layer: EngineLayer, nodes: Iterable[ir.Node]) -> Size:
    """Return the bytes of each tensor of ``layer`` once.

    A dimension that the dump leaves open is taken from a tensor of ``nodes`` that fits the others;
    where none does it counts as 1, so that the sum stays a lower bound.
    """
    tensors = {each.name: each for each in (*layer.inputs, *layer.constants, *layer.outputs)}
    open_ones = any(-1 in each.shape for each in tensors.values())
    shapes = list(_shapes(nodes)) if open_ones else []
    sizes = [tensor_size(tensor, shapes) for tensor in tensors.values()]
    return Size(sum(size.bytes for size in sizes), all(size.known for size in sizes))


def _shapes(nodes: Iterable[ir.Node]) -> Iterator[tuple[int, ...]]:
    for node in nodes:
        for value in (*node.outputs, *node.inputs):
            shape = shape_of(value)
            if shape is not None:
                yield shape


def tensor_size(tensor: LayerTensor, shapes: Sequence[tuple[int, ...]] = ()) -> Size:
    """Return the bytes of ``tensor``; ``shapes`` may tell what its open dimensions are."""
    bits = BITS.get(tensor.dtype)
    known = prod(dim for dim in tensor.shape if dim >= 0)
    if bits is None:
        return Size(0, known=False)
    if -1 not in tensor.shape:
        return Size(-(-known * bits // 8))
    fitting = [prod(shape) for shape in shapes if _fits(tensor.shape, shape)]
    elements = min(fitting, default=None)
    if elements is None:
        return Size(-(-known * bits // 8), known=False)
    return Size(-(-elements * bits // 8))


def _fits(open_shape: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether ``shape`` may be ``open_shape``, or the same elements in another arrangement."""
    if len(shape) == len(open_shape):
        return all(given in (-1, dim) for given, dim in zip(open_shape, shape, strict=True))
    if not shape or open_shape.count(-1) != 1 or open_shape[-1] != shape[-1]:
        return False
    known = prod(dim for dim in open_shape if dim >= 0)
    return known > 0 and prod(shape) % known == 0
