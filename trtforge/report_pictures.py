"""The pictures of a report's run, engine and graph, from what the report holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.graph_picture import graph_picture
from trtforge.run_pictures import RoofPoint, roofline, timeline

if TYPE_CHECKING:
    from trtforge.report import Report


def steps_over_time(report: Report) -> str:
    """Return the steps of the run over time, or ""."""
    return timeline([(stage.name, stage.steps) for stage in report.stages])


def types_of_nodes(report: Report) -> dict[str, str]:
    """Return the type that each node runs in, as far as the engine's layers tell."""
    layers = report.prediction.layers if report.prediction else ()
    types = {node: layer.dtype for layer in layers for node in layer.nodes}
    if report.precision:
        types |= {node: each.dtype for each in report.precision.shares for node in each.nodes}
    return types


def graph(report: Report) -> str:
    """Return the final model's graph, coloured by the type that each node runs in, or ""."""
    if report.graph is None:
        return ""
    places: dict[str, int] = {}
    for index, layer in enumerate(report.prediction.layers if report.prediction else ()):
        for node in layer.nodes:
            places.setdefault(node, index)
    return graph_picture(report.graph, types_of_nodes(report), places)


def roof(report: Report) -> str:
    """Return the layers that compute under the GPU's two ceilings, or ""."""
    found = report.prediction
    if found is None:
        return ""
    measured = (
        {each.name: each.median_ms for each in report.timings.layers} if report.timings else {}
    )
    points = []
    for layer in found.layers:
        time = measured.get(layer.name) or layer.milliseconds
        if layer.macs and layer.bytes and time:
            rate = 2 * layer.macs / time / 1e9
            intensity = 2 * layer.macs / layer.bytes
            points.append(RoofPoint(layer.name, intensity, rate, layer.name in measured))
    used = {layer.dtype for layer in found.layers if layer.macs}
    rates = {kind: rate for kind, rate in found.device.rates.items() if kind in used}
    return roofline(points, found.device.bandwidth, rates, found.device.name)
