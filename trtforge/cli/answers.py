"""What commands share: how they print answers, and the options that several of them have."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from trtforge.host import Host
    from trtforge.runner import Observer

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on standard output.")]
Without = Annotated[
    list[str], typer.Option("--without", metavar="NAME", help="Leave this plugin out; repeatable.")
]
Shapes = Annotated[
    list[str],
    typer.Option(
        "--shape",
        metavar="INPUT=MIN:OPT:MAX",
        help="Shape or shape range of an input, e.g. x=1x3x224x224:8x3x224x224:32x3x224x224.",
    ),
]
Targets = Annotated[
    list[str], typer.Option("--target", metavar="SM", help="GPU to build for, e.g. sm_89.")
]


def say(text: str = "") -> None:
    """Print a line on standard output."""
    sys.stdout.write(text + "\n")


def say_json(data: Any) -> None:
    """Print ``data`` as JSON on standard output; what JSON cannot say is printed as text."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def say_table(table: Table) -> None:
    """Print a table on standard output."""
    from rich.console import Console

    Console(highlight=False).print(table)


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

    return Live(Console(stderr=True))
