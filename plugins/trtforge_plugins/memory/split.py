"""split: cut the model into parts that run one after another, at the cheapest places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from trtforge import (
    Artifact,
    Context,
    Request,
    RequestError,
    ShapeRange,
    Step,
    StepError,
    model_file,
)
from trtforge.chain import Chain, ChainPart, Loading
from trtforge.chain_runner import PARTS, ChainRunner, write_manifest
from trtforge.compare import compare
from trtforge.feeds import synthesize
from trtforge.quantities import format_bytes
from trtforge.reference import Reference
from trtforge_plugins.memory.pieces import Piece, pieces

SAME_SQNR_DB = 100.0
"""From here on two float32 results count as the same: where ONNX Runtime may no longer fuse across
a cut, sums are taken in another order, which leaves 120 dB and more."""


@dataclass(frozen=True)
class Split(Step):
    """Split the model into parts that run one after another, for engines that fit where one cannot.

    The cuts are where the fewest bytes go from part to part, among the divisions whose neediest
    part is within 10 % of the best possible. The parts lie in `parts/` with a manifest,
    `chain.json`. They are run under ONNX Runtime and held against the whole model. The model
    itself stays as it is; `build-parts` makes the engines.
    """

    name: ClassVar[str] = "split"
    gives: ClassVar[tuple[type[Artifact], ...]] = (Chain,)

    parts: int = 2
    """How many parts."""
    loading: Loading = "all"
    """Whether all engines stay on the GPU, or each is loaded when its turn comes, which takes time
    at every run but needs the memory of one part only."""
    check: bool = True
    """Run the parts on made-up inputs and refuse them if their outputs differ from the model's."""

    def run(self, ctx: Context) -> int:
        """Write the parts and put the chain into the context; the model stays as it is.

        Raises:
            RequestError: no part is asked for.
            StepError: the model cannot be split so, or the parts compute something else.
        """
        if self.parts < 1:
            raise RequestError(f"split: parts is {self.parts}; a model has at least one part")
        chain = split(ctx.model, ctx.request, self.parts, ctx.path(PARTS, "."), self.loading)
        if self.check:
            ctx.note("", f"outputs of the parts against the whole model's: {_checked(chain, ctx)}")
        for part in chain.parts:
            ctx.note(
                "", f"{part.model.name}: from {', '.join(part.inputs)} to {', '.join(part.outputs)}"
                f"; {format_bytes(part.between)} are kept between the parts while it runs",
            )  # fmt: skip
        ctx.put(chain)
        return 0


def split(model: ir.Model, request: Request, parts: int, folder: Path, loading: Loading) -> Chain:
    """Write ``model`` as a chain of parts into ``folder``; ``model`` stays as it is.

    Raises:
        StepError: there are fewer kernels than parts, several profiles, or sizes that are unknown.
    """
    if len(request.profiles) > 1:
        raise StepError("a model with several optimization profiles cannot be split")
    profile = request.profiles[0] if request.profiles else {}
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, piece in enumerate(pieces(model, profile, parts)):
        path = folder / f"part-{number}.onnx"
        model_file.save(piece.model, path)
        found.append(_part(piece, path))
    inputs = tuple(value.name or "" for value in model.graph.inputs)
    outputs = tuple(value.name or "" for value in model.graph.outputs)
    chain = Chain(inputs, outputs, tuple(found), loading)
    write_manifest(chain, folder)
    return chain


def _part(piece: Piece, path: Path) -> ChainPart:
    profile = {name: str(shapes) for name, shapes in piece.profile.items()}
    return ChainPart(
        path,
        tuple(value.name or "" for value in piece.model.graph.inputs),
        tuple(value.name or "" for value in piece.model.graph.outputs),
        (profile,) if profile else (),
        piece.between,
    )


def _checked(chain: Chain, ctx: Context) -> str:
    """Return how near the outputs are.

    Raises:
        StepError: they differ.
    """
    profiles: Sequence[Mapping[str, ShapeRange]] = ctx.request.profiles
    feeds = synthesize(ctx.model, profiles[0] if profiles else None, samples=1).feeds
    whole, runner = Reference(ctx.model), ChainRunner(chain)
    outputs = compare((whole.run(feed) for feed in feeds), (runner.run(feed) for feed in feeds))
    wrong = [each for each in outputs if each.problem or each.sqnr_db < SAME_SQNR_DB]
    if wrong:
        text = wrong[0].problem or f"SQNR {wrong[0].sqnr_db:.1f} dB"
        raise StepError(
            f"the parts compute something else than the model: output {wrong[0].name!r}: {text}",
            remedy="report this model; `check: false` leaves the comparison out",
        )
    lowest = min((each.sqnr_db for each in outputs), default=float("inf"))
    return "equal bit for bit" if lowest == float("inf") else f"SQNR {lowest:.0f} dB or more"
