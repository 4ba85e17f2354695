"""Holds the runs of two environments against each other and says whether to change over.

Only what got worse counts against the second one: it does not build what the first built, misses a
requirement that was met, runs nodes in other types than asked for, or a figure grew beyond its
limit. What could not be measured is said, and never counts as good.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtforge.diff_figures import WORK
from trtforge.fail_if import failures, read_conditions
from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    from trtforge.artifacts import Timings
    from trtforge.diff_figures import Figure
    from trtforge.fail_if import Condition
    from trtforge.qualification.sides import Side

Judgement = Literal["same", "better", "worse", "changed", "not measured"]
LIMITS = "engine_size>+10%|activation_memory>+10%|layers>+10%|latency>+5%"
"""Changes that count against the second environment unless the caller names others."""
SHOWN = ("layers", "moves", "engine_size", "activation_memory", "weights")
LATENCY = "latency"
_MEET = "the 95 % confidence intervals meet"
_COSINE = 1e-3
"""A drop of the smallest cosine that is no rounding: the shipped recipes ask for 0.999 and less."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at on both sides."""

    what: str
    before: str
    after: str
    judgement: Judgement
    why: str = ""


@dataclass(frozen=True)
class Qualification:
    """The answer."""

    before: Side
    after: Side
    checks: tuple[Check, ...]

    @property
    def decidable(self) -> bool:
        """Whether one of the two built: else there is nothing to compare."""
        return self.before.built or self.after.built

    @property
    def safe(self) -> bool:
        """Whether the second environment builds and nothing got worse."""
        return self.after.built and not any(check.judgement == "worse" for check in self.checks)


def qualify(
    before: Side, after: Side, figures: Sequence[Figure], limits: str = ""
) -> Qualification:
    """Judge ``after`` by ``before``.

    Args:
        before: The run in the environment in use.
        after: The run in the environment that may take its place.
        figures: Of both engines (:func:`trtforge.diff_figures.figures`); empty where one has none.
        limits: Conditions as of ``diff --fail-if``; empty: :data:`LIMITS`, as far as they apply.

    Raises:
        RequestError: a limit is no condition, or names a figure that the engines do not have.
    """
    conditions = read_conditions(limits or LIMITS)
    if limits:
        tuple(failures(conditions, figures))  # refuses a name that is not there
    else:
        known = {figure.name for figure in figures}
        conditions = tuple(each for each in conditions if each.name in known)
    checks = [_build(before, after)]
    if before.built and after.built:
        checks += [_requirements(before, after), _precision(before, after), _outputs(before, after)]
        checks += _figures(figures, conditions)
        checks.append(_latency(before.report.timings, after.report.timings, figures, conditions))
    return Qualification(before, after, tuple(checks))


def _build(before: Side, after: Side) -> Check:
    words = [_first_line(side.report.verdict.error) or "built" for side in (before, after)]
    judgement: Judgement = "same"
    if before.built != after.built:
        judgement = "better" if after.built else "worse"
    return _check("build", words, judgement)


def _requirements(before: Side, after: Side) -> Check:
    missed = [side.report.verdict.missed for side in (before, after)]
    judgement: Judgement = "same"
    if len(missed[0]) != len(missed[1]):
        judgement = "worse" if len(missed[1]) > len(missed[0]) else "better"
    words = [f"{len(each)} missed" if each else "met" for each in missed]
    return _check("requirements", words, judgement, "; ".join(missed[1]))


def _precision(before: Side, after: Side) -> Check:
    """Count the nodes that run in another type than asked for, or in no layer that names them."""
    proofs = [side.report.precision for side in (before, after)]
    if proofs[0] is None or proofs[1] is None:
        return _missing("precision", proofs, "proven")
    counts = [len(proof.deviations) + len(proof.unknown) for proof in proofs if proof]
    new = proofs[1].deviations.keys() - proofs[0].deviations.keys()
    new |= set(proofs[1].unknown) - set(proofs[0].unknown)
    judgement: Judgement = "worse" if new else "better" if counts[1] < counts[0] else "same"
    words = [f"{count} nodes deviate" if count else "as asked" for count in counts]
    return _check("precision", words, judgement, ", ".join(sorted(new)))


def _outputs(before: Side, after: Side) -> Check:
    """Compare the smallest cosine to the given model's outputs, and what could not be compared."""
    found = [side.report.comparison for side in (before, after)]
    if found[0] is None or found[1] is None:
        return _missing("outputs", found, "compared")
    problems = [sum(bool(out.problem) for out in each.outputs) for each in found if each]
    cosines = [
        min((out.cosine for out in each.outputs if not out.problem), default=math.nan)
        for each in found
        if each
    ]
    drop = cosines[0] - cosines[1]
    judgement: Judgement = "same"
    if problems[1] > problems[0] or not drop <= _COSINE:
        judgement = "worse"
    elif drop < -_COSINE:
        judgement = "better"
    words = [f"cosine {cosine:.6f}" for cosine in cosines]
    made_up = "" if found[1].real else "the data are made up"
    return _check("outputs", words, judgement, made_up)


def _figures(figures: Sequence[Figure], conditions: Sequence[Condition]) -> Iterator[Check]:
    for figure in figures:
        own = [each for each in conditions if each.name == figure.name]
        work = figure.change and figure.name.endswith(WORK)
        if figure.name == LATENCY or not (own or work or figure.name in SHOWN):
            continue
        broken = tuple(failures(own, [figure]))
        judgement: Judgement = "worse" if broken else "changed" if figure.change else "same"
        words = [_amount(value, figure.unit) for value in (figure.before, figure.after)]
        yield _check(figure.name, words, judgement, "; ".join(broken))


def _amount(value: float, unit: str) -> str:
    return format_bytes(int(value)) if unit == "B" else f"{value:g} {unit}".rstrip()


def _latency(
    before: Timings | None,
    after: Timings | None,
    figures: Sequence[Figure],
    conditions: Sequence[Condition],
) -> Check:
    """Compare medians: a difference counts when their 95 % confidence intervals do not meet."""
    if before is None or after is None:
        return _missing(LATENCY, (before, after), "measured")
    words = [f"{each.median_ms:.4g} ms" for each in (before, after)]
    if before.device != after.device:
        return _check(LATENCY, words, "not measured", "on two kinds of device")
    intervals = [each.intervals.get("median") for each in (before, after)]
    if intervals[0] is None or intervals[1] is None:
        return _check(LATENCY, words, "not measured", "too few runs for a confidence interval")
    broken = tuple(failures([c for c in conditions if c.name == LATENCY], figures))
    if intervals[1][0] > intervals[0][1]:
        return _check(LATENCY, words, "worse" if broken else "changed", "; ".join(broken))
    faster = intervals[1][1] < intervals[0][0]
    return _check(LATENCY, words, "better" if faster else "same", "" if faster else _MEET)


def _missing(what: str, both: Sequence[object], word: str) -> Check:
    words = ["none" if each is None else word for each in both]
    return _check(what, words, "not measured", "the recipe gives it not on both sides")


def _check(what: str, words: Sequence[str], judgement: Judgement, why: str = "") -> Check:
    before, after = words
    return Check(what, before, after, judgement, why)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
