"""``trtforge qualify``: is another TensorRT environment safe to change over to?"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, open_host, say, say_json, say_table, write_file
from trtforge.cli.options import Json, Settings, Shapes, Targets, Without, shape_option
from trtforge.errors import StepError, TrtforgeError

if TYPE_CHECKING:
    from trtforge.host import Host
    from trtforge.qualification.judge import Qualification
    from trtforge.qualification.sides import Request, Side


def qualify(
    recipe: Annotated[str, typer.Argument(help="A recipe file or the name of a shipped recipe.")],
    *,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The model file.")],
    against: Annotated[
        Path,
        typer.Option(help="What is in use: a virtual environment, its Python, or a finished run."),
    ],
    candidate: Annotated[
        Path | None,
        typer.Option(help="What may take its place: the same; default: this environment."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Keep both runs in this folder."),
    ] = None,
    settings: Settings = [],  # noqa: B006  # typer copies it
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    targets: Targets = [],  # noqa: B006  # typer copies it
    fail_if: Annotated[
        str,
        typer.Option(
            "--fail-if",
            metavar="CONDITIONS",
            help='What counts as worse, e.g. "engine_size>+5%|layers>+2"; docs/qualify.md has the '
            "default.",
        ),
    ] = "",
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a table here as well.")
    ] = None,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Say whether another TensorRT is safe to change over to.

    A recipe runs under both environments. Build, requirements, precision, outputs, layers, sizes
    and, where measured, times are compared.
    """
    from trtforge.fail_if import read_conditions
    from trtforge.qualification import text
    from trtforge.qualification.sides import Request

    if fail_if:
        read_conditions(fail_if)  # a wrong one is told before anything runs
    request = Request(recipe, model, settings, dict(map(shape_option, shapes)), targets)
    with TemporaryDirectory(prefix="trtforge-qualify-") as scratch:
        places = (against, candidate or Path(sys.executable))
        before, after = _run(request, places, out or Path(scratch), quiet=as_json)
        found = _judged(before, after, fail_if, open_host(without))
    if markdown is not None:
        write_file(markdown, text.markdown(found))
    if as_json:
        say_json(text.data(found))
    else:
        _tell(found)
    end(_objection(found))


def _objection(found: Qualification) -> TrtforgeError | None:
    from trtforge.qualification import text

    if not found.decidable:
        why = found.before.report.verdict.error
        return StepError(text.headline(found), remedy=f"mend first what stops both: {why}")
    return not_met(
        [] if found.safe else [text.headline(found)],
        "stay with what is in use, or allow what got worse with --fail-if",
        "`trtforge diff` on both runs (kept with -o) says which layers changed",
    )


def _run(request: Request, places: tuple[Path, Path], out: Path, *, quiet: bool) -> list[Side]:
    from trtforge.qualification.sides import open_side

    sides = []
    for place, name in zip(places, ("before", "after"), strict=True):
        if not quiet:
            sys.stderr.write(f"{name}: {place}\n")
        sides.append(open_side(place, request, out / name))
    return sides


def _judged(before: Side, after: Side, fail_if: str, host: Host) -> Qualification:
    from trtforge.diff_figures import figures
    from trtforge.qualification.judge import qualify as judge
    from trtforge.subject import open_subject

    changes = []
    if before.built and after.built:
        first = open_subject(before.folder, host)
        device = first.prediction.device.name
        changes = list(figures(first, open_subject(after.folder, host, device=device)))
    return judge(before, after, changes, fail_if)


def _tell(found: Qualification) -> None:
    from rich.table import Table

    from trtforge.qualification import text

    table = Table(box=None, pad_edge=False)
    for column in text.COLUMNS:
        table.add_column(column, overflow="fold")
    for row in text.rows(found):
        table.add_row(*row)
    say_table(table)
    say(text.headline(found))
