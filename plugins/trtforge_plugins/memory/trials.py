"""Engines that are built to see how much memory they need, and the best of them so far."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from trtforge import Context, Engine, Requirements, TrtforgeError
from trtforge.chain import Chain, Loading
from trtforge.chain_runner import PARTS, write_manifest
from trtforge.options import bind
from trtforge.quantities import format_bytes
from trtforge_plugins.memory.attempts import Setup
from trtforge_plugins.memory.build_parts import build_chain
from trtforge_plugins.memory.split import split
from trtforge_plugins.tensorrt import TensorRT


@dataclass(frozen=True)
class Built:
    """An engine, or a chain of them, and how it stands to the budget."""

    text: str
    """What was changed last."""
    setup: Setup
    result: Engine | Chain
    folder: Path
    excess: float
    """The largest of TensorRT's figures over its limit."""

    @property
    def fits(self) -> bool:
        """Whether every limit is kept."""
        return self.excess <= 1

    @property
    def figures(self) -> str:
        """TensorRT's figures."""
        named = zip(("activations", "total", "engine size"), _figures(self.result), strict=True)
        return ", ".join(
            f"{name} {'unknown' if size is None else format_bytes(size)}" for name, size in named
        )


class Trials:
    """Builds setups one after the other, notes what each needs, and keeps the best.

    Args:
        first: What is built where nothing is changed.
        ctx: Of the step. Its request holds the budget; the trials lie below its folder.
    """

    def __init__(self, first: Setup, ctx: Context) -> None:
        self._ctx = ctx
        self._first = first
        self._count = 0
        self.best: Built | None = None
        self.first_error: TrtforgeError | None = None

    @property
    def setup(self) -> Setup:
        """The setup that the next change starts from."""
        return self.best.setup if self.best else self._first

    def build(self, text: str, setup: Setup) -> Built | None:
        """Build one setup; None where TensorRT does not."""
        self._count += 1
        self._ctx.progress.update(f"fit-memory: {text}", 0, 0)
        folder = self._ctx.path("fit", f"{self._count:02}", "log").parent
        try:
            result = self._result(setup, folder)
        except TrtforgeError as error:
            self._ctx.note("", f"{text}: not built: {error.what}")
            self.first_error = self.first_error or error
            shutil.rmtree(folder)
            return None
        changed = replace(setup, made_by=(*setup.made_by, text))
        return Built(text, changed, result, folder, _excess(result, self._ctx.request.require))

    def try_change(self, text: str, setup: Setup) -> bool:
        """Build a setup and keep it if it is nearer to the budget; return whether it fits."""
        built = self.build(text, setup)
        return built is not None and self.judge(built)

    def judge(self, built: Built) -> bool:
        """Keep ``built`` if it is nearer to the budget than the best; return whether it fits."""
        before = f" (before: {self.best.figures})" if self.best else ""
        nearer = self.best is None or built.excess < self.best.excess
        verdict = "" if self.best is None else "; kept" if nearer else "; no nearer, so undone"
        self._ctx.note("", f"{built.text}: {built.figures}{before}{verdict}")
        if nearer:
            self.best = built
        return built.fits

    def keep(self, best: Built) -> None:
        """Put the result, its model and its profiles into the context; drop the other trials."""
        ctx, result = self._ctx, best.result
        if isinstance(result, Engine):
            ctx.put(_moved(result, ctx.path("engines", result.path.name)))
        else:
            place = ctx.path(PARTS)
            shutil.rmtree(place, ignore_errors=True)
            (best.folder / PARTS).replace(place)
            parts = tuple(
                replace(
                    part,
                    model=place / part.model.name,
                    engine=part.engine and _at(part.engine, place),
                )
                for part in result.parts
            )
            chain = replace(result, parts=parts)
            write_manifest(chain, place)
            ctx.put(chain)
        ctx.model, ctx.request = best.setup.model, best.setup.request
        shutil.rmtree(ctx.path("fit"))

    def _result(self, setup: Setup, folder: Path) -> Engine | Chain:
        ctx = replace(
            self._ctx, model=setup.model, workdir=folder, request=setup.request, artifacts={}
        )
        backend = bind(TensorRT, dict(setup.tensorrt), "step 'fit-memory', option tensorrt")
        if setup.parts == 1:
            return backend.build(setup.model, ctx)
        loading: Loading = "one" if self._ctx.request.require.total_memory is not None else "all"
        chain = split(setup.model, setup.request, setup.parts, folder / PARTS, loading)
        return build_chain(chain, backend, ctx)


def _figures(result: Engine | Chain) -> tuple[int | None, int | None, int | None]:
    """Return activations, total and engine size in bytes."""
    if isinstance(result, Engine):
        return result.memory.activation, result.memory.total, result.size
    return result.activation, result.total, result.size


def _excess(result: Engine | Chain, require: Requirements) -> float:
    limits = (require.activation_memory, require.total_memory, require.engine_size)
    pairs = zip(_figures(result), limits, strict=True)
    return max(
        inf if found is None else found / max(limit, 1)
        for found, limit in pairs
        if limit is not None
    )


def _moved(engine: Engine, place: Path) -> Engine:
    dump = engine.layer_dump
    layers = dump.replace(place.with_name(dump.name)) if dump is not None else None
    return replace(engine, path=engine.path.replace(place), layer_dump=layers)


def _at(engine: Engine, folder: Path) -> Engine:
    dump = engine.layer_dump
    layers = folder / dump.name if dump is not None else None
    return replace(engine, path=folder / engine.path.name, layer_dump=layers)
