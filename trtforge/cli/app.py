"""The commands, gathered. Each command's module imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trtforge import __version__
from trtforge.cli import (
    bisect,
    bundles,
    check,
    doctor,
    export,
    look,
    models,
    ops,
    profiles,
    qualify,
    runs,
)

app = typer.Typer(
    name="trtforge",
    help="A trained model goes in, a recipe says what to do, proven TensorRT engines come out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:  # noqa: FBT001  # typer calls it with the flag's value
    if value:
        sys.stdout.write(f"trtforge {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A trained model goes in, a recipe says what to do, proven TensorRT engines come out."""


for command in (
    runs.demo,
    runs.run,
    check.check,
    bisect.bisect,
    models.init,
    models.verify,
    profiles.profile,
    profiles.diff,
    qualify.qualify,
    runs.report,
    doctor.doctor,
    look.list_,
    look.show,
    look.schema,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(bundles.app, name="bundle")
app.add_typer(export.app, name="export")
app.add_typer(ops.app, name="op")
