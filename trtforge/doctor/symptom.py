"""One thing that is right, doubtful or wrong with a machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True)
class Symptom:
    """One thing that was found."""

    code: str
    """Stable word; ``docs/doctor.md`` has a line on each."""
    level: Level
    text: str
    remedy: str = ""


def ok(code: str, text: str) -> Symptom:
    """Return what is right."""
    return Symptom(code, Level.OK, text)


def note(code: str, text: str, remedy: str = "") -> Symptom:
    """Return what may do harm, or is not there and not always needed."""
    return Symptom(code, Level.NOTE, text, remedy)


def fault(code: str, text: str, remedy: str) -> Symptom:
    """Return what does not work."""
    return Symptom(code, Level.FAULT, text, remedy)
