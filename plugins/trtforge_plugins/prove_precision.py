"""Proves in which type each heavy node of the model really runs, from the engine's own layers.

That an engine builds from a Q/DQ model does not mean that it computes in INT8 or FP8: TensorRT may
keep the low precision as storage only and dequantize in front of the multiplication.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import (
    Artifact,
    CastTo,
    Context,
    Engine,
    EngineLayers,
    PrecisionProof,
    PrecisionShare,
    Quantized,
    Step,
)
from trtforge.graph import constant, is_op, label
from trtforge_plugins.engine_layers import read_engine_layers
from trtforge_plugins.macs import HeavyNode, heavy_nodes
from trtforge_plugins.running_type import Finding, find_types, onnx_dtype

_STORED = " weights"
"""Behind a type that TensorRT stores weights in, and computes in another."""
_ONLY_STORED = "int4"
"""A type that TensorRT never computes in."""
_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True)
class ProvePrecision(Step):
    """Show which share of the multiply-accumulates really runs in which type."""

    name: ClassVar[str] = "prove-precision"
    needs: ClassVar[tuple[type[Artifact], ...]] = (Engine,)
    gives: ClassVar[tuple[type[Artifact], ...]] = (EngineLayers, PrecisionProof)

    def run(self, ctx: Context) -> int:
        """Put the layers and the proof into the context; the model stays as it is.

        Raises:
            StepError: the engine has no readable layer dump.
            RequestError: a profile contradicts the model.
        """
        layers = read_engine_layers(ctx.get(Engine))
        shapes = {}
        if ctx.request.profiles:
            shapes = {name: shape.opt for name, shape in ctx.request.profiles[0].items()}
        heavy = heavy_nodes(ctx.model, shapes)
        for node in heavy:
            if node.macs is None:
                ctx.note(node.name, f"its multiply-accumulates are not counted: {node.reason}")
        asked = asked_types([node.node for node in heavy], ctx.find(Quantized), ctx.find(CastTo))
        ctx.put(layers)
        ctx.put(prove(heavy, layers, asked))
        return 0


def prove(
    heavy: Sequence[HeavyNode], layers: EngineLayers, asked: Mapping[str, str]
) -> PrecisionProof:
    """Compare what each heavy node was asked to run in with what the engine does.

    Nodes that depend on no input of the model and have no layer were computed while building; they
    are left out. A node that was asked for a type but is not in the model counts as unknown.
    """
    found = find_types([node.node for node in heavy], layers.layers)
    fixed = _computed_while_building(heavy[0].node.graph) if len(found) < len(heavy) else set()
    running = [node for node in heavy if node.node in found or node.node not in fixed]
    deviations = {
        node.name: _deviation(asked[node.name], found[node.node])
        for node in running
        if node.name in asked
        and node.node in found
        and not _holds(asked[node.name], found[node.node])
    }
    unknown = [node.name for node in running if node.node not in found]
    names = {node.name for node in heavy}
    unknown += [name for name in asked if name not in names]
    return PrecisionProof(
        shares=_shares(running, found),
        total_macs=sum(node.macs or 0 for node in running),
        asked=dict(asked),
        deviations=deviations,
        unknown=tuple(unknown),
    )


def _computed_while_building(graph: ir.Graph | ir.Function | None) -> set[ir.Node]:
    """Return the nodes of ``graph`` that depend on constants only."""
    fixed: set[ir.Node] = set()
    for node in graph or ():
        operands = [value for value in node.inputs if value is not None]
        if operands and all(
            value.producer() in fixed or constant(value) is not None for value in operands
        ):
            fixed.add(node)
    return fixed


def _holds(asked: str, finding: Finding) -> bool:
    """Whether the layer computes in the type, or reads weights of it where that was asked for."""
    if asked == _ONLY_STORED or asked.endswith(_STORED):
        stored = asked.removesuffix(_STORED)
        return any(tensor.dtype == stored for tensor in finding.layer.constants)
    return finding.dtype == asked


def _deviation(asked: str, finding: Finding) -> str:
    layer = finding.layer
    reads = ", ".join(dict.fromkeys(tensor.dtype for tensor in layer.inputs + layer.constants))
    return (
        f"asked for {asked}, runs in {finding.dtype}: "
        f"layer {layer.name!r} ({layer.kind}) reads {reads}"
    )


def _shares(
    heavy: Sequence[HeavyNode], found: Mapping[ir.Node, Finding]
) -> tuple[PrecisionShare, ...]:
    total = sum(node.macs or 0 for node in heavy)
    by_type: dict[str, list[HeavyNode]] = {}
    for node in heavy:
        if node.node in found:
            by_type.setdefault(found[node.node].dtype, []).append(node)
    shares = []
    for dtype, members in by_type.items():
        macs = sum(node.macs or 0 for node in members)
        names = tuple(node.name for node in members)
        shares.append(PrecisionShare(dtype, macs, macs / total if total else 0.0, names))
    return tuple(sorted(shares, key=lambda share: -share.macs))


def asked_types(
    heavy: Iterable[ir.Node], quantized: Quantized | None, cast: CastTo | None
) -> dict[str, str]:
    """Return node name to type, as the recipe asked for it.

    Where no step of the recipe quantized, the model's own Q/DQ nodes count: a heavy node whose two
    operands are dequantized from one type is meant to run in that type.
    """
    asked = {}
    if quantized:
        computes = not quantized.only_stored or quantized.dtype == _ONLY_STORED
        words = quantized.dtype if computes else f"{quantized.dtype}{_STORED}"
        asked = dict.fromkeys(quantized.nodes, words)
    for node in heavy:
        name = label(node)
        own = None if quantized else _quantized_operands(node)
        if name in asked:
            continue
        if own:
            asked[name] = own
        elif cast and name in cast.kept:
            asked[name] = "float32"
        elif cast:
            asked[name] = cast.dtype
    return asked


def _quantized_operands(node: ir.Node) -> str | None:
    """Return the type that both operands are dequantized from, or None."""
    types = [_dequantized_from(value) for value in node.inputs[:2]]
    return types[0] if len(types) == 2 and types[0] == types[1] else None


def _dequantized_from(value: ir.Value | None) -> str | None:
    for _ in range(8):  # a few moves of data may lie between
        producer = value.producer() if value is not None else None
        if producer is None or not is_op(producer, "DequantizeLinear", *_MOVES):
            return None
        value = producer.inputs[0]
        if is_op(producer, "DequantizeLinear"):
            break
    dtype = onnx_dtype(value)
    if dtype is None and value is not None:
        producer = value.producer()
        dtype = onnx_dtype(producer.inputs[2]) if producer and len(producer.inputs) > 2 else "int8"
    return dtype
