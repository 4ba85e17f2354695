"""``trtforge check``, ``init`` and ``verify``: questions about models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import Json, Without, open_host, say, say_json, say_table
from trtforge.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from trtforge.artifacts import Comparison
    from trtforge.diagnosis import Finding

Model = Annotated[str, typer.Argument(help="A model file, a folder, or package.module:factory.")]


def check(
    model: Model,
    *,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Say which nodes TensorRT would refuse, why, and what is left after make-convertible."""
    from trtforge.api import check as diagnose

    diagnosis = diagnose(model, host=open_host(without))
    if as_json:
        say_json(asdict(diagnosis))
    else:
        say(f"{model}: {len(diagnosis.findings)} findings ({diagnosis.backend})")
        for finding in diagnosis.findings:
            _tell(finding)
        if diagnosis.after is not None:
            say(f"{len(diagnosis.findings)} findings now, {len(diagnosis.after)} after `convert`")
    raise typer.Exit(ExitCode.DONE if diagnosis.convertible else ExitCode.REQUIREMENT_MISSED)


def _tell(finding: Finding) -> None:
    place = f"{finding.op} {finding.node!r}: " if finding.node else ""
    say(f"\n{finding.code}  {place}{finding.cause}")
    if finding.evidence:
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
    """Write a commented recipe that fits the model: its inputs, shapes and targets."""
    from trtforge.starter import starter_recipe
    from trtforge.store import atomic_file

    if out.exists() and not force:
        raise RequestError(f"{out} exists", remedy="give another file with -o, or --force")
    text = starter_recipe(model, open_host(without))
    with atomic_file(out) as file:
        file.write(text.encode())
    say(f"wrote {out}; next: trtforge run {out}")


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
            table.add_row(output.name, output.problem)
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
    say_table(table)
    kind = "" if comparison.real else " (not real data: give some with --data)"
    say(f"{comparison.samples} samples: {comparison.data}{kind}")
