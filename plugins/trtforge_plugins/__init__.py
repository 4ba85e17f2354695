"""The steps that ship with trtforge, by the public interface only."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge import hookimpl

if TYPE_CHECKING:
    from trtforge import Context
    from trtforge.hooks import Component

RECIPES = Path(__file__).parent / "recipes"


@hookimpl
def trtforge_components() -> Iterable[Component]:
    """Offer every step and recipe of this package."""
    from trtforge_plugins import (
        analysis,
        clean,
        convert,
        fuse,
        importers,
        memory,
        precision,
        profiling,
        tensorrt,
    )
    from trtforge_plugins.bundle import Bundle
    from trtforge_plugins.engine_layers import ReadLayers
    from trtforge_plugins.prove_precision import ProvePrecision
    from trtforge_plugins.verify import Verify

    packages = (importers, clean, convert, fuse, precision, tensorrt, analysis, profiling, memory)
    return [
        *(getattr(package, name) for package in packages for name in package.__all__),
        ReadLayers,
        ProvePrecision,
        Verify,
        Bundle,
        *sorted(RECIPES.glob("*.yaml")),
    ]


@hookimpl(wrapper=True)
def trtforge_run_step(ctx: Context) -> Generator[None, int | None, int | None]:
    """Compare the model before and after each step, where the run asks for it."""
    if not ctx.request.verify_each:
        return (yield)
    from trtforge_plugins.verify import verify_each_step

    return (yield from verify_each_step(ctx))
