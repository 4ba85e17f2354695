"""build-parts: an engine of each part of a split model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from trtforge import Artifact, Context, ShapeRange, Step, model_file
from trtforge.chain import Chain, ChainPart
from trtforge.chain_runner import write_manifest
from trtforge.options import bind
from trtforge_plugins.tensorrt import TensorRT


@dataclass(frozen=True)
class BuildParts(Step):
    """Build an engine of each part that `split` made, beside the part's ONNX file.

    The memory of the parts is judged together: they share one block for activations, to which comes
    what is kept from part to part.
    """

    name: ClassVar[str] = "build-parts"
    needs: ClassVar[tuple[type[Artifact], ...]] = (Chain,)
    gives: ClassVar[tuple[type[Artifact], ...]] = (Chain,)

    tensorrt: Mapping[str, Any] = field(default_factory=dict)
    """Options of the step `tensorrt`."""

    def run(self, ctx: Context) -> int:
        """Put the chain with its engines into the context.

        Raises:
            BuildError: TensorRT refuses a part or fails.
            RequestError: the options are wrong.
        """
        backend = bind(TensorRT, dict(self.tensorrt), f"step {self.name!r}, option tensorrt")
        ctx.put(build_chain(ctx.get(Chain), backend, ctx))
        return 0

    def environment(self) -> Mapping[str, str]:
        """Return which TensorRT and which GPU decide the result."""
        return TensorRT().environment()


def build_chain(chain: Chain, backend: TensorRT, ctx: Context) -> Chain:
    """Return ``chain`` with an engine beside each part's ONNX file."""
    parts = tuple(_built(part, backend, ctx) for part in chain.parts)
    built = replace(chain, parts=parts)
    write_manifest(built, parts[0].model.parent)
    return built


def _built(part: ChainPart, backend: TensorRT, ctx: Context) -> ChainPart:
    profiles = tuple(
        {name: ShapeRange.read(shapes) for name, shapes in profile.items()}
        for profile in part.profiles
    )
    request = replace(ctx.request, source=part.model.name, profiles=profiles)
    folder = part.model.parent
    scratch = folder / f".{part.model.stem}"
    scratch.mkdir(exist_ok=True)
    model = model_file.load(part.model)
    mine = replace(ctx, model=model, workdir=scratch, request=request, artifacts={}, notes=[])
    engine = backend.build(model, mine)
    for note in mine.notes:
        ctx.note(note.node, note.text)
    place = engine.path.replace(folder / engine.path.name)
    dump = engine.layer_dump
    layers = dump.replace(folder / dump.name) if dump is not None else None
    log = scratch / "logs" / "tensorrt.log"
    if log.is_file():
        log.replace(ctx.path("logs", f"tensorrt-{part.model.stem}.log"))
    shutil.rmtree(scratch)
    return replace(part, engine=replace(engine, path=place, layer_dump=layers))
