"""What a recipe is once it is read: stages of steps with every option bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trtforge.context import Requirements
from trtforge.errors import RecipeError, RequestError
from trtforge.quantities import ShapeRange
from trtforge.steps import Step
from trtforge.targets import Target
from trtforge.yaml_text import parse_yaml

Profile = Mapping[str, ShapeRange]


@dataclass(frozen=True)
class Stage:
    """Steps that run in order, up to ``repeat`` times, until a round changes nothing."""

    name: str
    steps: tuple[Step, ...]
    repeat: int = 1


@dataclass(frozen=True)
class Recipe:
    """A recipe with every option bound and checked."""

    name: str
    stages: tuple[Stage, ...]
    description: str = ""
    model: str | None = None
    profiles: tuple[Profile, ...] = ()
    targets: tuple[Target, ...] = ()
    require: Requirements = field(default_factory=Requirements)

    @property
    def steps(self) -> Iterable[Step]:
        """All steps in order."""
        return (step for stage in self.stages for step in stage.steps)


@dataclass(frozen=True)
class Setting:
    """One ``--set step.option=value`` of the command line."""

    step: str
    option: str
    value: Any
    text: str

    @classmethod
    def read(cls, text: str) -> Setting:
        """Read ``step.option=value``; the value is YAML.

        Raises:
            RequestError: the text has another form.
        """
        target, equals, value = text.partition("=")
        step, dot, option = target.partition(".")
        if not (equals and dot and step and option):
            raise RequestError(
                f"--set {text}: not of the form step.option=value",
                remedy="for example --set tensorrt.optimization_level=5",
            )
        try:
            data = parse_yaml(value, "value").data
        except RecipeError as error:
            raise RecipeError(
                error.what,
                where=f"--set {text}",
                remedy=f"quote the value: --set '{step}.{option}=\"…\"'",
            ) from error
        return cls(step, option, data, text)
