"""Says what a qualification found: rows for a terminal, Markdown, and data for ``--json``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtforge.qualification.judge import Qualification

COLUMNS = ("check", "before", "after", "judgement", "why")


def headline(found: Qualification) -> str:
    """Return the verdict in one sentence."""
    if not found.decidable:
        return "Neither environment builds an engine: there is nothing to compare"
    names = f"{found.before.tensorrt} to {found.after.tensorrt}"
    if found.safe:
        return f"Safe by what was measured: {names}"
    worse = ", ".join(check.what for check in found.checks if check.judgement == "worse")
    return f"Not safe: {names}: worse in {worse or 'build'}"


def rows(found: Qualification) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each check, in the order of :data:`COLUMNS`."""
    for check in found.checks:
        yield check.what, check.before, check.after, check.judgement, check.why


def markdown(found: Qualification) -> str:
    """Return a table for a pull request."""
    lines = [f"### {'✅' if found.safe else '❌'} {_cell(headline(found))}", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows(found)]
    return "\n".join(lines) + "\n"


def data(found: Qualification) -> dict[str, Any]:
    """Return everything as JSON data."""
    return {
        "safe": found.safe,
        "decidable": found.decidable,
        "headline": headline(found),
        **{
            name: {
                "environment": side.environment,
                "tensorrt": side.tensorrt,
                "trtforge": side.report.trtforge,
                "built": side.built,
                "run": str(side.folder),
            }
            for name, side in (("before", found.before), ("after", found.after))
        },
        "checks": [asdict(check) for check in found.checks],
    }


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
