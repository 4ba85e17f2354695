"""``trtforge bisect``: the part of a model that fails to build, or that costs accuracy."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, open_host, say, say_json
from trtforge.cli.options import Json, Model, Settings, Shapes, Targets, Without
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from trtforge.accuracy_bisection import Blame
    from trtforge.bisection import Reduced
    from trtforge.host import Host
    from trtforge.session import RunOptions

SHOWN = 12


def bisect(
    model: Model,
    *,
    build: Annotated[
        bool, typer.Option("--build", help="Find the smallest part whose build fails.")
    ] = False,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", metavar="RECIPE", help="Find what in this recipe costs accuracy."
        ),
    ] = "",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the result.")
    ] = Path("bisect"),
    settings: Settings = [],  # noqa: B006  # typer copies it
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    targets: Targets = [],  # noqa: B006  # typer copies it
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, metavar="NUMBER", help="How many builds at a time.")
    ] = 2,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Find the part of a model that fails to build or costs accuracy.

    With --build: the smallest part whose build fails, as a model, and a script that shows it
    without trtforge; started again with the same folder, it goes on where it was stopped.
    With --recipe: the step that costs the accuracy, and the nodes to leave out of it.
    """
    from trtforge.cli.options import shape_option
    from trtforge.session import RunOptions

    if build == bool(recipe):
        raise RequestError(
            "what to look for is not clear", remedy="give either --build or --recipe RECIPE"
        )
    options = RunOptions(
        settings=settings, shapes=dict(shape_option(text) for text in shapes), targets=targets
    )
    host = open_host(without)
    if recipe:
        _blame(model, recipe, options, host, as_json=as_json)
        return
    from trtforge.api import bisect_build
    from trtforge.bisection import Search
    from trtforge.context import Silent

    search = Search(out, jobs, Silent() if as_json else _Lines())
    found = bisect_build(model, search, options=options, host=host)
    if as_json:
        say_json(asdict(found))
    else:
        _tell(found)


def _blame(model: str, recipe: str, options: RunOptions, host: Host, *, as_json: bool) -> None:
    from trtforge.api import bisect_accuracy

    found = bisect_accuracy(model, recipe, options=options, host=host)
    if as_json:
        say_json({**asdict(found), "setting": found.setting})
    else:
        _tell_blame(found)
    missed = found.effects[-1].missed if found.step else ()
    leave = f"- {found.setting}" if found.nodes else f"give {found.step} a higher precision"
    end(not_met(missed, leave))


def _tell_blame(found: Blame) -> None:
    for effect in found.effects:
        met = "requirement missed" if effect.missed else "met"
        figures = f"cosine {effect.cosine:.6f}, SQNR {effect.sqnr_db:.1f} dB"
        say(f"{effect.step:20} {figures}: {met}")
    if not found.step:
        say("All requirements are met after every step")
        return
    say(f"Step     {found.step} breaks it: {'; '.join(found.effects[-1].missed)}")
    if not found.nodes:
        say("Nodes    none alone: leaving nodes out of this step does not help")
        return
    say(f"Nodes    {len(found.nodes)} of the {found.of} that it changes cost the accuracy, found")
    say(f"         by {found.trials} trials (one by one it would take {found.of})")
    say(f"To do    - {found.setting}")


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
