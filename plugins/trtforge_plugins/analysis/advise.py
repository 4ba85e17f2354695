"""Step ``advise``: what would make the engine faster or smaller, with the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trtforge import Artifact, Context, Step, Timings
from trtforge.analysis import Advice, Prediction
from trtforge_plugins.analysis.advice_rules import RULES, Seen


@dataclass(frozen=True)
class Advise(Step):
    """Say what would make the engine faster or smaller: the evidence, and the recipe's change.

    Reads the counted layers of `predict`, and measured times where there are some. What stands to
    be won is an upper bound: the time of the layers that would go or shrink.
    """

    name: ClassVar[str] = "advise"
    needs: ClassVar[tuple[type[Artifact], ...]] = (Prediction,)
    gives: ClassVar[tuple[type[Artifact], ...]] = (Advice,)

    def run(self, ctx: Context) -> int:
        """Put the advice into the context; the model stays as it is."""
        timings = ctx.find(Timings)
        times: dict[str, float] = {}
        for layer in timings.layers if timings else ():
            times[layer.name] = times.get(layer.name, 0.0) + layer.median_ms
        seen = Seen(ctx.model, ctx.get(Prediction), ctx.request.profiles, times)
        hints = [hint for rule in RULES for hint in rule(seen)]
        hints.sort(key=lambda hint: -hint.milliseconds)
        ctx.put(Advice(tuple(hints), "measured" if times else "predicted"))
        return 0
