"""Finds the step of a recipe, and the nodes in it, that cost the accuracy.

Works on the graph alone, with ONNX Runtime as the judge, so it holds for strongly typed networks:
what a Cast or a Q/DQ pair does to the values is the same there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from trtforge.artifacts import Artifact, Comparison
from trtforge.compare import meets
from trtforge.context import Context, Requirements
from trtforge.delta import Part, fewest
from trtforge.errors import RequestError, TrtforgeError
from trtforge.graph import label, nodes
from trtforge.host import Host
from trtforge.recipe import Recipe
from trtforge.runner import apply_stages
from trtforge.steps import Backend, Profiler, Step
from trtforge.verdict import ACCURACY

if TYPE_CHECKING:
    import onnx_ir as ir

EXEMPTING = ("skip", "keep")
"""Options with which steps leave nodes as they are: glob patterns of node names."""


@dataclass(frozen=True)
class StepEffect:
    """What one step that changed the model did to its outputs, all steps before it included."""

    step: str
    cosine: float
    """Lowest of all outputs, against the given model."""
    sqnr_db: float
    missed: tuple[str, ...]
    """A sentence for each requirement that the model misses from here on."""


@dataclass(frozen=True)
class Blame:
    """Who costs the accuracy."""

    effects: tuple[StepEffect, ...]
    """Of each step that changed the model, in order, up to the one that breaks the requirement."""
    step: str = ""
    """The step after which a requirement is missed; empty: all are met."""
    option: str = ""
    """Its option that leaves nodes as they are; empty: it has none, and no node is named."""
    nodes: tuple[str, ...] = ()
    """Nodes that have to be left as they are; without any one of them a requirement is missed."""
    of: int = 0
    """How many nodes the step changes: as many trials as trying them one by one would take."""
    trials: int = 0
    """How often the model was compared to find the nodes."""

    @property
    def setting(self) -> str:
        """The option as a recipe has it; empty when there is none to give."""
        names = ", ".join(f'"{name}"' for name in map(escaped, self.nodes))
        return f"{self.step}: {{{self.option}: [{names}]}}" if self.nodes else ""


def escaped(name: str) -> str:
    """Return a glob pattern that matches ``name`` alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@dataclass
class _Bisection:
    host: Host
    ctx: Context
    require: Requirements
    effects: list[StepEffect] = field(default_factory=list)
    blamed: tuple[Step, ir.Model, Mapping[type[Artifact], Artifact]] | None = None

    def follow(self, _stage: object, step: Step, _round: int) -> int:
        """Run one step; remember the model from before it when it breaks the requirement."""
        if self.blamed is not None or isinstance(step, Backend | Profiler):
            return 0
        if Comparison in step.gives:
            return 0
        before, artifacts = self.ctx.model.clone(), dict(self.ctx.artifacts)
        changes = self.host.run_step(step, self.ctx)
        if changes:
            effect = self._effect(step)
            self.effects.append(effect)
            if effect.missed:
                self.blamed = (step, before, artifacts)
        return changes

    def _effect(self, step: Step) -> StepEffect:
        found = self.compared()
        figures = [out for out in found.outputs if not out.problem]
        return StepEffect(
            step.name,
            min((out.cosine for out in figures), default=0.0),
            min((out.sqnr_db for out in figures), default=0.0),
            tuple(meets(found, self.require)),
        )

    def compared(self) -> Comparison:
        """Compare the model as it is now with the given one."""
        self.host.run_step(self.host.steps[self.host.givers(Comparison)[0]](), self.ctx)
        return self.ctx.get(Comparison)


def blame(recipe: Recipe, ctx: Context, host: Host) -> Blame:
    """Run ``recipe`` up to the step that breaks its requirement, and find the nodes that do.

    Args:
        recipe: Its requirement on accuracy decides; without one, a cosine similarity of 0.999.
        ctx: Holds the given model.
        host: Its first step that gives a :class:`Comparison` is the judge.

    Raises:
        RequestError: no installed step compares models.
        TrtforgeError: a step fails.
    """
    if not host.givers(Comparison):
        raise RequestError("no installed plugin compares models")
    asked = recipe.require
    stated = any(getattr(asked, name) is not None for name in ACCURACY)
    require = asked if stated else replace(asked, cosine=0.999)
    work = _Bisection(host, ctx, require)
    apply_stages(recipe.stages, work.follow)
    if work.blamed is None:
        return Blame(tuple(work.effects))
    return _nodes_of(work, *work.blamed)


def _nodes_of(
    work: _Bisection, step: Step, before: ir.Model, artifacts: Mapping[type[Artifact], Artifact]
) -> Blame:
    option = next((each for each in EXEMPTING if each in {f.name for f in fields(step)}), "")
    effects = tuple(work.effects)
    touched = _touched(before, work.ctx.model)
    if not option or not touched:
        return Blame(effects, step.name, of=len(touched))
    trials = 0

    def holds(part: Part) -> bool:
        nonlocal trials
        trials += 1
        given: Sequence[str] = getattr(step, option)
        patterns = (*given, *(escaped(touched[number]) for number in part))
        changed: dict[str, Any] = {option: patterns}
        work.ctx.model, work.ctx.artifacts = before.clone(), dict(artifacts)
        try:
            work.host.run_step(replace(step, **changed), work.ctx)
        except TrtforgeError:  # it has nothing left to do: the model stays as it was
            work.ctx.model, work.ctx.artifacts = before.clone(), dict(artifacts)
        return not meets(work.compared(), work.require)

    found = fewest(tuple(range(len(touched))), holds)
    names = tuple(touched[number] for number in found)
    return Blame(effects, step.name, option, names, len(touched), trials)


def _touched(before: ir.Model, after: ir.Model) -> list[str]:
    """Return the names of nodes whose inputs or result types differ, in the model's order."""

    def facts(model: ir.Model) -> dict[str, object]:
        return {
            label(node): (
                [value.name if value is not None else None for value in node.inputs],
                [value.dtype for value in node.outputs],
            )
            for node in nodes(model)
        }

    now = facts(after)
    return [name for name, known in facts(before).items() if now.get(name) != known]
