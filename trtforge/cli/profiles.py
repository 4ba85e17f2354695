"""``trtforge profile`` and ``trtforge diff``: what engines cost, and what they do differently."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, open_host, say, say_json, say_table, write_file
from trtforge.cli.options import Json, Shapes, Without
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="GPU", help="GPU to predict for, e.g. L4; default: by the target."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="The ONNX model behind an engine or a layer dump."
    ),
]


def profile(
    source: Annotated[
        Path, typer.Argument(help="A run, an engine, a layer dump of TensorRT, or a model.")
    ],
    *,
    model: Model = "",
    device: Device = "",
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    times: Annotated[
        list[Path],
        typer.Option(
            "--times",
            metavar="FILE",
            help="Measured times: trtexec's --exportTimes or --exportProfile, or ONNX Runtime's "
            "profile. Twice: whole runs, then layers. Default: the files beside the layer dump.",
        ),
    ] = [],  # noqa: B006  # typer copies it
    top: Annotated[int, typer.Option("--top", min=1, metavar="NUMBER", help="Rows to show.")] = 20,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Predict the cost of an engine or a model.

    Arithmetic, memory traffic and launches of each layer and node are counted; no GPU is needed.
    """
    from trtforge.cli.options import shape_option
    from trtforge.profile_text import advice_lines, summary_lines, table
    from trtforge.quantities import ShapeRange
    from trtforge.subject import open_subject

    ranges = {name: ShapeRange.read(shape) for name, shape in map(shape_option, shapes)}
    if len(times) > 2:
        raise RequestError("--times takes at most two files: whole runs, then layers")
    subject = open_subject(
        source, open_host(without), model=model, device=device, shapes=ranges, times=times
    )
    found = subject.prediction
    if as_json:
        timings = asdict(subject.timings) if subject.timings else None
        advice = asdict(subject.advice)
        say_json({"predicted": asdict(found), "measured": timings, "advice": advice})
        return
    for line in summary_lines(subject):
        say(line)
    say()
    _say_rows(*table(subject, top))
    for line in advice_lines(subject):
        say(line)


def diff(
    before: Annotated[
        Path, typer.Argument(metavar="A", help="A run, an engine or a layer dump of TensorRT.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="What to compare with it.")],
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="The ONNX model behind both, if no run has it."
        ),
    ] = "",
    device: Device = "",
    top: Annotated[
        int, typer.Option("--top", min=1, metavar="NUMBER", help="Changes to show.")
    ] = 20,
    fail_if: Annotated[
        str,
        typer.Option(
            "--fail-if",
            metavar="CONDITIONS",
            help='End with exit code 1 if one holds, e.g. "latency>+3%|layers>+2|int8_macs<-1%".',
        ),
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page here as well.")
    ] = None,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Say what run or engine B does differently from A.

    Engines: by ONNX node, operator and torch module, other fusions, precisions, shapes and formats,
    added copies and casts, and their effect on time and memory. Runs: also verdicts, accuracy,
    precision, memory, steps and environment. No GPU is needed.
    """
    from trtforge.diff import compare
    from trtforge.diff_page import render
    from trtforge.diff_text import diff_data, diff_lines
    from trtforge.fail_if import failures, read_conditions

    conditions = read_conditions(fail_if) if fail_if else ()
    found = compare(before, after, open_host(without), model=model, device=device)
    failed = tuple(failures(conditions, found.figures))
    if html is not None:
        write_file(html, render(found))
    if as_json:
        say_json({**diff_data(found), "failed": failed})
    else:
        for line in diff_lines(found, top):
            say(line)
        for sentence in failed:
            say(f"Failed     {sentence}")
    end(not_met(failed, "keep A", "allow the change with another --fail-if"))


def _say_rows(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    say_table(table)
