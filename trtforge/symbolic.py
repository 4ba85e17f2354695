"""What the rules of a custom op say, as expressions of the sizes of its inputs.

The rules are ordinary Python on integers, but some readers want them before there are sizes:
TensorRT while it builds with dynamic shapes, a plugin without Python for good. :func:`trace`
calls a rule with expressions in place of the dimensions and returns what the rule returned. Where
the rule branches on a size (``if``, ``max``, ``next(... if ...)``) it is called once more for
each way, as symbolic execution does (King, "Symbolic Execution and Program Testing", 1976), so
the result holds the choice as an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, cast

from trtforge.errors import StepError
from trtforge.ops import Shape

R = TypeVar("R")
E = TypeVar("E")
MAX_CALLS = 300
"""Calls of one rule; a loop over the entries of a dimension would not end."""
MAX_INDEX = 8
"""Up to here a rule may take a size for a plain number, as that of axes: it is called for each."""


class NotSymbolic(StepError):
    """A rule cannot be written as expressions of sizes; the message says why."""


class Arithmetic(Protocol[E]):
    """Makes expressions of another kind, for example TensorRT's, out of ours."""

    def constant(self, number: int) -> E:
        """Return a number."""

    def size(self, tensor: int, axis: int) -> E:
        """Return a dimension of an input."""

    def operation(self, operator: str, operands: Sequence[E]) -> E:
        """Return the result of an operator.

        ``add``, ``sub``, ``mul``, ``floor_div``, ``ceil_div``, ``less``, ``equal``, or ``choose``:
        the second operand where the first is 1, and the third where it is 0.
        """


class _Undecided(BaseException):  # no rule may catch it by accident
    def __init__(self, question: Expression) -> None:
        self.question = question


@dataclass
class _Path:
    """One way through a rule: the questions that were answered already."""

    answers: dict[str, bool]

    def decide(self, question: Expression) -> bool:
        answer = self.answers.get(str(question))
        if answer is None:
            raise _Undecided(question)
        return answer


