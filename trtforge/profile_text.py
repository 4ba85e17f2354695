"""Says in a few lines what an engine or a model must cost, and what takes most of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trtforge.quantities import format_bytes, percent

if TYPE_CHECKING:
    from trtforge.analysis import LayerCost, NodeCost, Prediction
    from trtforge.subject import Subject

Row = tuple[str, ...]
Table = tuple[Row, list[Row]]
"""The names of the columns, and the rows."""
_LAYER_COLUMNS = (
    "measured",
    "floor",
    "share",
    "bound",
    "type",
    "MACs",
    "bytes",
    "layer",
    "nodes",
    "modules",
)
_NODE_COLUMNS = ("measured", "MACs", "bytes", "MACs/byte", "node", "operator", "module")
_SHOWN = 3


def summary_lines(subject: Subject) -> Iterator[str]:
    """Yield what is known of the whole: predicted, and measured where there are times."""
    found = subject.prediction
    device = found.device
    unmeasured = "" if subject.timings else "; nothing was measured"
    yield f"Predicted  for {device.name} (sm_{device.sm}) by published rates{unmeasured}"
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
    yield from _measured_lines(subject)


def _measured_lines(subject: Subject) -> Iterator[str]:
    times = subject.timings
    if times is None:
        return
    sure = times.intervals.get("median")
    within = f" ({sure[0]:.4g} to {sure[1]:.4g} with 95 % confidence)" if sure else ""
    tail = [f"p{share} {value:.4g} ms" for share, value in ((90, times.p90_ms), (99, times.p99_ms))
            if value is not None]  # fmt: skip
    facts = ", ".join((f"median {times.median_ms:.4g} ms{within}", *tail))
    yield f"Measured   {facts}; {times.runs} runs on {times.device}"
    for note in times.notes:
        yield f"           {note}"
    found = subject.prediction
    if found.floor_ms and times.median_ms and "CPU" not in times.device:
        share = percent(found.floor_ms / times.median_ms)
        yield f"Reached    {share} of the speed of the floor, if it ran on {found.device.name}"


def advice_lines(subject: Subject) -> Iterator[str]:
    """Yield what would make the engine faster or smaller, and the change of the recipe."""
    for hint in subject.advice.hints:
        gain = f"at most {duration(hint.milliseconds)} ({subject.advice.basis}): "
        yield ""
        yield f"{hint.code}  {gain if hint.milliseconds else ''}{hint.cause}"
        yield f"    Found: {hint.evidence}"
        yield f"    To do: {hint.remedy}"
        yield f"    Recipe: {hint.change}"


def _origins(found: Prediction) -> str:
    counts = {"named": 0, "inferred": 0, "tensorrt": 0}
    for layer in found.layers:
        counts[layer.origin] += 1
    return (
        f"{counts['named']} layers name their ONNX nodes, {counts['inferred']} are placed by their "
        f"tensors, {counts['tensorrt']} are TensorRT's own"
    )


def table(subject: Subject, top: int) -> Table:
    """Return the ``top`` layers, or nodes where there is no engine, that take longest."""
    by_layer = bool(subject.prediction.layers)
    columns = _LAYER_COLUMNS if by_layer else _NODE_COLUMNS
    rows = list((_layer_rows if by_layer else _node_rows)(subject, top))
    unmeasured = not subject.layer_times()
    return columns[int(unmeasured) :], [row[int(unmeasured) :] for row in rows]


def _layer_rows(subject: Subject, top: int) -> Iterator[Row]:
    """Yield the layers that take longest first: by measured times, where there are some."""
    found, times = subject.prediction, subject.layer_times()

    def order(layer: LayerCost) -> tuple[float, float]:
        return -times.get(layer.name, 0.0), -layer.milliseconds

    for layer in sorted(found.layers, key=order)[:top]:
        yield (
            duration(times[layer.name]) if layer.name in times else "",
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


def _node_rows(subject: Subject, top: int) -> Iterator[Row]:
    """Yield the nodes that take longest first, then those with most work, that move most."""
    times = subject.layer_times()

    def cost(node: NodeCost) -> tuple[float, int, int]:
        return -times.get(node.name, 0.0), -node.macs, -(node.bytes or 0)

    for node in sorted(subject.prediction.nodes, key=cost)[:top]:
        intensity = f"{node.macs / node.bytes:.1f}" if node.bytes else ""
        size = format_bytes(node.bytes) if node.bytes is not None else "?"
        time = duration(times[node.name]) if node.name in times else ""
        yield time, f"{node.macs:,}", size, intensity, node.name, node.op, node.module
