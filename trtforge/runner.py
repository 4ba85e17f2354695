"""Runs a recipe: import, stages, verdict; each step through the cache and the hook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trtforge.artifacts import Artifact
from trtforge.cache import Entry, StepCache
from trtforge.context import Context, Progress
from trtforge.errors import CacheError, StepError, TrtforgeError
from trtforge.host import Host
from trtforge.options import as_data
from trtforge.recipe import Recipe, Stage
from trtforge.records import StepRecord
from trtforge.steps import Backend, Importer, Step

NOTHING = "no model yet"


class Observer(Progress, Protocol):
    """Whoever watches a run: the terminal, a JSON stream, a test."""

    def step_started(self, stage: str, step: str) -> None:
        """A step begins."""

    def step_finished(self, record: StepRecord) -> None:
        """A step ended, or was taken from the cache."""

    def message(self, text: str) -> None:
        """Something worth a line happened."""


@dataclass(frozen=True)
class Unit:
    """Stages, or parts of one, that share one cache entry."""

    stages: tuple[Stage, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all stages."""
        return tuple(step for stage in self.stages for step in stage.steps)

    @property
    def cacheable(self) -> bool:
        """Whether the result may be stored and reused."""
        return all(step.cacheable for step in self.steps)

    @property
    def imports(self) -> bool:
        """Whether it brings the model in."""
        return any(isinstance(step, Importer) for step in self.steps)


@dataclass(frozen=True)
class PlannedStep:
    """A line of the plan that ``--dry-run`` prints."""

    stage: str
    step: Step
    cached: bool


def units(stages: Sequence[Stage]) -> Iterator[Unit]:
    """Split stages into units: neighbouring graph edits share one, also across stages.

    A repeated stage stays whole.
    """
    quick: list[Stage] = []
    for part in _parts(stages):
        if all(not step.checkpoint and step.cacheable for step in part.steps):
            quick.append(part)
            continue
        if quick:
            yield Unit(tuple(quick))
            quick = []
        yield Unit((part,))
    if quick:
        yield Unit(tuple(quick))


def _parts(stages: Sequence[Stage]) -> Iterator[Stage]:
    """Yield each repeated stage, and the steps of each other stage one by one."""
    for stage in stages:
        if stage.repeat > 1:
            yield stage
        else:
            yield from (replace(stage, steps=(step,)) for step in stage.steps)


