"""Tells attentions of one stack of layers from those of another that stands beside it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from trtforge.graph import is_op

_Towers = frozenset[int]
_NONE: _Towers = frozenset()


def tower_ends(graph: ir.Graph | ir.Function, attentions: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the last of ``attentions`` in each tower, or nothing where there is one tower.

    A tower is all that one input reaches, and what meets it in an attention. The two encoders of
    CLIP, whose results meet behind their last layers only, are two; an encoder and the decoder that
    attends to it are one.

    Args:
        graph: In topological order.
        attentions: Softmax nodes of ``graph``.
    """
    wanted = set(attentions)
    if len(wanted) < 2:
        return set()
    above = list(range(len(graph.inputs)))  # of each input and Softmax where it led to, or itself
    reached = {value: frozenset((number,)) for number, value in enumerate(graph.inputs)}
    tower: dict[ir.Node, int] = {}
    for node in graph:
        known = (reached[value] for value in node.inputs if value in reached)
        towers = _NONE.union(*known)
        if is_op(node, "Softmax"):
            own = len(above)
            above.append(own)
            for each in towers:
                above[_top(above, each)] = own
            tower[node], towers = own, frozenset((own,))
        if towers:
            reached |= dict.fromkeys(node.outputs, towers)
    last = {_top(above, number): node for node, number in tower.items() if node in wanted}
    return set(last.values()) if len(last) > 1 else set()


def _top(above: list[int], number: int) -> int:
    while above[number] != number:
        above[number] = above[above[number]]
        number = above[number]
    return number
