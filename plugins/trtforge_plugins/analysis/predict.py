"""Counts what a model and its engine must cost on a GPU: arithmetic, memory, launches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from trtforge import Artifact, Context, Engine, EngineLayer, EngineLayers, LayerTensor, Step
from trtforge.analysis import Bound, Device, LayerCost, NodeCost, Prediction, Role
from trtforge.graph import is_op, label
from trtforge_plugins.analysis.devices import as_measured, find_device, rate
from trtforge_plugins.analysis.layer_map import Place, map_layers
from trtforge_plugins.analysis.movement import only_moves, only_quantizes
from trtforge_plugins.analysis.provenance import module_of, source_of
from trtforge_plugins.analysis.sizes import (
    layer_size,
    node_bytes,
    shape_of,
    tensor_size,
    value_bytes,
)
from trtforge_plugins.computing_type import Evidence, computing_types, evidence
from trtforge_plugins.macs import HeavyNode, bind_shapes, count_nodes
from trtforge_plugins.running_type import Finding, find_types, onnx_dtype

_NO_LAUNCH = frozenset({"signal", "wait", "shape_call", "reshape", "cjmp", "noop"})
"""Kinds that only order streams, compute shapes on the host or rename a tensor."""
_NO_WORK = ("Constant", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Shape")


@dataclass(frozen=True)
class Predict(Step):
    """Predict what the engine, or the model without one, must cost at least on a GPU.

    Everything is counted from shapes, types and published peak rates; nothing is measured. With
    layers of an engine each is mapped to its ONNX nodes and torch modules. Open dimensions take
    the ``opt`` shapes of the first optimization profile.
    """

    name: ClassVar[str] = "predict"
    gives: ClassVar[tuple[type[Artifact], ...]] = (Prediction,)

    device: str = ""
    """A GPU of the table, for example ``L4``; empty: the first that fits the engine's target."""

    def run(self, ctx: Context) -> int:
        """Put the prediction into the context; the model stays as it is.

        Raises:
            RequestError: the table has no such device.
            StepError: a profile contradicts the model.
        """
        engine, layers = ctx.find(Engine), ctx.find(EngineLayers)
        targets = engine.targets if engine else tuple(map(str, ctx.request.targets))
        shapes = {}
        if ctx.request.profiles:
            shapes = {name: shape.opt for name, shape in ctx.request.profiles[0].items()}
        device = find_device(self.device, targets)
        found = predict(ctx.model, layers.layers if layers else (), device, shapes)
        if not self.device and targets and f"sm_{device.sm}" not in targets:
            stand_in = (
                f"the table has no GPU of {', '.join(targets)}: figures are for {device.name}; "
                "--device or the option device chooses another"
            )
            found = replace(found, notes=(*found.notes, stand_in))
        ctx.put(found)
        return 0


