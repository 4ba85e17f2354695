"""What stands in the way of an engine: findings, each with cause, evidence and remedy."""

from __future__ import annotations

from dataclasses import dataclass

from trtforge.artifacts import Artifact


@dataclass(frozen=True)
class Finding(Artifact):
    """One thing that a backend refuses, or will refuse."""

    code: str
    """Stable word for this kind of finding, for example ``unsupported-node``."""
    node: str
    """Name of the ONNX node, or empty when it concerns the model as a whole."""
    op: str
    """Operator of the node."""
    cause: str
    """One sentence."""
    evidence: str = ""
    """The backend's own words."""
    remedy: str = ""
    """What to do."""


@dataclass(frozen=True)
class Diagnosis(Artifact):
    """The findings of one model for one backend."""

    model: str
    backend: str
    """Library and version that was asked, for example ``tensorrt_rtx 1.7.1.116``."""
    findings: tuple[Finding, ...]
    after: tuple[Finding, ...] | None = None
    """What is left after ``make-convertible``; None when that was not tried."""

    @property
    def convertible(self) -> bool:
        """Whether the backend takes the model as it is."""
        return not self.findings
