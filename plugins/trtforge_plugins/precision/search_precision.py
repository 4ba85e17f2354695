"""Step ``search-precision``: as much work in low precision as the required accuracy allows."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trtforge import (
    Batches,
    Context,
    HighPrecision,
    Ranges,
    Requirements,
    Sensitivity,
    Step,
    StepError,
)
from trtforge.compare import meets
from trtforge.reference import Provider
from trtforge.statistics import NodeGroup
from trtforge_plugins.precision.accuracy_target import accuracy_target, allowed_noise, stated
from trtforge_plugins.precision.group_choice import Candidate, GroupSearch
from trtforge_plugins.precision.group_trials import GroupTrials
from trtforge_plugins.precision.insert_qdq import refuse_unfit
from trtforge_plugins.precision.placement import Wanted


@dataclass(frozen=True)
class SearchPrecision(Step):
    """Find the nodes that must stay in high precision to keep the accuracy that `require` states.

    Nodes that share a quantized tensor make a group. The noise of each group alone is measured on a
    few samples; then whole choices are measured, those first that spare the most noise per
    multiply-accumulate, and at last kept groups are given back one by one. `insert-qdq` leaves the
    kept nodes alone. The report shows accuracy over the share of work in low precision, and the
    kept nodes as the option `skip` for a recipe without the search.
    """

    name = "search-precision"
    needs = (Batches, Ranges)
    gives = (HighPrecision, Sensitivity)
    checkpoint: ClassVar[bool] = True

    dtype: Literal["int8", "float8e4m3fn"] = "int8"
    """The low precision; the same as in `insert-qdq`."""
    attention: bool = False
    """Also products of two activations, as in `insert-qdq`."""
    skip: tuple[str, ...] = ()
    """Glob patterns of nodes to keep in any case, as in `insert-qdq`."""
    count: Annotated[int, Field(ge=1)] = 64
    """How many samples choices are measured on; their outputs are held in memory."""
    evaluations: Annotated[float, Field(ge=3)] = 12
    """Largest work of the search, in passes over these samples."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Part of the allowed error that is left for other samples and for float16."""
    provider: Provider = "auto"
    """Where ONNX Runtime runs: `cpu`, `cuda`, or `auto`: CUDA where it works."""

    def run(self, ctx: Context) -> int:
        """Put :class:`HighPrecision` and :class:`Sensitivity` into the context.

        Where no choice meets the requirement, the closest one is given, and the run ends with exit
        code 1.

        Raises:
            RequestError: no accuracy is required, or a target lacks the type.
            StepError: nothing can be quantized.
            DataError: the data does not fit the model.
        """
        refuse_unfit(self.name, self.dtype, ctx.model, ctx.request.targets)
        target = accuracy_target(ctx.request.require, self.margin)
        targets = [each.name for each in ctx.request.targets]
        wanted = Wanted(self.dtype, self.skip, {}, self.attention, targets)
        trials = GroupTrials(ctx, wanted, target, self.count, self.provider)
        if not trials.groups:
            raise StepError("the model has no node to quantize with a usable range")
        candidates = [
            Candidate(group.macs / max(trials.macs, 1), noise)
            for group, noise in zip(trials.groups, trials.noise_alone(), strict=True)
        ]
        left = max(2, int(self.evaluations - trials.passes))
        search = GroupSearch(candidates, trials.measure, allowed_noise(target), left)
        kept = search.run()
        choice = trials.closest() if kept is None else kept
        found = self._sensitivity(ctx, trials, candidates, choice, target)
        ctx.put(found)
        reason = f"search-precision: {_text(stated(target))} needs it"
        ctx.put(HighPrecision({node: reason for group in choice for node in trials.nodes(group)}))
        _tell(ctx, found)
        return 0

    def _sensitivity(
        self,
        ctx: Context,
        trials: GroupTrials,
        candidates: Sequence[Candidate],
        choice: frozenset[int],
        target: Requirements,
    ) -> Sensitivity:
        groups = tuple(
            NodeGroup(group.nodes, group.macs, candidates[i].noise, kept=i in choice)
            for i, group in enumerate(trials.groups)
        )
        nodes = [node for group in groups if group.kept for node in group.nodes]
        return Sensitivity(
            self.dtype,
            groups,
            trials.curve(choice),
            stated(target),
            round(trials.passes, 2),
            trials.samples,
            ctx.get(Batches).source,
            skip=tuple(glob.escape(node) for node in dict.fromkeys([*self.skip, *nodes])),
            missed=tuple(meets(trials.comparison(choice), ctx.request.require)),
        )


def _text(required: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in required.items())


def _tell(ctx: Context, found: Sensitivity) -> None:
    last = found.curve[-1]
    ctx.note(
        "",
        f"{last.share:.1%} of the multiply-accumulates in {found.dtype} with cosine "
        f"{last.cosine:.6f}, SQNR {last.sqnr_db:.1f} dB; {len(found.curve)} choices measured, "
        f"{found.evaluations:.3g} passes over {found.samples} samples",
    )
