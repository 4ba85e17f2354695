"""What stands in the way of an engine: findings, each with cause, evidence and remedies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trtforge.artifacts import Artifact
from trtforge.memory_plan import MemoryPlan

Level = Literal["refused", "advice"]


@dataclass(frozen=True)
class Finding(Artifact):
    """One thing that a backend refuses, or that makes its engine worse than it could be."""

    code: str
    """Stable word for this kind of finding; ``docs/findings.md`` has a section on each."""
    node: str
    """Name of the ONNX node or value, or empty when it concerns the model as a whole."""
    op: str
    """Operator of the node."""
    cause: str
    """One sentence."""
    evidence: str = ""
    """The backend's own words, or the numbers that were found."""
    remedies: tuple[str, ...] = ()
    """What to do, best first."""
    level: Level = "refused"
    """Whether the backend refuses the model for it, or builds it all the same."""
    mended: bool | None = None
    """Whether it is gone after the recipe ``convert``; None when that was not tried."""
    seen_in: Literal["backend", "model"] = "backend"
    """Where ``evidence`` comes from: the backend said it, or the model has it."""

    @property
    def remedy(self) -> str:
        """All remedies as one text."""
        return "; or ".join(self.remedies)


@dataclass(frozen=True)
class FindingGroup:
    """Findings that say the same of several nodes."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that stands for all of them."""
        return self.findings[0]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes, in the model's order; empty when they have no names."""
        return tuple(finding.node for finding in self.findings if finding.node)

    @property
    def mended(self) -> bool | None:
        """Whether all of them are gone after the recipe ``convert``."""
        return None if self.first.mended is None else all(each.mended for each in self.findings)

    @property
    def further(self) -> tuple[str, ...]:
        """The remedies, but for the recipe ``convert`` where that was seen to mend them all."""
        remedies = self.first.remedies
        if not self.mended:
            return remedies
        return tuple(each for each in remedies if "recipe `convert`" not in each)


@dataclass(frozen=True)
class Diagnosis(Artifact):
    """The findings of one model for one backend."""

    model: str
    backend: str
    """Library and version that was asked, for example ``tensorrt_rtx 1.7.1.116``."""
    findings: tuple[Finding, ...]
    after: tuple[Finding, ...] | None = None
    """What is left after ``make-convertible``; None when that was not tried."""
    memory: MemoryPlan | None = None
    """What the engine is predicted to need; None when nobody asked, or it cannot be told."""
    memory_problem: str = ""
    """Why ``memory`` is None although it was asked for."""

    @property
    def refused(self) -> tuple[Finding, ...]:
        """The findings for which the backend refuses the model."""
        return tuple(each for each in self.findings if each.level == "refused")

    @property
    def convertible(self) -> bool:
        """Whether the backend takes the model as it is."""
        return not self.refused

    @property
    def left(self) -> int | None:
        """How many of the refusals are left after the recipe ``convert``."""
        return None if self.after is None else sum(each.level == "refused" for each in self.after)


def grouped(findings: Iterable[Finding]) -> list[FindingGroup]:
    """Return the findings in groups of the same code, operator and cause; refusals first."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for each in findings:
        key = (each.level != "refused", each.code, each.op, each.cause, each.remedies)
        groups.setdefault(key, []).append(each)
    ordered = sorted(groups.items(), key=lambda item: bool(item[0][0]))
    return [FindingGroup(tuple(found)) for _, found in ordered]