class Runner:
    """Runs the stages of a recipe on a context.

    Args:
        host: Runs steps through the plugins' hooks.
        cache: Where results are kept, or None to keep none.
        observer: Is told what happens.
        imported: Called with the context when its model has been imported.
    """

    def __init__(
        self,
        host: Host,
        cache: StepCache | None,
        observer: Observer,
        imported: Callable[[Context], None],
    ) -> None:
        self._host = host
        self._cache = cache
        self._observer = observer
        self._imported = imported
        self._reading = True
        self._warm: set[int] = set()
        self._waiting: Entry | None = None  # a stored state that nobody needed to load yet
        self._volatile: set[type[Artifact]] = set()  # given by steps that are never cached
        self.records: list[StepRecord] = []

    def run(self, recipe: Recipe, ctx: Context) -> None:
        """Run all stages of ``recipe``; afterwards ``ctx`` holds the model and the artifacts.

        A damaged cache entry is noticed when it is needed; everything is then computed anew.

        Raises:
            StepError: a step failed; the message names stage and step.
        """
        try:
            self._run(recipe, ctx)
        except CacheError as error:
            self._observer.message(f"{error.what}; computing everything anew")
            self._reading, self._waiting = False, None
            if self._cache is not None:
                self._cache.distrust()
            self.records.clear()
            ctx.artifacts.clear()
            self._run(recipe, ctx)

    def plan(self, recipe: Recipe, ctx: Context) -> list[PlannedStep]:
        """Return what :meth:`run` would do; only the import is really done."""
        state: str | None = None
        planned = []
        for unit in units(recipe.stages):
            if unit.imports:
                self._run_unit(unit, ctx)
                self._imported(ctx)
                state = self._freeze(ctx, ()).state if self._cache else None
                planned += _planned(unit, cached=False)
                continue
            entry = self._find(self._key(unit, state, ctx))
            if unit.cacheable:
                state = entry.state if entry else None
            planned += _planned(unit, cached=entry is not None)
        return planned

    def _run(self, recipe: Recipe, ctx: Context) -> None:
        state: str | None = NOTHING
        todo = list(units(recipe.stages))
        for index, unit in enumerate(todo):
            key = self._key(unit, state, ctx)
            entry = self._find(key)
            if entry is not None:
                self._take(entry)
                state = entry.state
            else:
                self._materialize(ctx)
                self._warm_up(todo[index:])
                state = self._run_and_keep(unit, key, state, ctx)
            if unit.imports:
                self._materialize(ctx)
                self._imported(ctx)
        self._materialize(ctx)

    def _run_and_keep(
        self, unit: Unit, key: str | None, state: str | None, ctx: Context
    ) -> str | None:
        first = len(self.records)
        changes = self._run_unit(unit, ctx)
        if self._cache is None or state is None:
            return None
        if not unit.cacheable:
            self._volatile.update(kind for step in unit.steps for kind in step.gives)
            if not changes and not unit.imports:
                return state
        try:
            entry = self._freeze(ctx, self.records[first:])
            if key is not None:
                self._cache.save(key, entry)
        except OSError as error:  # a full disk, or a folder of somebody else
            place = f"{self._cache.root}: {error.strerror or error}"
            self._observer.message(f"the cache cannot be written, going on without it: {place}")
            self._cache = None
            return None
        return entry.state

    def _freeze(self, ctx: Context, records: Sequence[StepRecord]) -> Entry:
        assert self._cache is not None  # noqa: S101  # callers have looked
        lasting = [made for kind, made in ctx.artifacts.items() if kind not in self._volatile]
        return self._cache.freeze(ctx, lasting, records)

    def _key(self, unit: Unit, state: str | None, ctx: Context) -> str | None:
        if self._cache is None or state is None or not unit.cacheable:
            return None
        return self._cache.key(state, unit.stages, ctx.request, ctx.ops.values())

    def _find(self, key: str | None) -> Entry | None:
        return self._cache.find(key) if self._cache and key and self._reading else None

    def _take(self, entry: Entry) -> None:
        assert self._cache is not None  # noqa: S101  # the entry came from it
        self._waiting = entry
        for record in self._cache.records(entry):
            self.records.append(record)
            self._observer.step_finished(record)

    def _materialize(self, ctx: Context) -> None:
        if self._waiting is None or self._cache is None:
            return
        volatile = {k: made for k, made in ctx.artifacts.items() if k in self._volatile}
        self._cache.restore(self._waiting, ctx)
        ctx.artifacts.update(volatile)
        self._waiting = None

    def _warm_up(self, rest: Sequence[Unit]) -> None:
        """Let the steps that will run soon start what takes long to start."""
        for step in {id(step): step for unit in rest for step in unit.steps}.values():
            if id(step) not in self._warm:
                self._warm.add(id(step))
                try:
                    step.warm_up()
                except TrtforgeError as error:
                    error.at(f"step {step.name!r}")
                    raise

    def _run_unit(self, unit: Unit, ctx: Context) -> int:
        def run(stage: Stage, step: Step, round_: int) -> int:
            return self._run_step(stage.name, step, round_, ctx)

        return apply_stages(unit.stages, run)

    def _run_step(self, stage: str, step: Step, round_: int, ctx: Context) -> int:
        self._observer.step_started(stage, step.name)
        ctx.notes.clear()
        before = dict(ctx.artifacts)
        started = time.perf_counter()
        record = StepRecord(stage, step.name, round_, as_data(step), 0, 0.0)
        where = f"stage {stage!r}, step {step.name!r}"
        try:
            changes = self._host.run_step(step, ctx)
            gave = _refuse_undeclared(step, before, ctx)
        except Exception as error:
            self._finish(replace(record, error=_text(error)), ctx, started)
            if isinstance(error, TrtforgeError):
                error.at(where)
                raise
            owner = self._host.owner(step.name)
            remedy = f"this is a defect of {owner}; please report it with the model and the recipe"
            raise StepError(_text(error), where=where, remedy=remedy) from error
        self._finish(replace(record, changes=changes, gave=gave), ctx, started)
        return changes

    def _finish(self, record: StepRecord, ctx: Context, started: float) -> None:
        from trtforge.graph import node_count

        record = replace(
            record,
            seconds=time.perf_counter() - started,
            nodes=None if _pending(ctx) else node_count(ctx.model),
            notes=tuple(ctx.notes),
        )
        self.records.append(record)
        self._observer.step_finished(record)


def apply_stages(stages: Iterable[Stage], run: Callable[[Stage, Step, int], int]) -> int:
    """Run stages, the repeated ones until a round changes nothing; return the number of changes.

    A graph edit that found nothing to do is not run again before something has changed.

    Args:
        stages: What to run, in order.
        run: Runs a step of a stage, given the number of the round from 1, and returns its changes.
    """
    total, done = 0, list[Step]()  # done: what found nothing to do in the model as it is now
    for stage in stages:
        for round_ in range(1, stage.repeat + 1):
            before = total
            for step in stage.steps:
                if step in done:
                    continue
                changes = run(stage, step, round_)
                total += changes
                if changes or step.checkpoint or not step.cacheable:
                    done.clear()
                else:
                    done.append(step)
            if total == before:
                break
    return total


def _planned(unit: Unit, *, cached: bool) -> list[PlannedStep]:
    return [PlannedStep(stage.name, step, cached) for stage in unit.stages for step in stage.steps]


def _refuse_undeclared(
    step: Step, before: Mapping[type[Artifact], Artifact], ctx: Context
) -> tuple[str, ...]:
    """Return the names of the artifacts that ``step`` gave; each must be declared."""
    gave = [kind for kind, made in ctx.artifacts.items() if before.get(kind) is not made]
    undeclared = [kind.__name__ for kind in gave if kind not in step.gives]
    if undeclared:
        raise StepError(f"it gave {', '.join(undeclared)}, which its `gives` does not declare")
    return tuple(kind.__name__ for kind in gave)


def _pending(ctx: Context) -> bool:
    """Whether the model is a graphsurgeon graph now, which counting nodes would convert."""
    return getattr(ctx.model, "pending", None) is not None


def _text(error: Exception) -> str:
    if isinstance(error, TrtforgeError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def builds(recipe: Recipe) -> bool:
    """Whether the recipe builds an engine."""
    return any(isinstance(step, Backend) for step in recipe.steps)
