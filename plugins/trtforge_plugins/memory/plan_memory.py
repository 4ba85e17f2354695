"""plan-memory: say before the build how much memory the engine will need, when, and for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from trtforge import Artifact, Context, Step
from trtforge.memory_plan import MemoryPlan, describe
from trtforge_plugins.memory.prediction import predict


@dataclass(frozen=True)
class PlanMemory(Step):
    """Predict the engine's memory from the graph alone, at the largest shapes of each profile.

    The plan of the profile that needs most is kept: totals, and the memory in use at each predicted
    kernel. Where it is more than the recipe requires (``activation_memory``, ``total_memory``), a
    note says so before anything is built; the verdict rests on what TensorRT reports.
    """

    name: ClassVar[str] = "plan-memory"
    gives: ClassVar[tuple[type[Artifact], ...]] = (MemoryPlan,)
    checkpoint: ClassVar[bool] = False

    def run(self, ctx: Context) -> int:
        """Put the plan into the context; the model stays as it is.

        Raises:
            StepError: the size of a value is not known.
        """
        plans = [predict(ctx.model, shapes) for shapes in _largest(ctx)]
        plan = max(plans, key=lambda each: each.activation)
        ctx.put(plan)
        require = ctx.request.require
        limits = {
            "activation memory": (plan.activation, require.activation_memory),
            "total memory": (plan.total, require.total_memory),
        }
        texts = [
            f"the predicted {what} is above the required {limit}"
            for what, (found, limit) in limits.items()
            if limit is not None and found > limit
        ]
        for text in (*describe(plan), *texts):
            ctx.note("", text)
        return 0


def _largest(ctx: Context) -> list[Mapping[str, tuple[int, ...]]]:
    """Return the largest shapes of each profile."""
    profiles = [
        {name: tuple(shapes.max) for name, shapes in profile.items()}
        for profile in ctx.request.profiles
    ]
    return list(profiles) or [{}]
