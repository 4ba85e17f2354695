"""Asks TensorRT again with one thing changed, where its words fit several causes.

A build that succeeds with one change shows that the thing changed is at fault. The rules say
which failures leave the cause open (``undecided`` in ``failures/*.yaml``); one that no rule
explains does.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from trtforge import Context, ShapeRange, StepError, TrtforgeError
from trtforge.graph import label
from trtforge.subgraph import Cutter
from trtforge_plugins.tensorrt.failure_rules import rules
from trtforge_plugins.tensorrt.known_failures import UNKNOWN

SUSPECTS = 3
"""Nodes that a failure names are left out one by one, at most this many."""
LIMITS = {
    "workspace": "workspace-too-small",
    "tactic_shared_memory": "shared-memory-limit",
    "tactic_dram": "pool-limit",
}
"""Options that limit TensorRT, and the cause where a build succeeds without one."""

Build = Callable[[Mapping[str, Any], ir.Model, Context], object]
"""Builds a model with some options of the step changed, and raises where that fails."""


@dataclass(frozen=True)
class Question:
    """One thing to change; its remedy holds where the build then succeeds."""

    change: str
    remedy: str
    model: ir.Model
    context: Context
    options: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    """The cause that is shown; empty: the cause stays as it is called."""


def is_open(error: TrtforgeError) -> bool:
    """Whether the words of a failure leave its cause open."""
    undecided = {rule.code for rule in rules() if rule.undecided}
    return error.code == UNKNOWN or error.code in undecided


def ask(
    error: StepError, options: Mapping[str, Any], ctx: Context, build: Build, seconds: float
) -> None:
    """Ask until a build succeeds or the time is over; write into ``error`` what was found.

    Args:
        error: How the build failed. Each answer becomes a line of ``what``; the change with which
            it builds also becomes the first remedy, and decides the code where it shows the cause.
        options: Options of the step.
        ctx: What was built; stays as it is.
        build: Builds, in a process of its own, within the option ``time_limit``.
        seconds: The time for all questions together.
    """
    end = time.monotonic() + seconds
    for question in questions(error.what, options, ctx):
        left = end - time.monotonic()
        if left <= 0:
            error.what += "\n  Not asked further: the time for it (ask_again) is over"
            return
        changed = {**question.options, "time_limit": min(left, options["time_limit"])}
        answer = _answer(question, changed, build)
        error.what += f"\n  Asked again {question.change}: {answer or 'it builds'}"
        if not answer:
            error.remedy = f"{question.remedy}; or {error.remedy}"
            error.code = question.code or error.code
            return


def _answer(question: Question, options: Mapping[str, Any], build: Build) -> str:
    """Return how the build failed in a few words; empty: it did not."""
    with tempfile.TemporaryDirectory(prefix="trtforge-ask-") as folder:
        ctx = replace(question.context, workdir=Path(folder), artifacts={}, notes=[])
        try:
            build(options, question.model, ctx)
        except TrtforgeError as error:
            return f"it fails ({error.code})"
    return ""


def questions(said: str, options: Mapping[str, Any], ctx: Context) -> Iterator[Question]:
    """Yield what may be changed, one thing at a time; what costs the user least comes first."""
    yield from _limits(options, ctx)
    yield from _targets(ctx)
    yield from _shapes(ctx)
    if options["optimization_level"] != 0:
        change = "with optimization_level 0"
        yield Question(change, f"build {change}", ctx.model, ctx, {"optimization_level": 0})
    yield from _nodes(said, ctx)


def _limits(options: Mapping[str, Any], ctx: Context) -> Iterator[Question]:
    for name, code in LIMITS.items():
        if options[name] is not None:
            remedy = f"raise the option {name}, or leave it out"
            yield Question(f"without {name}", remedy, ctx.model, ctx, {name: None}, code)


def _targets(ctx: Context) -> Iterator[Question]:
    targets = ctx.request.targets
    for target in targets if len(targets) > 1 else ():
        others = tuple(each for each in targets if each != target)
        changed = replace(ctx, request=replace(ctx.request, targets=others))
        remedy = f"leave {target.name} out of the targets"
        yield Question(f"without the target {target.name}", remedy, ctx.model, changed)


def _shapes(ctx: Context) -> Iterator[Question]:
    """Yield the question for the smallest shapes, where they are not the only ones."""
    smallest = tuple(
        {name: ShapeRange(each.min, each.min, each.min) for name, each in profile.items()}
        for profile in ctx.request.profiles
    )
    if smallest != tuple(map(dict, ctx.request.profiles)):
        changed = replace(ctx, request=replace(ctx.request, profiles=smallest))
        remedy = "lower the largest shapes of the ranges: with the smallest ones it builds"
        yield Question("with the smallest shapes only", remedy, ctx.model, changed)


def _nodes(said: str, ctx: Context) -> Iterator[Question]:
    """Yield questions for the model without each node that the failure names."""
    words = set(re.findall(r"[\w./:-]+", said))
    names = [label(node) for node in ctx.model.graph]
    suspects = [number for number, name in enumerate(names) if name in words][:SUSPECTS]
    profile = ctx.request.profiles[0] if ctx.request.profiles else {}
    if not suspects or len(names) == 1 or ctx.model.functions:
        return
    cutter = Cutter(ctx.model, dict(profile))
    for suspect in suspects:
        cut = cutter.cut([number for number in range(len(names)) if number != suspect])
        if cut is not None:
            model, ranges = cut
            request = replace(ctx.request, profiles=(ranges,) if ranges else ())
            name = names[suspect]
            remedy = f"rewrite the node {name!r}, or compute it outside of the engine"
            changed = replace(ctx, model=model, request=request)
            yield Question(f"without the node {name!r}", remedy, model, changed)
