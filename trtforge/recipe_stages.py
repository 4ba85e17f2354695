"""Reads the stages of a recipe: steps by name, options bound, settings applied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtforge.errors import RecipeError, did_you_mean
from trtforge.host import Host
from trtforge.options import option_names
from trtforge.recipe import Setting, Stage
from trtforge.recipe_problems import Problems
from trtforge.steps import Step
from trtforge.yaml_text import Location

STAGE_KEYS = ("name", "repeat", "steps")


class StageReader:
    """Reads stages and reports what is wrong with them.

    Args:
        problems: Where problems go.
        host: Knows the steps.
        name: The recipe's name, for messages.
        folder: Where relative paths start.
    """

    def __init__(self, problems: Problems, host: Host, name: str, folder: Path) -> None:
        self._problems = problems
        self._host = host
        self._name = name
        self._folder = folder

    def read(self, value: Any, settings: tuple[Setting, ...]) -> tuple[Stage, ...]:
        """Return the stages that ``value`` lists; those that are wrong are left out."""
        if not isinstance(value, list) or not value:
            self._problems.report(
                ("stages",),
                "stages is a list of at least one {name, steps}",
                "for example: stages: [{name: prepare, steps: [fold-constants]}]",
            )
            return ()
        stages = [self._stage(item, ("stages", i), settings) for i, item in enumerate(value)]
        names: dict[str, int] = {}
        for index, stage in enumerate(stages):
            if stage and names.setdefault(stage.name, index) != index:
                self._problems.report(
                    ("stages", index, "name"), f"two stages are called {stage.name!r}"
                )
        self._refuse_idle_settings(stages, settings)
        return tuple(stage for stage in stages if stage)

    def _refuse_idle_settings(
        self, stages: Iterable[Stage | None], settings: tuple[Setting, ...]
    ) -> None:
        used = {step.name for stage in stages if stage for step in stage.steps}
        for setting in settings:
            if setting.step not in used and not self._problems.found:
                hint = did_you_mean(setting.step, used) or f"It has: {', '.join(sorted(used))}."
                self._problems.found.append(
                    RecipeError(
                        f"the recipe {self._name!r} has no step {setting.step!r}. {hint}",
                        where=f"--set {setting.text}",
                    )
                )

    def _stage(self, value: Any, path: Location, settings: tuple[Setting, ...]) -> Stage | None:
        if not isinstance(value, dict):
            self._problems.report(path, "a stage is a mapping {name: prepare, steps: [...]}")
            return None
        self._problems.refuse_unknown(value, STAGE_KEYS, path, "a stage")
        name, repeat, items = value.get("name"), value.get("repeat", 1), value.get("steps")
        if not isinstance(name, str) or not name:
            self._problems.report(path, "a stage needs a name")
            name = f"stage {path[-1]}"
        if not isinstance(repeat, int) or isinstance(repeat, bool) or not 1 <= repeat <= 100:
            self._problems.report(
                (*path, "repeat"),
                f"repeat is a number from 1 to 100, not {repeat!r}",
                "write for example repeat: 4; it ends earlier when a round changes nothing",
            )
            repeat = 1
        if not isinstance(items, list) or not items:
            self._problems.report(path, f"stage {name!r} needs steps: a list of at least one")
            return None
        steps = [self._step(item, (*path, "steps", i), settings) for i, item in enumerate(items)]
        return Stage(name, tuple(step for step in steps if step), repeat)

    def _step(self, item: Any, path: Location, settings: tuple[Setting, ...]) -> Step | None:
        options: Any
        if isinstance(item, str):
            name, options = item, {}
        elif isinstance(item, dict) and len(item) == 1:
            name, options = next(iter(item.items()))
            options = {} if options is None else options
            path = (*path, name)
        else:
            self._problems.report(
                path, "a step is a name, or one name with its options: - cast: {to: …}"
            )
            return None
        if not isinstance(options, dict):
            self._problems.report(
                path, f"the options of step {name!r} are a mapping: {name}: {{option: …}}"
            )
            return None
        cls = self._problems.attempt(path, self._host.step, name)
        if cls is None:
            return None
        mine = [setting for setting in settings if setting.step == name]
        for setting in mine:
            if setting.option not in option_names(cls):
                self._unknown_setting(cls, setting)
                return None
        for option in sorted(set(cls.by_user) & set(options)):
            self._problems.report(
                (*path, option),
                f"step {name!r}, option {option!r}: it makes code run, so a recipe may not set it",
                f"if you trust it, give --set {name}.{option}=… on the command line",
            )
            return None
        chosen = {setting.option: setting.value for setting in mine}
        texts = {setting.option: setting.text for setting in mine}
        bound: Step | None = self._problems.bind(
            cls, {**options, **chosen}, f"step {name!r}", path, texts
        )
        return bound and self._anchored(bound, set(options) - set(chosen))

    def _anchored(self, step: Step, written: Iterable[str]) -> Step:
        """Return ``step`` with the relative paths that the recipe wrote, from its folder on."""
        paths = {name: getattr(step, name) for name in written}
        return replace(
            step, **{n: self._folder / p for n, p in paths.items() if isinstance(p, Path)}
        )

    def _unknown_setting(self, cls: type[Step], setting: Setting) -> None:
        names = option_names(cls)
        hint = did_you_mean(setting.option, names) or f"It has: {', '.join(names) or 'none'}."
        self._problems.found.append(
            RecipeError(
                f"step {setting.step!r} has no option {setting.option!r}. {hint}",
                where=f"--set {setting.text}",
            )
        )
