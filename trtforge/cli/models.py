"""``trtforge check``, ``init`` and ``verify``: questions about models."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import Json, Targets, Without, open_host, say, say_json, say_table
from trtforge.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from trtforge.artifacts import Comparison
    from trtforge.diagnosis import Diagnosis, Finding

Model = Annotated[str, typer.Argument(help="A model file, a folder, or package.module:factory.")]


def check(
    model: Model,
    *,
    targets: Targets = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Say which nodes TensorRT refuses, why, and what mends it.

    Says also what would be left after the recipe `convert`. Builds nothing. The exit code is 1 if
    TensorRT does not take the model as it is.
    """
    from trtforge.api import check as diagnose

    diagnosis = diagnose(model, targets=targets, host=open_host(without))
    if as_json:
        say_json(asdict(diagnosis))
    else:
        _tell_diagnosis(model, diagnosis)
    raise typer.Exit(ExitCode.DONE if diagnosis.convertible else ExitCode.REQUIREMENT_MISSED)


def _tell_diagnosis(model: str, diagnosis: Diagnosis) -> None:
    if diagnosis.convertible:
        say(f"{model}: {diagnosis.backend} takes it as it is")
        return
    say(f"{model}: {_findings(len(diagnosis.findings))} of {diagnosis.backend}")
    for finding in diagnosis.findings:
        _tell(finding)
    if diagnosis.after is not None:
        left = len(diagnosis.after)
        say(f"\nAfter the recipe `convert`: {_findings(left) if left else 'TensorRT takes it'}")
        if left < len(diagnosis.findings):
            say(f"    To do: trtforge run convert --model {shlex.quote(model)}")


def _findings(count: int) -> str:
    return f"{count} finding{'' if count == 1 else 's'}"


def _tell(finding: Finding) -> None:
    named = f" {finding.node!r}" if finding.node else ""
    place = f"{finding.op}{named}: " if finding.op else ""
    say(f"\n{finding.code}  {place}{finding.cause}")
    if finding.evidence and finding.cause not in finding.evidence:
        say(f"    TensorRT: {finding.evidence}")
    if finding.remedy:
        say(f"    To do: {finding.remedy}")


def init(
    model: Model,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The recipe file to write.")] = Path(
        "recipe.yaml"
    ),
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
        Path | None, typer.Option("--data", "-d", help="Inputs: .npz, .npy or a folder of them.")
    ] = None,
    cosine: Annotated[
        float, typer.Option("--cosine", help="Smallest cosine similarity that passes.")
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
        for problem in problems:
            sys.stderr.write(f"trtforge: not met: {problem}\n")
    raise typer.Exit(ExitCode.REQUIREMENT_MISSED if problems else ExitCode.DONE)


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
