"""The two hooks: the whole surface through which plugins extend trtforge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from trtforge.context import Context
    from trtforge.ops import CustomOp
    from trtforge.steps import Step

    Component: TypeAlias = type[Step | CustomOp] | Path

PROJECT = "trtforge"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def trtforge_components() -> Iterable[Component]:  # type: ignore[empty-body]  # a specification
    """Offer steps, custom ops and recipes.

    Called once per command. Return classes (``Step`` or ``CustomOp``) and ``Path`` objects of
    recipe files; import heavy libraries inside the methods of the classes, not here.
    """


@hookspec(firstresult=True)
def trtforge_run_step(step: Step, ctx: Context) -> int | None:
    """Run one step and return the number of changes it made to the model.

    The host runs the step itself, as the last of all. Wrap it (``hookimpl(wrapper=True)``) to
    time, dump, compare or veto steps.
    """
