"""``trtforge init`` and ``verify``: a recipe that fits a model, and whether two models agree."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, open_host, say, say_json, say_table
from trtforge.cli.options import Json, Model, Without
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from trtforge.artifacts import Comparison


def init(
    model: Model,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The recipe file to write.")
    ] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Write a commented recipe with the inputs and shapes of a model."""
    from trtforge.starter import starter_recipe
    from trtforge.store import atomic_file, write_error

    if out.exists() and not force:
        remedy = "give another file with -o, or replace it with --force"
        raise RequestError(f"the file {out} exists", remedy=remedy)
    text = starter_recipe(model, open_host(without), out.parent)
    try:
        with atomic_file(out) as file:
            file.write(text.encode())
    except OSError as error:
        raise write_error(error, out) from error
    more = "" if Path(model).exists() else f" --model {shlex.quote(model)}"
    say(f"wrote {out}; next: trtforge run {shlex.quote(str(out))}{more}")


def verify(
    expected: Annotated[Path, typer.Argument(help="The model that is right.")],
    actual: Annotated[Path, typer.Argument(help="The model to hold against it.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "-d", metavar="PATH", help="Inputs: .npz, .npy or a folder of them."
        ),
    ] = None,
    cosine: Annotated[
        float,
        typer.Option(
            "--cosine",
            metavar="NUMBER",
            min=-1,
            max=1,
            help="Smallest cosine similarity that passes.",
        ),
    ] = 0.999,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Compare the outputs of two models on the same inputs."""
    from trtforge.api import verify as compare
    from trtforge.compare import meets
    from trtforge.context import Requirements

    comparison = compare(expected, actual, data, host=open_host(without))
    problems = meets(comparison, Requirements(cosine=cosine))
    if as_json:
        say_json({**asdict(comparison), "missed": problems})
    else:
        _tell_comparison(comparison)
    end(
        not_met(
            problems,
            "`trtforge run RECIPE --verify-each` names the step that changes the outputs",
            "lower --cosine where such a difference is allowed",
        )
    )


def _tell_comparison(comparison: Comparison) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("output", "max abs", "max rel", "cosine", "SQNR dB", "top-1", "NaN/Inf"):
        table.add_column(column, justify="left" if column == "output" else "right")
    for output in comparison.outputs:
        if output.problem:
            continue
        top1 = "-" if output.top1_agreement is None else f"{output.top1_agreement:.4f}"
        table.add_row(
            output.name,
            f"{output.max_abs:.3g}",
            f"{output.max_rel:.3g}",
            f"{output.cosine:.6f}",
            f"{output.sqnr_db:.1f}",
            top1,
            str(output.nonfinite_mismatch),
        )
    if table.row_count:
        say_table(table)
    for output in comparison.outputs:
        if output.problem:
            say(f"{output.name}: {output.problem}")
    kind = "" if comparison.real else " (not real data: give some with --data)"
    say(f"{comparison.samples} samples: {comparison.data}{kind}")
