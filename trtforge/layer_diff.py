"""What two engines of one model do differently, by ONNX node, operator and torch module.

Layers of two engines have different names, so they are matched by the ONNX nodes behind them, as
far as both engines name them. Layers with the same nodes on both sides are held against each other.
What is left is joined by the nodes it shares, with each other or else with such a pair: there the
nodes are distributed differently over the layers, TensorRT fused them differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtforge.diff_figures import Figure, figures
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from trtforge.analysis import LayerCost, NodeCost, Prediction
    from trtforge.subject import Subject

NOISE = 0.03
"""Relative change of a measured time below which it counts as none."""
_Nodes = frozenset[str]
_Groups = dict[_Nodes, list["LayerCost"]]
_Sides = tuple[list["LayerCost"], list["LayerCost"]]


@dataclass(frozen=True)
class Change:
    """A part of the model that the two engines compute differently."""

    what: tuple[str, ...]
    """``fused``, ``precision``, ``output``, ``moves``, ``added``, ``removed``, ``time``."""
    nodes: tuple[str, ...]
    """The ONNX nodes of that part, those that both engines have; else those of the one."""
    ops: tuple[str, ...]
    modules: tuple[str, ...]
    before: tuple[LayerCost, ...]
    after: tuple[LayerCost, ...]
    before_ms: float
    after_ms: float
    effect_bytes: int
    """Bytes that the layers move, after minus before."""

    @property
    def effect_ms(self) -> float:
        """Time after minus time before."""
        return self.after_ms - self.before_ms


@dataclass(frozen=True)
class Total:
    """The time of one operator, or of one torch module, in both engines.

    The time of a layer goes to the nodes that multiply in it, by their work; to all of its nodes in
    equal parts where none does.
    """

    name: str
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class EngineDiff:
    """Everything that two engines do differently."""

    before: str
    after: str
    basis: str
    """``measured`` or ``predicted``: what the times are."""
    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]
    """The largest effect on time first."""
    same: int
    """Layers of the first that the second has as well."""
    by_op: tuple[Total, ...]
    """The largest effect first."""
    by_module: tuple[Total, ...]


def compare_engines(before: Subject, after: Subject) -> EngineDiff:
    """Return what ``after`` does differently from ``before``.

    Raises:
        RequestError: one of the two has no layers of an engine.
    """
    for each in (before, after):
        if not each.prediction.layers:
            raise RequestError(
                f"{each.title} has no layers of an engine to compare",
                remedy="give a run that built an engine, an engine, or a layer dump of TensorRT",
            )
    measured = bool(before.layer_times() and after.layer_times())
    first, second = (
        _Side(each.prediction, each.layer_times() if measured else {}) for each in (before, after)
    )
    common = first.names & second.names
    nodes = {**first.nodes, **second.nodes}
    found = (_change(part, first, second, nodes, common) for part in _parts(first, second, common))
    changes = [change for change in found if change.what]
    return EngineDiff(
        before=before.title,
        after=after.title,
        basis="measured" if measured else "predicted",
        figures=tuple(figures(before, after)),
        changes=tuple(sorted(changes, key=lambda each: (-abs(each.effect_ms), each.nodes))),
        same=len(first.layers) - sum(len(each.before) for each in changes),
        by_op=_totals(first.shares("op"), second.shares("op")),
        by_module=_totals(first.shares("module"), second.shares("module")),
    )


class _Side:
    """The layers of one engine, with their times."""

    def __init__(self, found: Prediction, times: Mapping[str, float]) -> None:
        self._times = times
        self.measured = bool(times)
        self.layers = found.layers
        self.nodes: dict[str, NodeCost] = {node.name: node for node in found.nodes}
        self.names: _Nodes = frozenset(name for layer in found.layers for name in layer.nodes)

    def milliseconds(self, layers: Iterable[LayerCost]) -> float:
        """Return the time of ``layers``: measured where the basis is, else the floor."""
        if self.measured:
            return sum(self._times.get(layer.name, 0.0) for layer in layers)
        return sum(layer.milliseconds for layer in layers)

    def shares(self, fact: str) -> dict[str, float]:
        """Return the time of each operator (``op``) or torch module (``module``)."""
        total: dict[str, float] = {}
        for layer in self.layers:
            known = [self.nodes[name] for name in layer.nodes if name in self.nodes]
            work = sum(node.macs for node in known)
            for node in known:
                share = node.macs / work if work else 1 / len(known)
                if getattr(node, fact) and share:
                    spent = share * self.milliseconds((layer,))
                    total[getattr(node, fact)] = total.get(getattr(node, fact), 0.0) + spent
        return total


def _totals(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Total, ...]:
    rows = [
        Total(name, before.get(name, 0.0), after.get(name, 0.0)) for name in {**before, **after}
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.after_ms - row.before_ms), row.name)))


@dataclass(frozen=True)
class _Part:
    """Layers of both sides that compute the same nodes, or layers that one side alone has."""

    before: tuple[LayerCost, ...]
    after: tuple[LayerCost, ...]
    fused: bool = False
    """Whether the nodes are distributed differently over the layers."""


def _parts(first: _Side, second: _Side, common: _Nodes) -> Iterator[_Part]:
    groups = _by_nodes(first.layers, common), _by_nodes(second.layers, common)
    alone = groups[0].pop(frozenset(), []), groups[1].pop(frozenset(), [])
    pairs = {
        key: (groups[0].pop(key), groups[1].pop(key)) for key in list(groups[0]) if key in groups[1]
    }
    fused: set[_Nodes] = set()
    for keys, sides in _leftovers(groups):
        touched = _closest(keys, pairs) if not all(sides) else None
        if touched is None:
            yield _Part(tuple(sides[0]), tuple(sides[1]), fused=all(map(bool, sides)))
            continue
        fused.add(touched)
        for mine, new in zip(pairs[touched], sides, strict=True):
            mine.extend(new)
    for key, (before, after) in pairs.items():
        yield _Part(tuple(before), tuple(after), fused=key in fused)
    yield from (_Part((layer,), ()) for layer in alone[0])
    yield from (_Part((), (layer,)) for layer in alone[1])


def _leftovers(groups: tuple[_Groups, _Groups]) -> list[tuple[_Nodes, _Sides]]:
    """Join what has no counterpart by the nodes it shares; return the nodes and layers of each."""
    owner = _joined([*groups[0], *groups[1]])
    layers: dict[int, _Sides] = {}
    nodes: dict[int, _Nodes] = {}
    for side, group in enumerate(groups):
        for key, found in group.items():
            layers.setdefault(owner[key], ([], []))[side].extend(found)
            nodes[owner[key]] = nodes.get(owner[key], frozenset()) | key
    return [(nodes[number], layers[number]) for number in layers]


def _closest(nodes: _Nodes, pairs: Mapping[_Nodes, _Sides]) -> _Nodes | None:
    """Return the pair that shares the largest part of its own nodes with ``nodes``, if any."""
    shared = {key: len(key & nodes) / len(key) for key in pairs if key & nodes}
    return max(shared, key=lambda key: shared[key]) if shared else None


def _by_nodes(layers: Sequence[LayerCost], common: _Nodes) -> _Groups:
    """Group layers by the nodes that both engines name.

    Layers of TensorRT's own have none; they are in the figures (layers, launches).
    """
    groups: _Groups = {}
    for layer in layers:
        if layer.nodes:
            named = frozenset(layer.nodes) if layer.origin == "named" else frozenset()
            groups.setdefault(named & common, []).append(layer)
    return groups


def _joined(keys: Iterable[_Nodes]) -> dict[_Nodes, int]:
    """Return a number for each key; keys that share nodes, also through others, have the same."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    kept = [(key, next(iter(key))) for key in keys]
    for key, first in kept:
        leader.update((name, name) for name in key if name not in leader)
        for name in key:
            leader[find(name)] = find(first)
    numbers: dict[str, int] = {}
    return {key: numbers.setdefault(find(first), len(numbers)) for key, first in kept}


