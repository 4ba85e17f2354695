"""Step ``insert-qdq``: explicit quantization, as TensorRT reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import onnx_ir as ir

from trtforge import (
    Context,
    HighPrecision,
    Pass,
    Quantized,
    Ranges,
    RequestError,
    StepError,
    Target,
)
from trtforge.graph import label, opset
from trtforge_plugins.precision.nvfp4_writer import NVFP4Writer
from trtforge_plugins.precision.placement import Placement, Point, Wanted, place
from trtforge_plugins.precision.qdq_writer import LinearWriter, Writer
from trtforge_plugins.precision.quantized_weights import FORMATS

_ONE_SCALE = (
    "its weight has one scale: TensorRT-RTX would run a product that is cut into queries, keys and "
    "values in float if it had one per channel"
)


@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Insert QuantizeLinear and DequantizeLinear where TensorRT turns them into fast kernels.

    Symmetric: activations get one scale per tensor (largest magnitude / 127 for INT8, / 448 for
    FP8), weights one per output channel and are stored quantized. NVFP4 has a scale per 16 numbers
    besides and is for matrix products. Biases, results and everything that is not named here stay
    as they are.
    """

    name = "insert-qdq"
    needs = (Ranges,)
    gives = (Quantized,)
    checkpoint = True

    dtype: Literal["int8", "float8e4m3fn", "float4e2m1"] = "int8"
    """Type of the quantized tensors; float8e4m3fn needs sm_89, float4e2m1 (NVFP4) sm_100."""
    attention: bool = False
    """Also quantize the products of two activations: queries by keys, probabilities by values."""
    skip: tuple[str, ...] = ()
    """Glob patterns of node names or operators to leave in high precision."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Insert the nodes and give :class:`Quantized`.

        Raises:
            StepError: the opset is too old, a target lacks the type, or nothing has a range.
        """
        refuse_unfit(self.name, self.dtype, model, ctx.request.targets)
        kept = ctx.find(HighPrecision)
        targets = [target.name for target in ctx.request.targets]
        keep = kept.nodes if kept else {}
        wanted = Wanted(self.dtype, self.skip, keep, self.attention, targets)
        placement = place(model, wanted)
        for node, reason in placement.refused:
            ctx.note(label(node), reason)
        for pattern in placement.unmatched:
            ctx.note(pattern, "this skip pattern matches no node that could be quantized")
        kind = NVFP4Writer if self.dtype == "float4e2m1" else LinearWriter
        writer = kind(model, FORMATS[self.dtype], ctx.get(Ranges).by_tensor)
        done = [
            node
            for node, points in groupby(placement.points, key=lambda point: point.node)
            if _apply(node, list(points), writer, ctx)
        ]
        _complain_without_ranges(placement, done)
        heavy = {point.node for point in placement.points if point.rule != "residual"}
        names = dict.fromkeys(label(node) for node in done if node in heavy)
        ctx.put(Quantized(self.dtype, tuple(names)))
        return len(done)


def refuse_unfit(step: str, dtype: str, model: ir.Model, targets: Iterable[Target]) -> None:
    """Refuse a type that the model's opset or one of the targets lacks.

    Raises:
        StepError: the opset is too old.
        RequestError: it names the targets.
    """
    needed = FORMATS[dtype].opset
    if opset(model) < needed:
        raise StepError(
            f"{dtype} Q/DQ needs opset {needed}; the model has {opset(model)}",
            remedy=f"put upgrade-opset before {step} (to {max(needed, 21)})",
        )
    lacking = [target for target in targets if dtype not in target.dtypes]
    if lacking:
        able = ", ".join(target.name for target in targets if target not in lacking)
        raise RequestError(
            f"{', '.join(str(target) for target in lacking)} cannot compute in {dtype}",
            remedy=f"build for {able} alone, or choose another dtype"
            if able
            else "choose another dtype (docs/targets.md: which target takes which type)",
        )


def _apply(node: ir.Node, points: list[Point], writer: Writer, ctx: Context) -> bool:
    """Quantize all inputs of ``node`` that the placement names, or none."""
    reason = next(filter(None, map(writer.why_not, points)), None)
    if reason:
        ctx.note(label(node), reason)
        return False
    if any(point.weight is not None and point.axis is None for point in points):
        ctx.note(label(node), _ONE_SCALE)
    writer.apply(points)
    return True


def _complain_without_ranges(placement: Placement, done: list[ir.Node]) -> None:
    if not placement.points:
        raise StepError(
            "the model has no node to quantize",
            remedy="the notes say why each Conv, Gemm and MatMul was left out",
        )
    if not done:
        nodes = {point.node for point in placement.points}
        raise StepError(
            f"none of the {len(nodes)} nodes to quantize has a usable range",
            remedy="calibrate after the steps that rename or replace tensors, on data that fits",
        )
