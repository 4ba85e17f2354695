"""The picture of a model's graph: one box a node, coloured by the type it runs in; no script.

``report.js`` lets people move and zoom it; without scripts it can be scrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from trtforge.graph_layout import layered
from trtforge.graph_summary import GraphSummary
from trtforge.pictures import type_class

WIDTH, HEIGHT = 132, 26
ACROSS, DOWN = WIDTH + 16, HEIGHT + 22
_LONGEST = 20  # characters that fit into a box


def graph_picture(graph: GraphSummary, types: Mapping[str, str], layers: Mapping[str, int]) -> str:
    """Return the picture as SVG text.

    Args:
        graph: The model.
        types: Node name to the type it runs in, where that is known.
        layers: Node name to the position of an engine layer that computes it.
    """
    if not graph.names:
        return ""
    places = layered(len(graph.names), graph.edges)
    left = min(across for _, across in places)
    corners = [((across - left) * ACROSS, depth * DOWN) for depth, across in places]
    wide = max(x for x, _ in corners) + WIDTH
    tall = max(y for _, y in corners) + HEIGHT
    lines = "".join(_edge(corners[start], corners[end]) for start, end in graph.edges)
    boxes = "".join(_boxes(graph, corners, types, layers))
    return (
        f'<svg class="graph" viewBox="-8 -8 {wide + 16:.0f} {tall + 16:.0f}" role="group" '
        f'aria-label="graph of {len(graph.names)} nodes">'
        f'<path class="edges" d="{lines}"/>{boxes}</svg>'
    )


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x, y = start[0] + WIDTH / 2, start[1] + HEIGHT
    far, below = end[0] + WIDTH / 2, end[1]
    if x == far:
        return f"M{x:.0f} {y:.0f}V{below:.0f}"
    return f"M{x:.0f} {y:.0f}C{x:.0f} {y + 16:.0f} {far:.0f} {below - 16:.0f} {far:.0f} {below:.0f}"


def _boxes(
    graph: GraphSummary,
    corners: Sequence[tuple[float, float]],
    types: Mapping[str, str],
    layers: Mapping[str, int],
) -> Iterator[str]:
    for index, (name, op, (x, y)) in enumerate(zip(graph.names, graph.ops, corners, strict=True)):
        kind = types.get(name, "")
        colour = type_class(kind) if kind else "type-none"
        shown = op if len(op) <= _LONGEST else f"{op[: _LONGEST - 1]}…"
        title = escape(f"{name} ({op}){f', runs in {kind}' if kind else ''}")
        box = (
            f"<title>{title}</title>"
            f'<path d="M{x:.0f} {y:.0f}h{WIDTH}v{HEIGHT}h-{WIDTH}z"/>'
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 17:.0f}">{escape(shown)}</text>'
        )
        if name in layers:
            box = f'<a href="#layer-{layers[name]}">{box}</a>'
        yield f'<g id="node-{index}" class="{colour}">{box}</g>'
