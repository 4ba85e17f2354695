"""fit-memory: build an engine that meets the memory requirements, and say what that took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trtforge import (
    Artifact,
    Context,
    Engine,
    RequestError,
    Requirements,
    Step,
    StepError,
    TrtforgeError,
)
from trtforge.chain import Chain
from trtforge_plugins.memory.attempts import ATTEMPTS, SCALES, Attempt, Setup, changes, scale
from trtforge_plugins.memory.prediction import predict
from trtforge_plugins.memory.searching import largest
from trtforge_plugins.memory.trials import Built, Trials
from trtforge_plugins.tensorrt import TensorRT

OF_MEMORY = (
    "gpu-out-of-memory", "host-out-of-memory", "memory-limit", "workspace-too-small",
    "shared-memory-limit", "pool-limit", "no-implementation",
)  # fmt: skip
"""Codes of failures that less memory may mend (docs/findings.md); other failures are final."""


@dataclass(frozen=True)
class FitMemory(Step):
    """Build an engine within the required memory; change one thing after the other until it fits.

    The budget is `require` (`activation_memory`, `total_memory`, `engine_size`). The engine is
    built as asked first. What is tried then, in the order of `attempts`: the largest batch and the
    largest shapes that fit, float16, INT8 and INT4 weights, smaller workspaces, kernels with less
    shared memory, no auxiliary streams, weights that can be streamed, and several engines. Each is
    built and measured; what brings TensorRT's own figures nearer to the budget is kept, the rest is
    undone. The notes have the effect of each. Where nothing fits, the closest engine is kept and
    the exit code is 1.
    """

    name: ClassVar[str] = "fit-memory"
    gives: ClassVar[tuple[type[Artifact], ...]] = (Engine, Chain)
    cacheable: ClassVar[bool] = False

    attempts: tuple[Attempt, ...] = ATTEMPTS
    """What may be tried, in this order. Batch, shapes and types change what the engine can do."""
    smallest_batch: int | None = None
    """Below this the batch is not lowered; left out: the usual batch (`opt`) of the profile."""
    most_parts: int = 8
    """Most engines that the model may be split into."""
    tensorrt: Mapping[str, Any] = field(default_factory=dict)
    """Options of the step `tensorrt`."""

    def run(self, ctx: Context) -> int:
        """Put the engine, or the chain of engines, and its model into the context.

        Raises:
            RequestError: nothing is required of the memory, or an option is wrong.
            BuildError: TensorRT refuses the model, or no engine could be built at all.
        """
        require = ctx.request.require
        if not (require.activation_memory or require.total_memory or require.engine_size):
            raise RequestError(
                "fit-memory needs a budget",
                remedy="state require: activation_memory, total_memory or engine_size",
            )
        if self.smallest_batch is not None and self.smallest_batch < 1:
            raise RequestError(f"fit-memory: smallest_batch is {self.smallest_batch}; 1 is least")
        trials = Trials(Setup(ctx.model, ctx.request, self.tensorrt), ctx)
        done = trials.try_change("as asked", trials.setup)
        if trials.first_error is not None and trials.first_error.code not in OF_MEMORY:
            raise trials.first_error
        for name in self.attempts:
            done = done or self._attempt(name, trials, ctx)
        if trials.best is None:
            raise trials.first_error or StepError("no engine could be built")
        fits = "it fits" if done else "it does not fit, and nothing that was tried does"
        ctx.note(
            "",
            f"chosen: {', then '.join(trials.best.setup.made_by)}: {trials.best.figures}; {fits}",
        )
        changed = int(trials.best.setup.model is not ctx.model)
        trials.keep(trials.best)
        return changed

    def environment(self) -> Mapping[str, str]:
        """Return which TensorRT and which GPU decide the result."""
        return TensorRT().environment()

    def _attempt(self, name: Attempt, trials: Trials, ctx: Context) -> bool:
        """Try one thing, in each of its forms; return whether it fits now."""
        if name in SCALES:
            return self._search(name, trials, ctx)
        for change in changes(name, trials.setup, self.most_parts, ctx):
            try:
                setup = change.make()
            except TrtforgeError as error:
                ctx.note("", f"{change.text}: not possible: {error.what}")
                continue
            if trials.try_change(change.text, setup):
                return True
        return False

    def _search(self, name: Attempt, trials: Trials, ctx: Context) -> bool:
        """Look for the largest that fits: predicted, then confirmed by builds."""
        lowered = scale(name, trials.setup, self.smallest_batch)
        if lowered is None or lowered.low >= lowered.high:
            ctx.note("", f"{name}: no range that could be lowered")
            return False
        found: dict[int, Built] = {}

        def fits(size: int) -> bool:
            what = f"{SCALES[name]} up to {lowered.text(size)}"
            built = trials.build(what, lowered.make(size))
            if built is None:
                return False
            found[size] = built
            return built.fits

        def predicted(size: int) -> bool:
            return _is_predicted_to_fit(lowered.make(size), ctx.request.require)

        low = lowered.low
        best = largest(low, lowered.high - 1, predicted, fits)
        told = f"largest that fits is {lowered.text(best)}"
        if best < low:
            told = f"not even {lowered.text(low)} fits"
        built = "; ".join(map(lowered.text, sorted(found))) or "none"
        ctx.note("", f"{name}: {told}; built: {built}")
        closest = found.get(best) or found.get(low)
        return closest is not None and trials.judge(closest)


def _is_predicted_to_fit(setup: Setup, require: Requirements) -> bool:
    shapes = {name: tuple(each.max) for name, each in setup.request.profiles[0].items()}
    plan = predict(setup.model, shapes)
    pairs = (
        (plan.activation, require.activation_memory),
        (plan.total, require.total_memory),
        (plan.weights, require.engine_size),
    )
    return all(limit is None or found <= limit for found, limit in pairs)
