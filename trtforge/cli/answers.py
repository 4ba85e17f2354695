"""How commands print answers, errors and progress, and how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from trtforge.errors import ExitCode, RequirementMissed, TrtforgeError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from trtforge.host import Host
    from trtforge.runner import Observer

WIDE = 1000
"""Columns of a table that no terminal shows."""


def say(text: str = "") -> None:
    """Print a line on standard output."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        _hush()


def say_json(data: Any) -> None:
    """Print ``data`` as JSON on standard output; what JSON cannot say is printed as text."""
    from trtforge.report import finite

    say(json.dumps(finite(data), indent=2, default=str, allow_nan=False))


def say_table(table: Table) -> None:
    """Print a table: as wide as the terminal, or with one line for each row where there is none."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDE
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip())


def tell(error: TrtforgeError) -> None:
    """Say on standard error what is wrong, what to do, and the code."""
    sys.stderr.write(f"trtforge: {error}\n  Code: {error.code} (docs/findings.md)\n")


def end(error: TrtforgeError | None) -> NoReturn:
    """End a command whose answer is printed: with exit code 0, or with what is not as it should be.

    This is the only way to another exit code beside raising an error, so that none comes without
    a code and a remedy.
    """
    if error is None:
        raise typer.Exit(ExitCode.DONE)
    tell(error)
    raise typer.Exit(error.exit_code)


def not_met(sentences: Sequence[str], *remedies: str) -> RequirementMissed | None:
    """Return the error of requirements that are not met; None where all are.

    Args:
        sentences: One for each.
        remedies: What to do, best first.
    """
    if not sentences:
        return None
    what = "\n  not met: ".join(sentences)
    return RequirementMissed(f"not met: {what}", remedy="; or ".join(remedies))


def write_file(place: Path, text: str) -> None:
    """Write ``text`` into a file, whole or not at all.

    Raises:
        EnvironmentLacks: it cannot be written there.
    """
    from trtforge.store import atomic_file, write_error

    try:
        with atomic_file(place) as file:
            file.write(text.encode())
    except OSError as error:
        raise write_error(error, place) from error


def flush() -> None:
    """Hand everything over to who reads standard output, if anybody still does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _hush()


def _hush() -> None:
    """Let what is still to be printed vanish: ``trtforge list | head`` has seen enough."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def open_host(without: list[str]) -> Host:
    """Return the host of this command; plugins that do not load are told on standard error."""
    from trtforge.host import Host

    host = Host(without=without)
    for broken in host.broken:
        sys.stderr.write(f"trtforge: {broken}\n")
    return host


def watcher(*, as_json: bool, quiet: bool = False) -> Observer:
    """Return who shows the progress: nobody, a terminal's display, or plain lines."""
    from trtforge.terminal import Live, PlainLines, Quiet

    if as_json or quiet:
        return Quiet()
    if not sys.stderr.isatty():
        return PlainLines()
    from rich.console import Console

    return Live(Console(stderr=True, emoji=False))


@contextmanager
def counter(what: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how many of ``what`` are done; what it gives is called with both numbers.

    Where there is no terminal, and with --json, nothing is shown.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task(what)
        yield lambda done, total: progress.update(task, completed=done, total=total)
