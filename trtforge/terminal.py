"""Shows a run: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from trtforge.records import StepRecord


class Quiet:
    """Shows nothing."""

    def step_started(self, stage: str, step: str) -> None:
        """Do nothing."""

    def step_finished(self, record: StepRecord) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def update(self, label: str, done: int, total: int) -> None:
        """Do nothing."""


class PlainLines(Quiet):
    """One line per finished step, and one every few seconds while a step takes long."""

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._next = time.monotonic() + every

    def step_started(self, stage: str, step: str) -> None:  # noqa: ARG002  # the protocol's
        """Start the clock of the step."""
        self._next = time.monotonic() + self._every

    def step_finished(self, record: StepRecord) -> None:
        """Print what the step did."""
        self._print(summary(record))

    def message(self, text: str) -> None:
        """Print ``text``."""
        self._print(text)

    def update(self, label: str, done: int, total: int) -> None:
        """Print how far a long step is, every few seconds."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._print(f"    {label}: {done}/{total}" if total else f"    {label}: {done}")

    def _print(self, text: str) -> None:
        with suppress(BrokenPipeError):  # nobody reads any more; the run goes on
            self._stream.write(text + "\n")
            self._stream.flush()


class Live(Quiet):
    """A terminal's display: finished steps above, a moving line for the one that runs.

    Args:
        console: The terminal.
        clock: Seconds, from which the time that is left is told.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = console
        self._progress: Progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            get_time=clock,
        )
        self._task: TaskID | None = None

    def step_started(self, stage: str, step: str) -> None:
        """Show the running step."""
        self._progress.start()
        self._task = self._progress.add_task(f"{stage}: {step}", total=None)

    def step_finished(self, record: StepRecord) -> None:
        """Put the step's line above the display."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._progress.stop()
        mark = "[red]✗[/]" if record.error else "[dim]•[/]" if record.cached else "[green]✓[/]"
        self._console.print(f"{mark} ", end="")
        self._console.print(summary(record), markup=False, highlight=False)

    def message(self, text: str) -> None:
        """Print ``text`` above the display."""
        self._console.print(text, markup=False, highlight=False)

    def update(self, label: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(
                self._task, description=label, completed=done, total=total or None
            )


def summary(record: StepRecord) -> str:
    """Return one line for a finished step: stage, step, changes, notes, time."""
    parts = []
    if record.changes:
        parts.append(f"{record.changes} change{'s' if record.changes > 1 else ''}")
    if record.gave:
        parts.append(f"gives {', '.join(record.gave)}")
    if record.notes:
        parts.append(f"{len(record.notes)} note{'s' if len(record.notes) > 1 else ''}")
    if record.error:
        parts.append("failed")
    spent = "cached" if record.cached else f"{record.seconds:.2f} s"
    name = f"{record.stage}: {record.step}"
    return f"{name:<34} {', '.join(parts) or 'no change':<42} {spent:>8}"
