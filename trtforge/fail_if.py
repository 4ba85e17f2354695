"""Conditions on what changed, for scripts: ``latency>+3%|layers>+2|int8_macs<-1%``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from trtforge.diff_figures import WORK, Figure
from trtforge.errors import RequestError, did_you_mean

_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*([<>])\s*([+-]?\d{1,15}(?:\.\d{1,9})?)\s*(%?)\s*")
_TYPES = (
    "float32", "float16", "bfloat16", "float8e4m3fn", "float8e5m2", "float4e2m1", "int8", "int4",
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A change of one figure that is not wanted."""

    name: str
    direction: Literal["<", ">"]
    limit: float
    """Of the change: in the figure's own unit (ms, bytes, a count), or in percent."""
    relative: bool
    """Whether the limit is in percent of the value before."""
    text: str
    """As it was written."""

    def holds(self, figure: Figure) -> bool:
        """Whether the figure changed by more than the limit."""
        change = _percent(figure) if self.relative else figure.change
        return change > self.limit if self.direction == ">" else change < self.limit


def read_conditions(text: str) -> tuple[Condition, ...]:
    """Read conditions with ``|`` between them; any one that holds is a failure.

    Raises:
        RequestError: one is not of the form ``NAME>CHANGE`` or ``NAME<CHANGE``.
    """
    return tuple(map(_read, text.split("|")))


def _read(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise RequestError(
            f"--fail-if: {text.strip()!r} is no condition",
            remedy='write NAME>CHANGE or NAME<CHANGE, for example "latency>+3%|layers>+2"',
        )
    direction: Literal["<", ">"] = "<" if match[2] == "<" else ">"
    return Condition(match[1], direction, float(match[3]), bool(match[4]), text.strip())


def failures(conditions: Iterable[Condition], figures: Iterable[Figure]) -> Iterator[str]:
    """Yield a sentence for each condition that holds.

    Raises:
        RequestError: a condition names a figure that is not there.
    """
    known = {figure.name: figure for figure in figures}
    for condition in conditions:
        figure = known.get(condition.name) or _no_work(condition.name)
        if figure is None:
            raise RequestError(
                f"--fail-if: there is no figure {condition.name!r} in both. "
                f"{did_you_mean(condition.name, known)}".rstrip(),
                remedy=f"use one of {', '.join(known)}; latency needs measured times on both sides",
            )
        if condition.holds(figure):
            yield (
                f"{condition.text}: {figure.name} went from {figure.before:g} to "
                f"{figure.after:g}{figure.unit and ' '}{figure.unit} ({_percent(figure):+.3g} %)"
            )


def _no_work(name: str) -> Figure | None:
    """Return the figure of a type in which neither engine multiplies."""
    return Figure(name, 0, 0) if name in {f"{dtype}{WORK}" for dtype in _TYPES} else None


def _percent(figure: Figure) -> float:
    if figure.before:
        return 100 * figure.change / abs(figure.before)
    return math.copysign(math.inf, figure.change) if figure.change else 0.0