@dataclass(frozen=True, eq=False)
class Expression:
    """An integer that depends on sizes. It behaves like one; asking its truth forks the trace."""

    operator: str
    operands: tuple[Expression | int, ...]
    path: _Path

    def _with(self, operator: str, *operands: Any) -> Any:
        if not all(isinstance(operand, Expression | int) for operand in operands):
            return NotImplemented  # floats and the like: sizes are whole
        return Expression(operator, operands, self.path)

    def __add__(self, other: Any) -> Any:
        return self if _is(other, 0) else self._with("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self if _is(other, 0) else self._with("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        if _is(other, 0) or _is(other, 1):
            return self if other else 0
        return self._with("mul", self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        number, divisor = (*self.operands, 0, 0)[:2]
        if self.operator == "floor_div" and _negated(number) is not None:
            return self._with("ceil_div", _negated(number), divisor)  # -(-a // b)
        positive = _negated(self)
        return self._with("sub", 0, self) if positive is None else positive

    def __floordiv__(self, other: Any) -> Any:
        return self if _is(other, 1) else self._with("floor_div", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with("floor_div", other, self)

    def __mod__(self, other: Any) -> Any:
        return self - self // other * other

    def __rmod__(self, other: Any) -> Any:
        return other - other // self * self

    def __lt__(self, other: Any) -> Any:
        return self._with("less", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._with("less", other, self)

    def __le__(self, other: Any) -> Any:
        return self._with("equal", self._with("less", other, self), 0)

    def __ge__(self, other: Any) -> Any:
        return self._with("equal", self._with("less", self, other), 0)

    def __eq__(self, other: object) -> Any:
        return self._with("equal", self, other)

    def __ne__(self, other: object) -> Any:
        return self._with("equal", self == other, 0)

    __hash__ = None  # type: ignore[assignment]  # equality is a question here

    def __bool__(self) -> bool:
        if self.operator == "equal" and _is(self.operands[1], 0):
            inner = self.operands[0]
            if isinstance(inner, Expression) and inner.operator in ("less", "equal"):
                return not self.path.decide(inner)
        return self.path.decide(self if self.operator in ("less", "equal") else self != 0)

    def __index__(self) -> int:
        if self.operator in ("less", "equal"):
            return 1 if self else 0
        for number in range(MAX_INDEX + 1):
            if self == number:
                return number
        raise NotSymbolic(
            f"the rule needs the number of {self} itself, for example as the length of a list",
            remedy="use + - * // % and comparisons only",
        )

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.__index__())

    def __str__(self) -> str:
        if self.operator == "size":
            return f"d{self.operands[0]}.{self.operands[1]}"
        return f"{self.operator}({', '.join(map(str, self.operands))})"

    __repr__ = __str__


def _is(value: object, number: int) -> bool:
    return isinstance(value, int) and value == number


def _negated(value: Expression | int) -> Expression | int | None:
    """Return x where ``value`` is ``-x``, else None."""
    if isinstance(value, Expression):
        return value.operands[1] if value.operator == "sub" and _is(value.operands[0], 0) else None
    return -value


@dataclass(frozen=True)
class Branch(Generic[R]):
    """Two ways through a rule."""

    question: Expression
    yes: Branch[R] | R
    """What the rule returns where the answer is yes."""
    no: Branch[R] | R


def trace(rule: Callable[..., R], ranks: Sequence[int]) -> R:
    """Return what ``rule`` returns for inputs of any size.

    Args:
        rule: Called with one shape per input. It returns integers in tuples, mappings and
            dataclasses, always of the same structure.
        ranks: Number of dimensions of each input.

    Returns:
        The same structure with :class:`Expression` for the integers that depend on sizes.

    Raises:
        NotSymbolic: the rule needs a size as a plain number, or returns another structure for
            other sizes, or branches without end.
    """
    return cast("R", _merge(branches(rule, ranks)))


def branches(rule: Callable[..., R], ranks: Sequence[int]) -> Branch[R] | R:
    """Return what ``rule`` returns in each of its ways, which may differ in structure.

    Raises:
        NotSymbolic: the rule needs a size as a plain number, or branches without end.
    """
    return _fork(rule, ranks, {}, [MAX_CALLS])


def sizes(ranks: Sequence[int], answers: dict[str, bool] | None = None) -> tuple[Shape, ...]:
    """Return a shape of expressions for each input."""
    path = _Path(answers or {})
    shapes = [
        tuple(Expression("size", (tensor, axis), path) for axis in range(rank))
        for tensor, rank in enumerate(ranks)
    ]
    return cast("tuple[Shape, ...]", tuple(shapes))


def _fork(
    rule: Callable[..., R], ranks: Sequence[int], answers: Mapping[str, bool], left: list[int]
) -> Branch[R] | R:
    left[0] -= 1
    if left[0] < 0:
        raise NotSymbolic("the rule branches on sizes without end")
    try:
        return rule(*sizes(ranks, dict(answers)))
    except _Undecided as undecided:
        question = undecided.question
        yes, no = ({**answers, str(question): answer} for answer in (True, False))
        return Branch(question, _fork(rule, ranks, yes, left), _fork(rule, ranks, no, left))


def _merge(tree: Any) -> Any:
    if not isinstance(tree, Branch):
        return tree
    return _choice(tree.question, _merge(tree.yes), _merge(tree.no))


def _choice(question: Expression, yes: Any, no: Any) -> Any:
    if isinstance(yes, Expression | int) and isinstance(no, Expression | int):
        if str(yes) == str(no):
            return yes
        return Expression("choose", (question, yes, no), question.path)
    if type(yes) is type(no):
        if isinstance(yes, tuple) and len(yes) == len(no):
            return tuple(_choice(question, *pair) for pair in zip(yes, no, strict=True))
        if isinstance(yes, Mapping) and yes.keys() == no.keys():
            return {key: _choice(question, yes[key], no[key]) for key in yes}
        if is_dataclass(yes) and not isinstance(yes, type):
            changed = {
                field.name: _choice(question, getattr(yes, field.name), getattr(no, field.name))
                for field in fields(yes)
            }
            return replace(yes, **changed)
        if str(yes) == str(no):
            return yes
    raise NotSymbolic(f"the rule returns {yes} or {no}, depending on whether {question}")


def evaluate(value: Expression | int, arithmetic: Arithmetic[E]) -> E:
    """Write an expression in another arithmetic."""
    if not isinstance(value, Expression):
        return arithmetic.constant(value)
    if value.operator == "size":
        tensor, axis = cast("tuple[int, int]", value.operands)
        return arithmetic.size(tensor, axis)
    return arithmetic.operation(
        value.operator, [evaluate(operand, arithmetic) for operand in value.operands]
    )


@dataclass(frozen=True)
class Numbers:
    """Arithmetic with plain integers."""

    shapes: Sequence[Shape]

    def constant(self, number: int) -> int:
        """Return it."""
        return number

    def size(self, tensor: int, axis: int) -> int:
        """Return the dimension."""
        return self.shapes[tensor][axis]

    def operation(self, operator: str, operands: Sequence[int]) -> int:
        """Compute."""
        a, b, *rest = operands
        if operator == "choose":
            return b if a else rest[0]
        if operator in ("less", "equal"):
            return int(a < b if operator == "less" else a == b)
        if operator in ("floor_div", "ceil_div"):
            if not b:
                return 0  # only in the way that was not chosen; see `choose`
            return a // b if operator == "floor_div" else -(-a // b)
        return {"add": a + b, "sub": a - b, "mul": a * b}[operator]


@dataclass(frozen=True)
class CPlusPlus:
    """Arithmetic as C++ text: ``in(0, 1)`` is a dimension; ``floorDiv`` and ``ceilDiv`` exist."""

    def constant(self, number: int) -> str:
        """Write it as ``int64_t``."""
        return f"INT64_C({number})"

    def size(self, tensor: int, axis: int) -> str:
        """Write the dimension."""
        return f"in({tensor}, {axis})"

    def operation(self, operator: str, operands: Sequence[str]) -> str:
        """Write the operation."""
        if operator == "choose":
            return f"({operands[0]} ? {operands[1]} : {operands[2]})"
        if operator in ("floor_div", "ceil_div"):
            name = "floorDiv" if operator == "floor_div" else "ceilDiv"
            return f"{name}({', '.join(operands)})"
        sign = {"add": "+", "sub": "-", "mul": "*", "less": "<", "equal": "=="}[operator]
        return f"({operands[0]} {sign} {operands[1]})"
