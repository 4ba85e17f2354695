"""``trtforge demo``, ``run`` and ``report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, open_host, say, watcher
from trtforge.cli.options import (
    Json,
    Settings,
    Shapes,
    Targets,
    Without,
    refuse_beside,
    shape_option,
)
from trtforge.errors import RequestError, TrtforgeError

if TYPE_CHECKING:
    from trtforge.host import Host
    from trtforge.session import Run, RunOptions

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FOLDER", help="Folder for everything it makes."),
]


def demo(
    *,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run the packaged example, without a GPU.

    A classifier of digits becomes one INT8 engine for four kinds of GPU.
    """
    from trtforge import demo as packaged
    from trtforge.session import RunOptions

    host = open_host([])
    _run_and_tell(packaged.RECIPE, str(packaged.MODEL), RunOptions(out=out), host, as_json=as_json)


def run(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file or the name of a shipped recipe.")
    ] = "",
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A model file, a folder, or package.module:factory.",
        ),
    ] = None,
    out: Out = None,
    settings: Settings = [],  # noqa: B006  # typer copies it
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    targets: Targets = [],  # noqa: B006  # typer copies it
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the plan, run nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an earlier run.")] = False,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Name the step that changes outputs.")
    ] = False,
    cache: Annotated[bool, typer.Option(help="Reuse and keep the results of steps.")] = True,
    compare: Annotated[
        bool, typer.Option(help="Compare the result with the given model at the end.")
    ] = True,
    as_json: Json = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print each event as a line of JSON.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", help="Copy TensorRT's messages here, also of a failure."
        ),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            "--matrix", metavar="FILE", help="Run models x recipes x targets of this file instead."
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="PLACE",
            show_default="here",
            help="Where a matrix runs: here, ray or ray://HOST:PORT.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="NUMBER",
            min=1,
            show_default="2",
            help="How many cells of a matrix run here at a time.",
        ),
    ] = None,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Run a recipe on a model, or many recipes on many models."""
    from trtforge.session import RunOptions

    if matrix is not None:
        from trtforge.cli.matrix import run_file

        _refuse_beside_matrix(
            {
                "a recipe": recipe,
                "--model": model,
                "--set": settings,
                "--shape": shapes,
                "--target": targets,
            },
            {
                "--dry-run": dry_run,
                "--resume": resume,
                "--verify-each": verify_each,
                "--no-cache": not cache,
                "--no-compare": not compare,
                "--json-lines": json_lines,
                "--log": log,
                "--without": without,
            },
        )
        run_file(matrix, out, on or "here", jobs or 2, as_json=as_json, quiet=quiet)
        return
    many = {"--on": on, "--jobs": jobs}
    refuse_beside("a single recipe", many, "leave it out, or run several with --matrix FILE")
    if json_lines:
        others = {"--json": as_json, "--dry-run": dry_run}
        refuse_beside("--json-lines", others, "choose one form of the answer")
    if not recipe:
        raise RequestError(
            "no recipe is given", remedy="`trtforge list recipes` shows those that ship"
        )
    options = RunOptions(
        out=out,
        settings=settings,
        shapes=dict(shape_option(text) for text in shapes),
        targets=targets,
        resume=resume,
        verify_each=verify_each,
        use_cache=cache,
        compare=compare,
        log=log,
    )
    host = open_host(without)
    if dry_run:
        from trtforge.cli.plan import tell_plan

        tell_plan(recipe, model, options, host, as_json=as_json)
    elif json_lines:
        _stream(recipe, model, options, host)
    else:
        _run_and_tell(recipe, model, options, host, as_json=as_json, quiet=quiet)


def _refuse_beside_matrix(inside: Mapping[str, object], single: Mapping[str, object]) -> None:
    """Refuse what a matrix file says itself, and what only a single run takes."""
    refuse_beside("--matrix", inside, "write it into the matrix file; docs/matrix.md says how")
    refuse_beside("--matrix", single, "leave it out; docs/matrix.md says what a matrix does")


def _run_and_tell(
    recipe: str | Path,
    model: str | None,
    options: RunOptions,
    host: Host,
    *,
    as_json: bool,
    quiet: bool = False,
) -> None:
    from trtforge.api import run as run_recipe

    observer = watcher(as_json=as_json, quiet=quiet)
    done = run_recipe(recipe, model, options=options, host=host, observer=observer)
    if as_json:
        say(done.report.to_json().rstrip())
    else:
        _tell(done)
    end(not_met(done.missed, *done.report.verdict.remedies))


def _stream(recipe: str, model: str | None, options: RunOptions, host: Host) -> None:
    """Run, and print the events on standard output, one a line, as they happen."""
    from trtforge.api import run as run_recipe
    from trtforge.cli.answers import flush
    from trtforge.events import JsonLines

    def write(line: str) -> None:
        say(line)
        flush()

    lines = JsonLines(write)
    try:
        done = run_recipe(recipe, model, options=options, host=host, observer=lines)
    except TrtforgeError as error:
        lines.failed(error)
        raise
    lines.finished(int(done.exit_code), str(done.folder), done.missed)
    end(not_met(done.missed, *done.report.verdict.remedies))


def _tell(done: Run) -> None:
    from trtforge.outcome import outcome_lines

    say()
    for line in outcome_lines(done.report, done.folder):
        say(line)


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    *,
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a summary for a pull request.")
    ] = False,
    show_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show what a run achieved, and write its page anew."""
    from trtforge.evidence import read_report, write_page
    from trtforge.markdown_summary import summary
    from trtforge.outcome import outcome_lines
    from trtforge.run_folder import RunFolder

    found = read_report(folder)
    if as_json:
        say(found.to_json().rstrip())
        return
    if markdown:
        say(summary(found).rstrip())
        return
    page = write_page(RunFolder(folder), found)
    if show_page:
        typer.launch(page.resolve().as_uri())
    for line in outcome_lines(found, folder):
        say(line)
    for sentence in found.verdict.missed:
        say(f"Not met    {sentence}")
    for remedy in found.verdict.remedies:
        say(f"To do      {remedy}")