def _change(
    part: _Part, first: _Side, second: _Side, nodes: Mapping[str, NodeCost], common: _Nodes
) -> Change:
    named = dict.fromkeys(n for layer in (*part.before, *part.after) for n in layer.nodes)
    names = tuple(name for name in named if name in common) or tuple(named)
    if not part.before or not part.after:
        names = tuple(named)
    known = [nodes[name] for name in names if name in nodes]
    before_ms, after_ms = first.milliseconds(part.before), second.milliseconds(part.after)
    return Change(
        what=tuple(_differences(part, before_ms, after_ms, measured=first.measured)),
        nodes=names,
        ops=tuple(dict.fromkeys(node.op for node in known)),
        modules=tuple(dict.fromkeys(node.module for node in known if node.module)),
        before=part.before,
        after=part.after,
        before_ms=before_ms,
        after_ms=after_ms,
        effect_bytes=sum(x.bytes for x in part.after) - sum(x.bytes for x in part.before),
    )


def _differences(
    part: _Part, before_ms: float, after_ms: float, *, measured: bool
) -> Iterator[str]:
    if not part.before or not part.after:
        yield "removed" if part.before else "added"
    else:
        fused = part.fused or len(part.before) != len(part.after)
        if fused:
            yield "fused"
        if _multiplied(part.before) != _multiplied(part.after):
            yield "precision"
        if not fused and _outputs(part.before) != _outputs(part.after):
            yield "output"
    moves = [sum(each.role in ("moves", "quantizes") for each in side) for side in
             (part.before, part.after)]  # fmt: skip
    if moves[1] > moves[0]:
        yield "moves"
    slower_or_faster = abs(after_ms - before_ms) > NOISE * before_ms
    if measured and part.before and part.after and slower_or_faster:
        yield "time"


def _multiplied(layers: Sequence[LayerCost]) -> Counter[str]:
    """Return the work of the layers that multiply by type; 1 each where it is not known."""
    products = [layer for layer in layers if layer.macs or layer.role == "multiplies"]
    known = any(layer.macs for layer in products)
    work: Counter[str] = Counter()
    for layer in products:
        work[layer.dtype] += layer.macs if known else 1
    return +work


def _outputs(layers: Sequence[LayerCost]) -> Counter[str]:
    return Counter(output for layer in layers for output in layer.outputs)
