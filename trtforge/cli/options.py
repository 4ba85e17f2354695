"""The options that several commands have, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from trtforge.errors import RequestError

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on standard output.")]
Without = Annotated[
    list[str], typer.Option("--without", metavar="NAME", help="Leave this plugin out; repeatable.")
]
Shapes = Annotated[
    list[str],
    typer.Option(
        "--shape",
        metavar="INPUT=MIN:OPT:MAX",
        help="Shape or shape range of an input, e.g. x=1x3x224x224:8x3x224x224:32x3x224x224.",
    ),
]
Targets = Annotated[
    list[str], typer.Option("--target", metavar="SM", help="GPU to build for, e.g. sm_89.")
]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="STEP.OPTION=VALUE", help="Set an option; repeatable."),
]
Model = Annotated[str, typer.Argument(help="A model file, a folder, or package.module:factory.")]


def shape_option(text: str) -> tuple[str, str]:
    """Read ``INPUT=SHAPE``."""
    name, equals, shape = text.rpartition("=")
    if not equals or not name:
        raise RequestError(
            f"--shape {text}: not of the form INPUT=SHAPE",
            remedy="for example --shape x=1x3x224x224:8x3x224x224:32x3x224x224",
        )
    return name, shape


def refuse_beside(option: str, others: Mapping[str, object], remedy: str) -> None:
    """Refuse those of the ``others`` that are given, as they would mean nothing beside ``option``.

    Raises:
        RequestError: one of them is given.
    """
    for name, value in others.items():
        if value:
            raise RequestError(f"{option} and {name} do not go together", remedy=remedy)
