"""What a run writes down about each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtforge.context import Note


@dataclass(frozen=True)
class StepRecord:
    """One step that was run, or taken from the cache."""

    stage: str
    step: str
    round: int
    """Which round of a repeated stage, from 1."""
    options: Mapping[str, Any]
    changes: int
    """Number of changes made to the model."""
    seconds: float
    nodes: int | None = None
    """Number of nodes of the model after the step, subgraphs included; None: not counted."""
    notes: tuple[Note, ...] = ()
    cached: bool = False
    gave: tuple[str, ...] = ()
    """Class names of the artifacts it gave."""
    error: str = ""
    """Why it failed; empty when it did not."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Further numbers, for example what a wrapper measured."""
