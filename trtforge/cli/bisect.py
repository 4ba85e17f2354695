"""``trtforge bisect``: the smallest part of a model that fails."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import Json, Shapes, Targets, Without, open_host, say, say_json
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from trtforge.bisection import Reduced

SHOWN = 12


def bisect(
    model: Annotated[str, typer.Argument(help="A model file, or package.module:factory.")],
    *,
    build: Annotated[
        bool, typer.Option("--build", help="Find the smallest part whose build fails.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.")] = Path(
        "bisect"
    ),
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="STEP.OPTION=VALUE", help="Set an option; repeatable."),
    ] = [],  # noqa: B006  # typer copies it
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    targets: Targets = [],  # noqa: B006  # typer copies it
    workers: Annotated[int, typer.Option(min=1, help="Builds at the same time.")] = 2,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Find the smallest part of a model that fails.

    Writes the part as a model, and a script that shows the failure without trtforge. Started
    again with the same folder, it goes on where it was stopped.
    """
    from trtforge.api import bisect_build
    from trtforge.bisection import Search
    from trtforge.cli.runs import shape_option
    from trtforge.context import Silent
    from trtforge.session import RunOptions

    if not build:
        raise RequestError("nothing to look for is named", remedy="give --build")
    options = RunOptions(
        settings=settings, shapes=dict(shape_option(text) for text in shapes), targets=targets
    )
    search = Search(out, workers, Silent() if as_json else _Lines())
    found = bisect_build(model, search, options=options, host=open_host(without))
    if as_json:
        say_json(asdict(found))
    else:
        _tell(found)


class _Lines:
    """Tells every tenth build on standard error."""

    def update(self, label: str, done: int, _total: int) -> None:
        if done % 10 == 1:
            sys.stderr.write(f"{label}, {done} builds so far\n")


def _tell(found: Reduced) -> None:
    say(
        f"{found.code}: {len(found.nodes)} of {found.of} nodes fail so, after {found.builds} builds"
    )
    more = f" and {len(found.nodes) - SHOWN} more" if len(found.nodes) > SHOWN else ""
    say(f"Nodes    {', '.join(found.nodes[:SHOWN])}{more}")
    say(f"Error    {found.error}")
    say(f"Model    {found.model}")
    if found.script is not None:
        say(f"Script   {found.script}")
