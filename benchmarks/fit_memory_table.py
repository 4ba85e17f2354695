"""Writes what ``fit_memory.py`` measured as the tables of docs/memory.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MIB = 2**20
Run = Mapping[str, Any]


def tables(stored: Mapping[str, Any]) -> str:
    """Return both tables in Markdown: the effect of each attempt, and what was chosen."""
    runs: list[Run] = stored["runs"]
    return "\n".join(
        (*_effects([run for run in runs if run["budget"] == "none"]), "", *_chosen(runs))
    )


def _effects(runs: list[Run]) -> Iterator[str]:
    """Yield the table of attempts, in the order in which they are made."""
    yield f"| attempt | {' | '.join(run['network'] for run in runs)} |"
    yield f"|---|{'---|' * len(runs)}"
    longest = max((run["rows"] for run in runs), key=len)
    for attempt in [row["attempt"] for row in longest]:
        yield f"| {attempt} | {' | '.join(_effect(run, attempt) for run in runs)} |"


def _effect(run: Run, attempt: str) -> str:
    row = next((row for row in run["rows"] if row["attempt"] == attempt), None)
    if row is None:
        return "not possible"
    if row.get("built") is False:
        return "not built"
    text = f"{row['activation'] / MIB:.1f} + {(row['total'] - row['activation']) / MIB:.1f}"
    return f"**{text}**" if row.get("kept") else text


def _chosen(runs: list[Run]) -> Iterator[str]:
    """Yield the table of budgets."""
    yield "| network | budget | chosen | activations | total | builds | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for run in runs:
        if run["budget"] == "none":
            continue
        ((what, limit),) = run["limit"].items()
        made = run["chosen"].partition(": ")[2].partition(": ")[0].removeprefix("as asked, then ")
        best = next(row for row in run["rows"] if row.get("fits") and row.get("kept"))
        figures = (f"{best[name] / MIB:.1f}" for name in ("activation", "total"))
        cells = (run["network"], f"{what} {limit / MIB:.1f}", made, *figures)
        yield f"| {' | '.join(cells)} | {len(run['rows'])} | {run['seconds']:.0f} |"
