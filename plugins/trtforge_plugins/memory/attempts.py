"""What `fit-memory` may change so that an engine needs less memory, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import gcd
from types import MappingProxyType
from typing import Any, Literal, get_args

import onnx_ir as ir

from trtforge import ByteSize, Context, Dims, Pass, Request, ShapeRange, StepError
from trtforge.graph import opset
from trtforge_plugins.clean import UpgradeOpset
from trtforge_plugins.precision import Cast, QuantizeWeights

Attempt = Literal[
    "batch", "shapes", "float16", "int8-weights", "int4-weights", "workspace", "tactics",
    "aux-streams", "weight-streaming", "split",
]  # fmt: skip
ATTEMPTS: tuple[Attempt, ...] = get_args(Attempt)
SCALES: Mapping[Attempt, str] = MappingProxyType({"batch": "batches", "shapes": "shapes"})
"""Attempts that search, and the word for what they lower."""
WORKSPACES = (ByteSize("64MiB"), ByteSize("8MiB"))
"""Limits that are tried, one after the other. Below 8 MiB TensorRT-RTX 1.7.1 finds no kernels."""
PARTS = (2, 3, 4, 6, 8, 12, 16)
_OPSET_OF_INT4 = 21
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
    whole: ir.Model | None = None
    """The model before its weights were quantized; None where they are not."""

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
        return self._with_ranges(
            lambda name, shapes: _with_size(shapes, self._batch_axes(name, shapes), size)
        )

    def _batch_axes(self, name: str, shapes: ShapeRange) -> set[int]:
        """Return the axes of an input that the batch is: the first, and others of its name."""
        if self.batches is None:
            return set()
        declared = {value.name or "": value.shape for value in self.model.graph.inputs}
        names = {
            str(dims[0])
            for given in self.request.profiles[0]
            if (dims := declared.get(given)) and isinstance(dims[0], ir.SymbolicDim)
        }
        own = declared.get(name) or ()
        named = {axis for axis, dim in enumerate(own) if str(dim) in names - {"None"}}
        return {axis for axis in named | {0} if axis < len(shapes.max)}

    @property
    def grades(self) -> int:
        """How many steps lead from the usual shapes to the largest; the batch does not count."""
        found = [
            most
            for profile in self.request.profiles
            for name, shapes in profile.items()
            for _, _, most in self._axes(name, shapes)
        ]
        return max(found, default=0)

    def with_grade(self, grade: int) -> Setup:
        """Return the same with smaller largest shapes: the usual ones at 0, as asked at the last.

        Sizes stay multiples of what the smallest, usual and largest have in common, so that a
        model which wants multiples of 32 gets them.
        """
        grades = self.grades

        def smaller(name: str, shapes: ShapeRange) -> ShapeRange:
            largest = list(shapes.max)
            for axis, unit, most in self._axes(name, shapes):
                largest[axis] = shapes.opt[axis] + unit * (most * grade // grades)
            return ShapeRange(shapes.min, shapes.opt, Dims(largest))

        return self._with_ranges(smaller)

    def _axes(self, name: str, shapes: ShapeRange) -> Iterator[tuple[int, int, int]]:
        """Yield axis, unit, and units between usual and largest, of each axis that can shrink."""
        batch = self._batch_axes(name, shapes)
        rows = enumerate(zip(shapes.min, shapes.opt, shapes.max, strict=True))
        for axis, (low, usual, high) in rows:
            if axis not in batch and usual < high:
                unit = gcd(low, usual, high)
                yield axis, unit, (high - usual) // unit

    def _with_ranges(self, changed: Callable[[str, ShapeRange], ShapeRange]) -> Setup:
        profiles = tuple(
            {name: changed(name, shapes) for name, shapes in profile.items()}
            for profile in self.request.profiles
        )
        return replace(self, request=replace(self.request, profiles=profiles))


def _with_size(shapes: ShapeRange, axes: Collection[int], size: int) -> ShapeRange:
    """Return ``shapes`` with ``size`` as the most of those ``axes`` that have a range."""
    low, usual, high = list(shapes.min), list(shapes.opt), list(shapes.max)
    for axis in axes:
        if low[axis] < high[axis]:
            low[axis], usual[axis], high[axis] = min(low[axis], size), min(usual[axis], size), size
    return ShapeRange(Dims(low), Dims(usual), Dims(high))


@dataclass(frozen=True)
class Change:
    """One thing to try: what it says, and the setup with it."""

    text: str
    make: Callable[[], Setup]
    """Raises :class:`StepError` where it cannot be done."""


@dataclass(frozen=True)
class Scale:
    """Something that can be lowered by degrees, of which the largest that fits is searched for."""

    low: int
    high: int
    """As asked; it is known not to fit."""
    make: Callable[[int], Setup]
    text: Callable[[int], str]
    """The degree, for people."""


def scale(name: Attempt, setup: Setup, smallest_batch: int | None) -> Scale | None:
    """Return what ``batch`` or ``shapes`` lowers; None where there is nothing to lower.

    Args:
        name: The attempt.
        setup: What it changes.
        smallest_batch: Least batch; None: the usual one of the profile.
    """
    if name == "shapes":
        make = setup.with_grade
        return Scale(0, setup.grades, make, lambda grade: _largest(make(grade)))
    sizes = setup.batches
    if sizes is None:
        return None
    low = sizes[1] if smallest_batch is None else smallest_batch
    return Scale(low, sizes[-1], setup.with_batch, str)


def _largest(setup: Setup) -> str:
    """Return the largest shapes, those of all profiles."""
    shapes = [
        f"{name} {each.max}" for profile in setup.request.profiles for name, each in profile.items()
    ]
    return ", ".join(shapes)


def changes(name: Attempt, setup: Setup, most_parts: int, ctx: Context) -> list[Change]:
    """Return the forms of an attempt, the mildest first; a :class:`Scale` has none.

    Args:
        name: The attempt.
        setup: What it changes.
        most_parts: Most engines that a model may be split into.
        ctx: Of the step; passes of the attempt write their notes into it.
    """

    def option(text: str, **options: Any) -> Change:
        return Change(text, lambda: replace(setup, tensorrt={**setup.tensorrt, **options}))

    forms: dict[str, list[Change]] = {
        "float16": [Change("cast to float16", lambda: _rewritten(setup, Cast(to="float16"), ctx))],
        "int8-weights": [Change("INT8 weights", lambda: _with_weights(setup, "int8", ctx))],
        "int4-weights": [Change("INT4 weights", lambda: _with_weights(setup, "int4", ctx))],
        "workspace": [option(f"workspace of {limit}", workspace=limit) for limit in WORKSPACES],
        "tactics": [
            option(
                f"kernels with at most {SHARED_MEMORY} of shared memory",
                tactic_shared_memory=SHARED_MEMORY,
            )
        ],
        "aux-streams": [option("no auxiliary streams", max_aux_streams=0)],
        "weight-streaming": [option("weights that can be streamed", weight_streaming=True)],
        "split": [
            Change(f"split into {parts} parts", partial(replace, setup, parts=parts))
            for parts in PARTS
            if parts <= most_parts
        ],
    }
    return forms.get(name, [])


def _with_weights(setup: Setup, dtype: Literal["int8", "int4"], ctx: Context) -> Setup:
    whole = replace(setup, model=setup.whole or setup.model)
    if dtype == "int4" and opset(whole.model) < _OPSET_OF_INT4:
        whole = _rewritten(whole, UpgradeOpset(to=_OPSET_OF_INT4), ctx)
    return replace(_rewritten(whole, QuantizeWeights(dtype=dtype), ctx), whole=whole.model)


def _rewritten(setup: Setup, step: Pass, ctx: Context) -> Setup:
    model = setup.model.clone()
    if not step.rewrite(model, replace(ctx, model=model, artifacts=dict(ctx.artifacts), notes=[])):
        raise StepError("there was nothing to change")
    return replace(setup, model=model, whole=None)
