"""``trtforge diff``: two runs, or the engines of one model, held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.diff_figures import Figure
from trtforge.evidence import MODEL
from trtforge.layer_diff import EngineDiff, compare_engines
from trtforge.run_diff import RunDiff, compare_runs, figures_of
from trtforge.subject import known, open_subject

if TYPE_CHECKING:
    from trtforge.artifacts import Engine
    from trtforge.host import Host
    from trtforge.report import Report


@dataclass(frozen=True)
class Diff:
    """What is different: between runs, between their engines, or both."""

    before: str
    after: str
    run: RunDiff | None
    """None: one of the two is no run."""
    engines: EngineDiff | None
    """None: ``no_layers`` says why."""
    no_layers: str
    """Why layers were not compared; empty: they were."""
    figures: tuple[Figure, ...]
    """The numbers of the whole that both have."""


def compare(before: Path, after: Path, host: Host, *, model: str = "", device: str = "") -> Diff:
    """Return what ``after`` has that ``before`` has not, and the other way.

    Args:
        before: The folder of a run, an engine with its layer dump, or a layer dump.
        after: The same. Of two runs, all that their reports hold is compared; layers only where
            both built an engine.
        host: The plugins that read layers and count.
        model: The model behind engines or dumps that lie in no run.
        device: A GPU of the table; empty: by the first engine's target.

    Raises:
        RequestError: one of the two is nothing of that, or has no layers and is no run.
        DataError: a report cannot be read.
    """
    first, second = known(before), known(after)
    run = compare_runs(first[0], second[0]) if first[0] and second[0] else None
    no_layers = ""
    if run is not None:
        no_layers = "; ".join(_lacking(before, *first) + _lacking(after, *second))
    engines = None
    if not no_layers:
        subject = open_subject(before, host, model=model, device=device)
        device = device or subject.prediction.device.name
        engines = compare_engines(subject, open_subject(after, host, model=model, device=device))
    figures = engines.figures if engines else ()
    if first[0] and second[0]:
        figures += tuple(_run_figures(first[0], second[0], {each.name for each in figures}))
    return Diff(str(before), str(after), run, engines, no_layers, figures)


def _lacking(folder: Path, report: Report | None, engine: Engine | None) -> list[str]:
    """Say why the run in ``folder`` has no layers to compare; say nothing where it has."""
    if engine is None or not (folder / MODEL).is_file():
        built = report is not None and report.engines
        return [f"{folder} has no {'layer list beside its engine' if built else 'engine'}"]
    return []


def _run_figures(before: Report, after: Report, told: set[str]) -> list[Figure]:
    first, second = figures_of(before), figures_of(after)
    common = [name for name in first if name in second and name not in told]
    return [Figure(name, first[name], second[name]) for name in common]
