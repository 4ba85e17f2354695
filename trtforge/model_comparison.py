"""Two models on the same inputs: what ``verify``, ``--verify-each`` and ``bisect`` rest on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from trtforge.artifacts import Batches, Comparison, OutputComparison
from trtforge.compare import compare
from trtforge.context import Progress, Silent
from trtforge.feeds import first
from trtforge.frozen_inputs import without
from trtforge.graph import node_count
from trtforge.reference import Provider, Reference, TensorSpec
from trtforge.task_accuracy import task_accuracy

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.artifacts import Array

    Outputs = Mapping[str, Array]


_MANY = 64
"""From this many samples on, laying out weights anew for speed pays for the time it takes."""
_MANY_NODES = 2000
"""From this many nodes on, ONNX Runtime's optimizer takes longer than a few samples without it."""


def _has_many_nodes(model: str | os.PathLike[str] | ir.Model) -> bool:
    return not isinstance(model, str | os.PathLike) and node_count(model) >= _MANY_NODES


def compare_models(  # noqa: PLR0913  # two models, the data, and how to run them
    given: str | os.PathLike[str] | ir.Model,
    final: str | os.PathLike[str] | ir.Model,
    batches: Batches,
    *,
    count: int | None = None,
    provider: Provider = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Run both models on ``batches`` under ONNX Runtime and compare all outputs.

    Where the data has labels or a metric, the task accuracy of both is given as well
    (:mod:`trtforge.task_accuracy`).

    Args:
        given: What is taken for right.
        final: What is held against it.
        batches: Inputs by the given model's names. Those that are constants in the final model
            (:mod:`trtforge.frozen_inputs`) need no data.
        count: How many samples; None: all.
        provider: See :class:`~trtforge.reference.Reference`.
        progress: Is told how far it is.

    Raises:
        ModelError, StepError: ONNX Runtime does not take or run one of the models.
        DataError: the data does not fit the given model, or the user's metric fails.
    """
    count = batches.samples if count is None else count
    expected, actual = (
        Reference(
            model,
            provider=provider,
            optimize=count > _MANY or not _has_many_nodes(model),
            prepack=count > _MANY,
        )
        for model in (given, final)
    )
    dynamic = all(spec.shape and not isinstance(spec.shape[0], int) for spec in expected.inputs)
    feeds = _with_frozen(first(batches, count, cut=dynamic), expected, actual)
    samples = Batches(feeds, batches.source).samples
    left = [spec for spec in expected.inputs if spec.name not in actual.frozen]
    problem = _other_inputs(left, actual.inputs)
    if problem:
        outputs = tuple(_incomparable(spec.name, problem) for spec in expected.outputs)
        return Comparison(outputs, batches.source, batches.real, samples)
    right, tested = task_accuracy(batches), task_accuracy(batches)
    outputs = compare(
        right.watch(feeds, _outputs(expected, feeds, progress or Silent())),
        tested.watch(feeds, _as_typed(expected.outputs, _outputs(actual, feeds, Silent()))),
    )
    found = {"given": right.value(), "final": tested.value()}
    accuracy = {name: value for name, value in found.items() if value is not None}
    return Comparison(outputs, batches.source, batches.real, samples, accuracy)


def _with_frozen(
    feeds: Sequence[Outputs], expected: Reference, actual: Reference
) -> tuple[Outputs, ...]:
    """Return ``feeds`` with the values that inputs of the given model have in the final one.

    Raises:
        DataError: the data says another value.
    """
    inputs = {spec.name for spec in expected.inputs}
    frozen = {name: array for name, array in actual.frozen.items() if name in inputs}
    return tuple({**without(frozen, feed), **frozen} for feed in feeds)


def _incomparable(name: str, problem: str) -> OutputComparison:
    return OutputComparison(name, inf, inf, 0.0, -inf, None, problem=problem)


def _other_inputs(given: Sequence[TensorSpec], final: Sequence[TensorSpec]) -> str:
    """Return how the final model's inputs are others than the given one's, or ``""``.

    Another float width is none: casting passes may change it, and the data is cast along.
    """
    ours, theirs = {spec.name: spec for spec in given}, {spec.name: spec for spec in final}
    for name in [*ours, *theirs]:
        if name not in theirs:
            return f"the final model has no input {name!r}"
        if name not in ours:
            return f"the final model has a further input {name!r}"
        if ours[name].dtype != theirs[name].dtype and not (
            _is_float(ours[name].dtype) and _is_float(theirs[name].dtype)
        ):
            return f"input {name!r} has type {theirs[name].dtype} instead of {ours[name].dtype}"
        if not _may_agree(ours[name].shape, theirs[name].shape):
            return f"input {name!r} has shape {theirs[name].shape} instead of {ours[name].shape}"
    return ""


def _may_agree(ours: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    """Whether some array has both shapes; an empty one may also stand for an unknown rank."""
    if not ours or not theirs:
        return True
    pairs = zip(ours, theirs, strict=False)
    return len(ours) == len(theirs) and not any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs
    )


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _outputs(
    model: Reference, feeds: Sequence[Outputs], progress: Progress
) -> Iterator[dict[str, Array]]:
    types = {spec.name: spec.dtype for spec in model.inputs}
    for index, feed in enumerate(feeds):
        progress.update("comparing", index, len(feeds))
        fitted = {
            name: array.astype(types[name])
            if _is_float(array.dtype) and name in types and _is_float(types[name])
            else array
            for name, array in feed.items()
        }
        yield model.run(fitted)


def _as_typed(
    expected: Sequence[TensorSpec], batches: Iterator[dict[str, Array]]
) -> Iterator[dict[str, Array]]:
    """Cast floating-point outputs to the expected float type: a chosen width is no mistake."""
    types = {spec.name: spec.dtype for spec in expected if _is_float(spec.dtype)}
    for outputs in batches:
        yield {
            name: array.astype(types[name]) if name in types and _is_float(array.dtype) else array
            for name, array in outputs.items()
        }