def predict(
    model: ir.Model,
    layers: Sequence[EngineLayer],
    device: Device,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Prediction:
    """Return what one run costs at least on ``device``.

    Args:
        model: The model that the engine was built from.
        layers: The engine's layers; empty: there is no engine, each node stands for itself.
        device: Its ceilings bound the times.
        shapes: Shape of each input that has open dimensions.
    """
    bound = bind_shapes(model, shapes or {})
    heavy = count_nodes(bound)
    counted = {one.node: one for one in heavy}
    places = map_layers(bound, layers)
    found = find_types(list(counted), layers) if layers and counted else {}
    layer_costs = tuple(_layer_costs(layers, places, counted, found, device))
    node_costs = tuple(_node_costs(bound, counted, places))
    floors = [cost.milliseconds for cost in layer_costs]
    if not layers:
        floors = [_node_floor(node, counted, device) for node in bound.graph]
    notes = list(_notes(heavy, layer_costs, node_costs, device))
    reached = as_measured(device)
    if reached is not None and device.measured is not None:
        slower = _floor(bound, layers, counted, found, reached)
        notes.append(
            f"with what was measured ({device.measured.where}) in place of published rates the "
            f"model takes at least {slower:.3g} ms"
        )
    return Prediction(
        device=device,
        nodes=node_costs,
        layers=layer_costs,
        macs=sum(cost.macs for cost in node_costs),
        floor_ms=_floor(bound, layers, counted, found, device),
        serial_ms=sum(floors),
        launches=_launches(bound, layers),
        notes=tuple(notes),
    )


def _layer_costs(
    layers: Sequence[EngineLayer],
    places: Sequence[Place],
    counted: Mapping[ir.Node, HeavyNode],
    found: Mapping[ir.Node, Finding],
    device: Device,
) -> Iterable[LayerCost]:
    macs: dict[int, int] = {}
    dtypes: dict[int, str] = {}
    seen: set[tuple[int, ir.Node]] = set()
    named = {id(layer): set(place.nodes) for layer, place in zip(layers, places, strict=True)}
    for node, finding in found.items():
        key = id(finding.layer)
        dtypes[key] = finding.dtype
        if node in named[key] and (key, node) not in seen:  # equal nodes are computed once
            macs[key] = macs.get(key, 0) + (counted[node].macs or 0)
    for layer, place in zip(layers, places, strict=True):
        size = layer_size(layer, place.nodes)
        first = layer.outputs[0] if layer.outputs else None
        dtype = dtypes.get(id(layer)) or _product_type(layer) or (first.dtype if first else "")
        work = macs.get(id(layer), 0)
        seconds, bound = _seconds(work, dtype, size.bytes, device)
        yield LayerCost(
            name=layer.name,
            kind=layer.kind,
            nodes=tuple(map(label, place.nodes)) + place.unknown,
            origin=place.origin,
            dtype=dtype,
            outputs=tuple(map(_describe, layer.outputs)),
            macs=work,
            bytes=size.bytes,
            bytes_known=size.known,
            milliseconds=seconds * 1e3,
            bound=bound,
            modules=tuple(dict.fromkeys(filter(None, map(module_of, place.nodes)))),
            role=_role(layer),
        )


def _describe(tensor: LayerTensor) -> str:
    shape = "x".join("?" if dim < 0 else str(dim) for dim in tensor.shape) or "scalar"
    return f"{tensor.dtype} {shape} {tensor.format.partition(')')[0].strip('(')}".strip()


def _product_type(layer: EngineLayer) -> str:
    """Return the type in which ``layer`` multiplies matrices, "" when it does not or is unclear."""
    types = computing_types(layer) if _multiplies(layer) else frozenset()
    return next(iter(types)) if len(types) == 1 else ""


def _multiplies(layer: EngineLayer) -> bool:
    return evidence(layer) in (Evidence.DEDICATED, Evidence.FUSED)


def _role(layer: EngineLayer) -> Role:
    if layer.kind in _NO_LAUNCH:
        return "waits"
    if _multiplies(layer):
        return "multiplies"
    if only_moves(layer):
        return "moves"
    return "quantizes" if only_quantizes(layer) else "computes"


def _seconds(macs: int, dtype: str, size: int, device: Device) -> tuple[float, Bound]:
    """Return the roofline's floor and which of the two ceilings it is (Williams et al. 2009)."""
    speed = rate(device, dtype)
    arithmetic = 2 * macs / speed if speed else 0.0
    memory = size / (device.bandwidth * 1e9)
    if macs and not speed:
        return memory, "unknown"
    return max(arithmetic, memory), "arithmetic" if arithmetic > memory else "memory"


def _node_costs(
    model: ir.Model, counted: Mapping[ir.Node, HeavyNode], places: Sequence[Place]
) -> Iterable[NodeCost]:
    layers: dict[ir.Node, list[int]] = {}
    for index, place in enumerate(places):
        for node in place.nodes:
            layers.setdefault(node, []).append(index)
    for node in model.graph:
        yield NodeCost(
            name=label(node),
            op=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}",
            macs=(counted[node].macs or 0) if node in counted else 0,
            bytes=node_bytes(node),
            module=module_of(node),
            source=source_of(node),
            layers=tuple(layers.get(node, ())),
            product=_product(node),
        )


