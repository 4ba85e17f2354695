"""``trtforge export``: what other programs serve or load."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from trtforge.cli.answers import say, say_json
from trtforge.cli.options import Json

app = typer.Typer(help="Write a model for other programs to serve.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Write a model for other programs to serve."""


@app.command()
def triton(
    sources: Annotated[
        list[Path],
        typer.Argument(help="A bundle, or the folder of a run; several make a chain."),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="The model repository.")
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the model in it.")
    ] = "",
    backend: Annotated[
        Literal["tensorrt", "onnxruntime"],
        typer.Option("--backend", help="What Triton runs: the engines, or the ONNX model."),
    ] = "tensorrt",
    max_batch: Annotated[
        int | None,
        typer.Option(
            "--max-batch", metavar="NUMBER", min=0, help="Largest batch that Triton makes; 0: none."
        ),
    ] = None,
    instances: Annotated[
        int,
        typer.Option(
            "--instances", metavar="NUMBER", min=1, help="Copies of the model on each GPU."
        ),
    ] = 1,
    queue_delay: Annotated[
        int,
        typer.Option(
            "--queue-delay",
            metavar="MICROSECONDS",
            min=0,
            help="Microseconds to wait for a larger batch.",
        ),
    ] = 0,
    version: Annotated[
        str, typer.Option("--tensorrt", metavar="VERSION", help="Whose engines, if several.")
    ] = "",
    warm_up: Annotated[bool, typer.Option(help="Let Triton run the model before it is ready.")] = (
        True
    ),
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Public key (PEM, ed25519) that must have signed the bundle.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model repository for Triton Inference Server."""
    from trtforge.triton.repository import export
    from trtforge.triton.serving import Wishes

    wishes = Wishes(backend, max_batch, instances, queue_delay, version, warm_up)
    written = export(sources, out, name=name, wishes=wishes, key=key)
    if as_json:
        rows = [{"config": asdict(each.config), "notes": each.notes} for each in written]
        say_json({"repository": str(out), "models": rows})
        return
    for each in written:
        config = each.config
        batch = f"batches up to {config.max_batch_size}" if config.max_batch_size else "no batching"
        say(f"{out / config.name}: {config.platform}, {batch}")
        for capability, file in config.files.items():
            say(f"  {capability}: {file}")
        for note in each.notes:
            say(f"  Note: {note}")
