"""``trtforge demo``, ``run`` and ``report``."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.answers import (
    Json,
    Shapes,
    Targets,
    Without,
    end,
    not_met,
    open_host,
    say,
    say_json,
    say_table,
    shape_option,
    watcher,
)
from trtforge.errors import RequestError, TrtforgeError

if TYPE_CHECKING:
    from rich.table import Table

    from trtforge.host import Host
    from trtforge.runner import PlannedStep
    from trtforge.session import Run, RunOptions

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for everything it makes.")]


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
        typer.Option("--model", "-m", help="A model file, a folder, or package.module:factory."),
    ] = None,
    out: Out = None,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="STEP.OPTION=VALUE", help="Set an option; repeatable."),
    ] = [],  # noqa: B006  # typer copies it
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
        typer.Option("--matrix", help="Run models x recipes x targets of this file instead."),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", help="Where a matrix runs: here, ray or ray://HOST:PORT.")
    ] = "here",
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="How many cells of a matrix run here at a time.")
    ] = 2,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Run a recipe on a model, or many recipes on many models."""
    from trtforge.session import RunOptions

    if matrix is not None:
        from trtforge.cli.matrix import run_file

        given: dict[str, object] = {"a recipe": recipe, "--model": model, "--set": settings}
        given |= {"--shape": shapes, "--target": targets, "--resume": resume, "--dry-run": dry_run}
        given |= {"--log": log}
        run_file(matrix, out, on, jobs, given=given, as_json=as_json, quiet=quiet)
        return
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
        _tell_plan(recipe, model, options, host, as_json=as_json)
    elif json_lines:
        _stream(recipe, model, options, host)
    else:
        _run_and_tell(recipe, model, options, host, as_json=as_json, quiet=quiet)


def _tell_plan(
    recipe: str, model: str | None, options: RunOptions, host: Host, *, as_json: bool
) -> None:
    from trtforge.api import plan
    from trtforge.options import as_data

    resolved, planned = plan(recipe, model, options=options, host=host)
    if not as_json:
        say_table(_plan_table(planned))
        say("Nothing was run.")
        return
    rows = [
        {
            "stage": item.stage,
            "step": item.step.name,
            "options": as_data(item.step),
            "needs": [kind.__name__ for kind in item.step.needs],
            "gives": [kind.__name__ for kind in item.step.gives],
            "cached": item.cached,
        }
        for item in planned
    ]
    targets = [target.name for target in resolved.targets]
    say_json({"recipe": resolved.name, "targets": targets, "plan": rows})


def _plan_table(planned: list[PlannedStep]) -> Table:
    """Return the plan: each step with those of its options that differ from the defaults."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("stage", "step", "options", "gives", "cached"):
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "step"))
    for item in planned:
        options = {field.name: getattr(item.step, field.name) for field in fields(item.step)}
        usual = {field.name: _default(field) for field in fields(item.step)}
        chosen = [f"{key}={value}" for key, value in options.items() if value != usual[key]]
        gives = ", ".join(kind.__name__ for kind in item.step.gives)
        cached = "yes" if item.cached else "no"
        table.add_row(item.stage, item.step.name, ", ".join(chosen), gives, cached)
    return table


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


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
