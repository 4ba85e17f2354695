"""Which inputs of one node are quantized, or why none is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from trtforge.graph import constant, is_op, label
from trtforge_plugins.precision.data_movement import is_product_of_activations

CANDIDATES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that a placement decides about; a residual Add comes on top."""
MIN_CHANNELS = 16
"""Matrix products with a smaller side than this gain nothing from 8-bit tensor cores."""
MAX_FP8_KERNEL = 32
"""Kernel positions of an FP8 convolution (TensorRT release notes, known limitations): 5x5 fits."""
FP4_BLOCK = 16
"""Numbers of NVFP4 that share a scale."""


@dataclass(frozen=True)
class Operands:
    """The inputs of a node that are quantized."""

    rule: str
    activations: tuple[int, ...]
    weight: int | None = None
    axis: int | None = 0


def operands(node: ir.Node, dtype: str, *, attention: bool, turing: bool) -> Operands | str:
    """Return what to quantize of a Conv, ConvTranspose, Gemm or MatMul, or why nothing."""
    if is_op(node, "ConvTranspose"):
        return "TensorRT dequantizes the weight of a quantized ConvTranspose and runs it in float"
    if is_op(node, "Conv"):
        return _conv(node, dtype, turing=turing)
    if is_product_of_activations(node):
        return _product_of_activations(dtype, attention=attention)
    return _product(node, dtype)


def _conv(node: ir.Node, dtype: str, *, turing: bool) -> Operands | str:
    if dtype == "float4e2m1":
        return "TensorRT has no NVFP4 convolution"
    if dtype == "int4":
        return "weights alone are quantized in matrix products only"
    if turing:
        return "with sm_75 among the targets TensorRT-RTX runs INT8 convolutions in float"
    weight = constant(node.inputs[1])
    if dtype == "float8e4m3fn" and weight is not None and prod(weight.shape[2:]) > MAX_FP8_KERNEL:
        return f"its kernel is larger than {MAX_FP8_KERNEL}: TensorRT would run it in float"
    return _weighted(node, Operands("conv", (0,), 1, 0))


def _product(node: ir.Node, dtype: str) -> Operands | str:
    if node.attributes.get_int("transA", 0):
        return "transA is set: TensorRT has no 8-bit kernel for a transposed activation"
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    weight = constant(node.inputs[1])
    if weight is not None and weight.ndim != 2:
        return f"its weight has {weight.ndim} dimensions; a matrix is expected"
    if weight is not None and min(weight.shape) < MIN_CHANNELS:
        rows, columns = weight.shape
        return f"its weight is {rows}x{columns}: a side is smaller than {MIN_CHANNELS}"
    if weight is not None and dtype == "float4e2m1" and weight.shape[1 - axis] % FP4_BLOCK:
        return f"it adds up {weight.shape[1 - axis]} products: no multiple of {FP4_BLOCK}"
    return _weighted(node, Operands("matrix-product", (0,), 1, axis))


def _product_of_activations(dtype: str, *, attention: bool) -> Operands | str:
    if dtype not in ("int8", "float8e4m3fn"):
        return "its second input is no constant"
    if not attention:
        return "its second input is no constant (the option attention quantizes such products)"
    return Operands("attention", (0, 1))


def _weighted(node: ir.Node, found: Operands) -> Operands | str:
    weight = constant(node.inputs[1])
    if weight is None:
        return "its second input is no constant"
    if node.inputs[0] is None or constant(node.inputs[0]) is not None:
        return "its first input is a constant"
    if weight.size == 0:
        return "its weight is empty"
    return found


def residuals(
    graph: ir.Graph, chosen: Mapping[ir.Node, Operands], left: Collection[str]
) -> dict[ir.Node, Operands]:
    """Return the Adds that join a quantized convolution and another branch.

    The branch gets Q/DQ; the convolution's own result does not, so that TensorRT can add it to the
    accumulator before it rounds. Nodes named in ``left`` stay as they are.
    """
    order = {node: index for index, node in enumerate(graph)}
    convolutions = {node for node, found in chosen.items() if found.rule == "conv"}
    found: dict[ir.Node, Operands] = {}
    for node in order:
        if not is_op(node, "Add") or label(node) in left or _broadcasts(node):
            continue
        if any(value is None or constant(value) is not None for value in node.inputs):
            continue
        fused = [
            (order[producer], index)
            for index, value in enumerate(node.inputs)
            if value is not None
            and (producer := value.producer()) in convolutions
            and producer is not None
            and len(value.uses()) == 1
        ]
        if fused:
            _, last = max(fused)
            found[node] = Operands("residual", (1 - last,))
    return found


def _broadcasts(node: ir.Node) -> bool:
    shapes = [value.shape for value in node.inputs if value is not None]
    return None not in shapes and len({str(shape) for shape in shapes}) > 1
