"""What `fit-memory` may change so that an engine needs less memory, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import onnx_ir as ir

from trtforge import ByteSize, Context, Dims, Request, ShapeRange, StepError
from trtforge_plugins.precision import Cast, QuantizeWeights

Attempt = Literal[
    "batch", "float16", "int4-weights", "workspace", "tactics", "aux-streams", "weight-streaming",
    "split",
]  # fmt: skip
ATTEMPTS: tuple[Attempt, ...] = get_args(Attempt)
WORKSPACES = (ByteSize("64MiB"), ByteSize("8MiB"))
"""Limits that are tried, one after the other. Below 8 MiB TensorRT-RTX 1.7.1 finds no kernels."""
PARTS = (2, 3, 4, 6, 8, 12, 16)
SHARED_MEMORY = ByteSize("48KiB")
"""What every GPU has; kernels with more of it are left out."""


@dataclass(frozen=True)
class Setup:
    """What an engine is built from."""

    model: ir.Model
    request: Request
    tensorrt: Mapping[str, Any] = field(default_factory=dict)
    """Options of the step ``tensorrt``."""
    parts: int = 1
    made_by: tuple[str, ...] = ()
    """What was changed of what was asked for, in order."""

    @property
    def batches(self) -> tuple[int, int, int] | None:
        """The smallest, usual and largest batch; None where inputs have no common range of it."""
        found = {
            (shapes.min[0], shapes.opt[0], shapes.max[0])
            for profile in self.request.profiles
            for shapes in profile.values()
            if shapes.max and shapes.min[0] < shapes.max[0]
        }
        return found.pop() if len(found) == 1 else None

    def with_batch(self, size: int) -> Setup:
        """Return the same with another largest batch."""
        return replace(
            self,
            request=replace(
                self.request,
                profiles=tuple(
                    {name: _with_first(shapes, size) for name, shapes in profile.items()}
                    for profile in self.request.profiles
                ),
            ),
        )


def _with_first(shapes: ShapeRange, size: int) -> ShapeRange:
    if not shapes.max or shapes.min[0] == shapes.max[0]:
        return shapes
    low, mid, high = shapes.min, shapes.opt, shapes.max
    first = min(low[0], size), min(mid[0], size), size
    pairs = zip(first, (low, mid, high), strict=True)
    return ShapeRange(*(Dims((start, *dims[1:])) for start, dims in pairs))


@dataclass(frozen=True)
class Change:
    """One thing to try: what it says, and the setup with it."""

    text: str
    make: Callable[[], Setup]
    """Raises :class:`StepError` where it cannot be done."""


def changes(name: Attempt, setup: Setup, most_parts: int, ctx: Context) -> list[Change]:
    """Return the forms of an attempt, the mildest first; that of ``batch`` is searched for.

    Args:
        name: The attempt.
        setup: What it changes.
        most_parts: Most engines that a model may be split into.
        ctx: Of the step; passes of the attempt write their notes into it.
    """

    def option(text: str, **options: Any) -> Change:
        return Change(text, lambda: replace(setup, tensorrt={**setup.tensorrt, **options}))

    if name == "float16":
        return [Change("cast to float16", lambda: _rewritten(setup, Cast(to="float16"), ctx))]
    if name == "int4-weights":
        return [Change("INT4 weights", lambda: _rewritten(setup, QuantizeWeights(), ctx))]
    if name == "workspace":
        return [option(f"workspace of {limit}", workspace=limit) for limit in WORKSPACES]
    if name == "tactics":
        text = f"kernels with at most {SHARED_MEMORY} of shared memory"
        return [option(text, tactic_shared_memory=SHARED_MEMORY)]
    if name == "aux-streams":
        return [option("no auxiliary streams", max_aux_streams=0)]
    if name == "weight-streaming":
        return [option("weights that can be streamed", weight_streaming=True)]
    if name == "split":
        return [
            Change(f"split into {parts} parts", partial(replace, setup, parts=parts))
            for parts in PARTS
            if parts <= most_parts
        ]
    return []


def _rewritten(setup: Setup, step: Cast | QuantizeWeights, ctx: Context) -> Setup:
    model = setup.model.clone()
    if not step.rewrite(model, replace(ctx, model=model, artifacts=dict(ctx.artifacts), notes=[])):
        raise StepError("there was nothing to change")
    return replace(setup, model=model)
