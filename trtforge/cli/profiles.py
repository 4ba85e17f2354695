"""``trtforge profile``: what an engine or a model costs, and what is behind each layer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import (
    Json,
    Shapes,
    Without,
    open_host,
    say,
    say_json,
    say_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Device = Annotated[
    str, typer.Option("--device", help="GPU to predict for, e.g. L4; default: by the target.")
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="The ONNX model behind an engine or a layer dump.")
]


def profile(
    source: Annotated[
        Path, typer.Argument(help="A run, an engine, a layer dump of TensorRT, or a model.")
    ],
    *,
    model: Model = "",
    device: Device = "",
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    top: Annotated[int, typer.Option(help="Rows to show.", min=1)] = 20,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Predict the cost of an engine or a model.

    Arithmetic, memory traffic and launches of each layer and node are counted; no GPU is needed.
    """
    from trtforge.cli.runs import shape_option
    from trtforge.profile_text import (
        LAYER_COLUMNS,
        NODE_COLUMNS,
        layer_rows,
        node_rows,
        summary_lines,
    )
    from trtforge.quantities import ShapeRange
    from trtforge.subject import open_subject

    ranges = {name: ShapeRange.read(shape) for name, shape in map(shape_option, shapes)}
    subject = open_subject(source, open_host(without), model=model, device=device, shapes=ranges)
    found = subject.prediction
    if as_json:
        timings = asdict(subject.timings) if subject.timings else None
        say_json({"predicted": asdict(found), "measured": timings})
        return
    for line in summary_lines(subject):
        say(line)
    say()
    if found.layers:
        _say_rows(LAYER_COLUMNS, layer_rows(found, top))
    else:
        _say_rows(NODE_COLUMNS, node_rows(found, top))


def _say_rows(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    say_table(table)
