"""What does not build for some of the GPUs that are asked for, seen before any build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from trtforge import RequestError, Target
from trtforge.diagnosis import Finding
from trtforge.graph import is_op, label, nodes
from trtforge_plugins.tensorrt.failure_rules import rule

NOT_BUILT = "target-not-built"
TURING = 75
_PRODUCTS = ("MatMul", "Gemm", "LSTM", "GRU", "RNN")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def check_targets(library: str, asked: Sequence[int], able: Sequence[int]) -> None:
    """Refuse compute capabilities that a TensorRT does not build for.

    Args:
        library: Its title, with the version.
        asked: Compute capabilities, as 89.
        able: Those that it builds for.

    Raises:
        RequestError: it names those that it does not build for.
    """
    lacking = [f"sm_{sm}" for sm in asked if sm not in able]
    if lacking:
        raise RequestError(
            f"{library} does not build for {', '.join(lacking)}",
            remedy=f"use some of {', '.join(f'sm_{sm}' for sm in able)}, or TensorRT itself on a "
            "machine with that GPU",
            code=NOT_BUILT,
        )


def refused_for_turing(model: ir.Model, targets: Sequence[Target]) -> Iterator[Finding]:
    """Yield the float32 nodes that TensorRT-RTX 1.7.1 does not compile for sm_75.

    Its compiler has no float32 GEMM there, so no product of any size and no Einsum of two tensors,
    and no float32 convolution of three dimensions. Those of one and two dimensions build; so does
    everything in float16.
    """
    if not any(target.sm == TURING for target in targets):
        return
    known = rule("float32-product-on-turing")
    for node in nodes(model):
        found = _float32(node)
        if found:
            yield Finding(
                known.code, label(node), node.op_type, known.cause, found, known.remedies,
                seen_in="model",
            )  # fmt: skip


def _float32(node: ir.Node) -> str:
    """Return what a node computes in float32 that no GPU of compute capability 7.5 does."""
    data = node.inputs[0] if node.inputs else None
    if data is None or data.dtype != ir.DataType.FLOAT:
        return ""
    if is_op(node, *_PRODUCTS) or (is_op(node, "Einsum") and len(node.inputs) > 1):
        return "it multiplies matrices of float32"
    if is_op(node, *_CONVOLUTIONS) and any(
        value is not None and value.shape is not None and len(value.shape) > 4
        for value in node.inputs[:2]
    ):
        return "it is a convolution of float32 in three dimensions"
    return ""
