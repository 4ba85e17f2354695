"""Says in a few lines what an engine or a model must cost, and what takes most of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trtforge.quantities import format_bytes, percent

if TYPE_CHECKING:
    from trtforge.analysis import NodeCost, Prediction
    from trtforge.subject import Subject

Row = tuple[str, ...]
LAYER_COLUMNS = ("floor", "share", "bound", "type", "MACs", "bytes", "layer", "nodes", "modules")
NODE_COLUMNS = ("MACs", "bytes", "MACs/byte", "node", "operator", "module")
_SHOWN = 3


def summary_lines(subject: Subject) -> Iterator[str]:
    """Yield what is known of the whole: everything here is predicted but the last line."""
    found = subject.prediction
    device = found.device
    yield f"Predicted  for {device.name} (sm_{device.sm}) by published rates; nothing was measured"
    moved = sum(layer.bytes for layer in found.layers)
    if not found.layers:
        moved = sum(node.bytes or 0 for node in found.nodes)
    intensity = f", {found.macs / moved:.1f} MACs/byte" if moved else ""
    yield f"Work       {found.macs:,} MACs, {format_bytes(moved)} moved{intensity}"
    yield f"Floor      {duration(found.floor_ms)}: no schedule is faster (weights read from memory)"
    what = "layers" if found.layers else "nodes"
    count = len(found.layers or found.nodes)
    yield f"In turn    {duration(found.serial_ms)}: {count} {what}, one after another"
    yield f"Launches   {found.launches}"
    if found.layers:
        yield f"Map        {_origins(found)}"
    for note in found.notes:
        yield f"Note       {note}"
    if subject.timings is not None:
        times = subject.timings
        yield f"Measured   median {times.median_ms:.4g} ms on {times.device}, {times.runs} runs"


def _origins(found: Prediction) -> str:
    counts = {"named": 0, "inferred": 0, "tensorrt": 0}
    for layer in found.layers:
        counts[layer.origin] += 1
    return (
        f"{counts['named']} layers name their ONNX nodes, {counts['inferred']} are placed by their "
        f"tensors, {counts['tensorrt']} are TensorRT's own"
    )


def layer_rows(found: Prediction, top: int) -> Iterator[Row]:
    """Yield the layers with the largest floor first."""
    for layer in sorted(found.layers, key=lambda each: -each.milliseconds)[:top]:
        yield (
            duration(layer.milliseconds),
            percent(layer.milliseconds / found.serial_ms if found.serial_ms else 0.0),
            layer.bound,
            layer.dtype,
            f"{layer.macs:,}",
            format_bytes(layer.bytes),
            layer.name,
            _few(layer.nodes),
            _few(layer.modules),
        )


def duration(milliseconds: float) -> str:
    """Write a time with three digits, below a millisecond in microseconds."""
    if 0 < milliseconds < 1:
        return f"{milliseconds * 1e3:.3g} us"
    return f"{milliseconds:.3g} ms"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def node_rows(found: Prediction, top: int) -> Iterator[Row]:
    """Yield the nodes with the most work first, then those that move most."""

    def cost(node: NodeCost) -> tuple[int, int]:
        return -node.macs, -(node.bytes or 0)

    for node in sorted(found.nodes, key=cost)[:top]:
        intensity = f"{node.macs / node.bytes:.1f}" if node.bytes else ""
        size = format_bytes(node.bytes) if node.bytes is not None else "?"
        yield f"{node.macs:,}", size, intensity, node.name, node.op, node.module
