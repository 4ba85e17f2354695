"""Patterns: a formula as exporters write it, and the ways in which a graph computes it.

A pattern is built from :class:`Input`, :class:`Number`, :func:`node` and :class:`Either`::

    x = Input("x")
    silu = node("Mul", x, node("Sigmoid", x))

:meth:`Pattern.matches` walks a graph from a result to its inputs. Sums and products match in either
order. It tries every alternative, so a later part of a pattern can reject what an earlier one took:
a search with backtracking, whose cost depends on the pattern alone, not on the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose

import onnx_ir as ir

from trtforge.graph import is_op, scalar

COMMUTATIVE = ("Add", "Mul")


@dataclass(frozen=True)
class Match:
    """One way in which a graph computes a formula."""

    values: Mapping[str, ir.Value] = field(default_factory=dict)
    """Inputs of the pattern, and results of the nodes that it names."""
    nodes: tuple[ir.Node, ...] = ()
    """The nodes that it is computed by, the last one first."""

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]

    def has(self, name: str) -> bool:
        """Whether the way that was found names a value so."""
        return name in self.values

    def naming(self, name: str, value: ir.Value) -> Match | None:
        """Return the match with one more name, or None where another value has it."""
        if not name or self.values.get(name) is value:
            return self
        return replace(self, values={**self.values, name: value}) if not self.has(name) else None


class Pattern(ABC):
    """A part of a formula."""

    @abstractmethod
    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield each way in which ``value`` is this part, given what is matched already."""


@dataclass(frozen=True)
class Input(Pattern):
    """Any value; the same one wherever the pattern has the name."""

    name: str

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the match with the value under its name."""
        named = match.naming(self.name, value) if value is not None else None
        if named is not None:
            yield named


@dataclass(frozen=True)
class Number(Pattern):
    """A constant of one element, within a thousandth: float16 keeps three digits."""

    wanted: float

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the match where the value is this number."""
        known = scalar(value)
        if known is not None and isclose(float(known), self.wanted, rel_tol=1e-3):
            yield match


@dataclass(frozen=True)
class Scalar(Pattern):
    """Any constant of one element, kept under a name."""

    name: str

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the match with the value under its name."""
        if scalar(value) is not None:
            yield from Input(self.name).matches(value, match)


@dataclass(frozen=True)
class Either(Pattern):
    """One of several patterns; those in front are tried first."""

    choices: tuple[Pattern, ...]

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the matches of each in turn."""
        for choice in self.choices:
            yield from choice.matches(value, match)


@dataclass(frozen=True)
class Node(Pattern):
    """The result of a node; see :func:`node`."""

    op_type: str
    inputs: tuple[Pattern, ...]
    name: str
    attributes: Mapping[str, object]

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield each way in which the first result of such a node is ``value``."""
        producer = value.producer() if value is not None else None
        if value is None or producer is None or value.index() or not self._fits(producer):
            return
        entered = replace(match, nodes=(*match.nodes, producer)).naming(self.name, value)
        if entered is None:
            return
        yield from _all(self.inputs, producer.inputs, entered)
        if self.op_type in COMMUTATIVE:
            yield from _all(self.inputs[::-1], producer.inputs, entered)

    def _fits(self, producer: ir.Node) -> bool:
        if not is_op(producer, self.op_type) or len(producer.inputs) < len(self.inputs):
            return False
        found = {name: attr.value for name, attr in producer.attributes.items()}
        return all(found.get(name) == wanted for name, wanted in self.attributes.items())


def _all(
    patterns: Sequence[Pattern], values: Sequence[ir.Value | None], match: Match
) -> Iterator[Match]:
    if not patterns:
        yield match
        return
    for found in patterns[0].matches(values[0], match):
        yield from _all(patterns[1:], values[1:], found)


def node(op_type: str, *inputs: Pattern, name: str = "", **attributes: object) -> Pattern:
    """Return the pattern of a node's first result.

    Args:
        op_type: A standard ONNX operator.
        inputs: Its first inputs; what else it has, the pass looks at itself.
        name: How the match calls the result.
        attributes: What its attributes must be; others may be anything.
    """
    return Node(op_type, inputs, name, attributes)


def either(*choices: Pattern) -> Pattern:
    """Return the pattern of one of ``choices``."""
    return Either(choices)


def widened(inner: Pattern) -> Pattern:
    """Return ``inner``, maybe cast to float32."""
    return either(node("Cast", inner, to=int(ir.DataType.FLOAT)), inner)


def rounded(inner: Pattern) -> Pattern:
    """Return ``inner``, maybe cast to a float type that kernels have."""
    types = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return either(inner, *(node("Cast", inner, to=int(each)) for each in types))


def silu(inner: Pattern) -> Pattern:
    """Return ``inner * sigmoid(inner)``; ``inner`` must name its value."""
    return node("Mul", inner, node("Sigmoid", inner))


def squared(inner: Pattern) -> Pattern:
    """Return ``inner²``."""
    return either(node("Pow", inner, Number(2)), node("Mul", inner, inner))


def inverse_root(inner: Pattern) -> Pattern:
    """Return ``1 / √inner``."""
    root = either(node("Sqrt", inner), node("Pow", inner, Number(0.5)))
    return either(
        node("Reciprocal", root), node("Div", Number(1), root), node("Pow", inner, Number(-0.5))
    )


def divided_by_root(dividend: Pattern, inner: Pattern) -> Pattern:
    """Return ``dividend / √inner``."""
    root = either(node("Sqrt", inner), node("Pow", inner, Number(0.5)))
    return either(node("Div", dividend, root), node("Mul", dividend, inverse_root(inner)))
