"""The rules of a custom op as C++: shapes, tactic, launches and workspace, for a plugin of its own.

The rules are traced (:mod:`trtforge.symbolic`) for the ranks that inputs may have. What a rule
refuses at some sizes, C++ refuses at run time in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from trtforge.errors import StepError, TrtforgeError
from trtforge.ops import launches
from trtforge.symbolic import Branch, CPlusPlus, Expression, branches, evaluate, trace

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Launch, Shape, Tactic

R = TypeVar("R")
Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """An op with its attributes, and the ranks that its inputs may have."""

    op: CustomOp
    dtypes: tuple[str, ...]
    ranks: tuple[Ranks, ...]


@dataclass(frozen=True)
class _Refused:
    """The rule raises an error at these sizes."""

    reason: str


@dataclass(frozen=True)
class RankRules:
    """The rules for one rank of each input; expressions of C++."""

    ranks: Ranks
    shapes: tuple[tuple[str, ...], ...]
    """By output and axis; ``make.`` builds an expression of TensorRT's, or a number."""
    tactics: tuple[str, ...]
    """By type: the number of the tactic, counted from 1."""
    launches: tuple[str, ...]
    """By tactic: statements that fill ``made``, or set ``problem``."""
    workspace: str


@dataclass(frozen=True)
class VariantRules:
    """The rules of a variant."""

    variant: Variant
    tactics: tuple[Tactic, ...]
    by_ranks: tuple[RankRules, ...]


class NotExportable(StepError):
    """An op's rules cannot be written in C++; the message says which and why."""

    advice = "use the plugin in Python: the `tensorrt` step makes it for every custom op"


class Made(CPlusPlus):
    """Arithmetic as calls of ``make``, which builds expressions of TensorRT's or numbers."""

    def constant(self, number: int) -> str:
        """Write the number."""
        return f"make.constant({number})"

    def size(self, tensor: int, axis: int) -> str:
        """Write the dimension."""
        return f"make.size({tensor}, {axis})"

    def operation(self, operator: str, operands: Sequence[str]) -> str:
        """Write the call."""
        name = {"floor_div": "floorDiv", "ceil_div": "ceilDiv"}.get(operator, operator)
        return f"make.{name}({', '.join(operands)})"


def write_rules(variant: Variant) -> VariantRules:
    """Write the rules of a variant in C++.

    Raises:
        NotExportable: a rule cannot be written as expressions of sizes.
    """
    op, tactics = variant.op, list[Any]()
    choices = {ranks: _choices(variant, ranks, tactics) for ranks in variant.ranks}
    by_ranks = []
    for ranks in variant.ranks:
        shapes = _traced(op, "shapes", partial(trace, op.shapes, ranks))
        by_ranks.append(
            RankRules(
                ranks,
                tuple(tuple(evaluate(dim, Made()) for dim in shape) for shape in shapes),
                choices[ranks],
                tuple(_launches(op, ranks, tactic) for tactic in tactics),
                _workspace(op, ranks),
            )
        )
    return VariantRules(variant, tuple(tactics), tuple(by_ranks))


def _choices(variant: Variant, ranks: Ranks, tactics: list[Tactic]) -> tuple[str, ...]:
    """Return the expression of the tactic's number for each type; new tactics go to the list."""

    def number(dtype: str, inputs: tuple[Shape, ...]) -> int:
        tactic = dict(variant.op.tactic(dtype, inputs))
        if tactic not in tactics:
            tactics.append(tactic)
        return tactics.index(tactic) + 1

    def expression(dtype: str) -> str:
        rule = partial(trace, lambda *inputs: number(dtype, inputs), ranks)
        return _number(_traced(variant.op, "tactic", rule))

    return tuple(map(expression, variant.dtypes))


def _launches(op: CustomOp, ranks: Ranks, tactic: Tactic) -> str:
    def rule(*inputs: Shape) -> tuple[Launch, ...] | _Refused:
        try:
            return launches(op, inputs, op.shapes(*inputs), tactic)
        except TrtforgeError as error:
            return _Refused(error.what)

    tree = _traced(op, "launch", lambda: branches(rule, ranks))
    refusals = _refusals(tree)
    if all(refusals):
        raise NotExportable(
            f"custom op {op.name}: its rule launch refuses all sizes: {refusals[0]}"
        )
    return "\n".join(_statements(tree))


def _refusals(tree: Any) -> list[str]:
    if isinstance(tree, Branch):
        return _refusals(tree.yes) + _refusals(tree.no)
    return [tree.reason if isinstance(tree, _Refused) else ""]


def _statements(tree: Any) -> list[str]:
    if isinstance(tree, Branch):
        yes, no = (["    " + line for line in _statements(way)] for way in (tree.yes, tree.no))
        return [f"if ({_number(tree.question)}) {{", *yes, "} else {", *no, "}"]
    if isinstance(tree, _Refused):
        return [f"problem = {json.dumps(tree.reason)};"]
    return [
        f"made.push_back({{{json.dumps(each.kernel)}, {_number(each.grid)}, {_number(each.block)}, "
        f"{_number(each.shared_bytes)}, {{{', '.join(map(_number, each.scalars))}}}}});"
        for each in tree
    ]


def _workspace(op: CustomOp, ranks: Ranks) -> str:
    def rule(*inputs: Shape) -> int:
        return op.workspace(inputs, op.shapes(*inputs))

    return _number(_traced(op, "workspace", lambda: trace(rule, ranks)))


def _number(value: Expression | int) -> str:
    return evaluate(value, CPlusPlus())


def _traced(op: CustomOp, rule: str, run: Callable[[], R]) -> R:
    try:
        return run()
    except TrtforgeError as error:  # NotSymbolic among them
        raise NotExportable(f"custom op {op.name}: its rule {rule}: {error.what}") from error
    except Exception as error:  # the rules of an op may raise anything
        cause = f"{type(error).__name__}: {error}"
        raise NotExportable(f"custom op {op.name}: its rule {rule}: {cause}") from error