def _product(node: ir.Node) -> tuple[int, ...]:
    """Return the summed and the last dimension of a matrix product."""
    if not is_op(node, "MatMul", "Gemm"):
        return ()
    left, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if not left or not out:
        return ()
    turned = node.attributes.get("transA") if is_op(node, "Gemm") else None
    return left[-2 if turned is not None and turned.as_int() else -1], out[-1]


def _node_floor(node: ir.Node, counted: Mapping[ir.Node, HeavyNode], device: Device) -> float:
    """Return the milliseconds of a node that runs by itself."""
    if is_op(node, *_NO_WORK):
        return 0.0
    macs = (counted[node].macs or 0) if node in counted else 0
    dtype = onnx_dtype(node.inputs[0]) if node.inputs else None
    return _seconds(macs, dtype or "", node_bytes(node) or 0, device)[0] * 1e3


def _floor(
    model: ir.Model,
    layers: Sequence[EngineLayer],
    counted: Mapping[ir.Node, HeavyNode],
    found: Mapping[ir.Node, Finding],
    device: Device,
) -> float:
    """Return the milliseconds that no schedule can beat, unless weights stay in the cache."""
    arithmetic = 0.0
    for node, heavy in counted.items():
        dtype = found[node].dtype if node in found else onnx_dtype(node.inputs[0])
        speed = rate(device, dtype or "")
        arithmetic += 2 * (heavy.macs or 0) / speed if speed else 0.0
    ends = dict.fromkeys((*model.graph.inputs, *model.graph.outputs))
    moved = sum(value_bytes(value) or 0 for value in ends)
    if layers:  # the engine keeps weights in the types that it computes with
        constants = {each.name: each for layer in layers for each in layer.constants}
        moved += sum(tensor_size(each).bytes for each in constants.values())
    else:
        moved += sum(value_bytes(value) or 0 for value in model.graph.initializers.values())
    return max(arithmetic, moved / (device.bandwidth * 1e9)) * 1e3


def _launches(model: ir.Model, layers: Sequence[EngineLayer]) -> int:
    if layers:
        return sum(_role(layer) != "waits" for layer in layers)
    return sum(not is_op(node, *_NO_WORK) for node in model.graph)


def _notes(
    heavy: Sequence[HeavyNode],
    layers: Sequence[LayerCost],
    nodes: Sequence[NodeCost],
    device: Device,
) -> Iterable[str]:
    uncounted = [one for one in heavy if one.macs is None]
    if uncounted:
        yield (
            f"{len(uncounted)} nodes that multiply are not counted, the first is "
            f"{uncounted[0].name}: {uncounted[0].reason}"
        )
    lost = [node for node in nodes if node.macs and not any(layers[i].macs for i in node.layers)]
    if layers and lost:
        yield (
            f"the work of {len(lost)} nodes is in no layer's floor, as it is not known which layer "
            f"does it; the first is {lost[0].name} ({lost[0].op})"
        )
    unknown = sum(not layer.bytes_known for layer in layers)
    if unknown:
        yield f"{unknown} layers have tensors of unknown size, counted with 1 for what is open"
    open_nodes = sum(node.bytes is None for node in nodes)
    if not layers and open_nodes:
        yield f"{open_nodes} nodes have tensors of unknown size, counted as 0"
    if open_nodes * 2 > len(nodes):
        yield "give the shapes of the inputs to count with, for example --shape x=8x3x224x224"
    missing = {layer.dtype for layer in layers if layer.bound == "unknown"}
    if missing:
        names = ", ".join(sorted(missing))
        yield f"{device.name}: the table has no rate for {names}; only memory is counted there"
