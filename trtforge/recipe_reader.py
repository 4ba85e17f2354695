"""Reads a recipe and refuses what is wrong with it before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtforge.artifacts import Artifact
from trtforge.context import Requirements
from trtforge.errors import RecipeError, did_you_mean
from trtforge.host import Host
from trtforge.quantities import ShapeRange
from trtforge.recipe import Profile, Recipe, Setting
from trtforge.recipe_problems import Problems
from trtforge.recipe_stages import StageReader
from trtforge.steps import Step
from trtforge.targets import Target, read_target
from trtforge.yaml_text import Document, Location, parse_yaml, read_yaml

TOP_KEYS = ("description", "model", "shapes", "targets", "require", "stages")


def read(path: Path, host: Host, settings: Iterable[Setting] = ()) -> Recipe:
    """Read the recipe file at ``path``; relative paths in it start at its folder.

    Raises:
        RecipeError: everything that is wrong, each with ``file:line:column``.
    """
    return _Reader(read_yaml(path), path.stem, host, path.parent).read(tuple(settings))


def parse(
    text: str, host: Host, source: str = "recipe", settings: Iterable[Setting] = ()
) -> Recipe:
    """Read a recipe from ``text``; ``source`` names it in messages. Raises :class:`RecipeError`."""
    reader = _Reader(parse_yaml(text, source), Path(source).stem, host, Path())
    return reader.read(tuple(settings))


def find(name: str, host: Host) -> Path:
    """Return the file of a recipe: a path as it is, or the name of a recipe that ships.

    Raises:
        RecipeError: there is neither such a file nor such a name.
    """
    if name in host.recipes and not Path(name).is_file():
        return host.recipes[name]
    path = Path(name)
    if path.is_file():
        return path
    remedy = f"give a file, or one of: {', '.join(sorted(host.recipes)) or 'none is installed'}"
    if path.is_dir():
        raise RecipeError("is a folder, not a recipe file", where=name, remedy=remedy)
    hint = did_you_mean(name, host.recipes)
    raise RecipeError(
        f"there is no recipe file and no shipped recipe {name!r}. {hint}".rstrip(),
        remedy=remedy,
    )


class _Reader:
    """Reads one document."""

    def __init__(self, document: Document, name: str, host: Host, folder: Path) -> None:
        self._document = document
        self._name = name
        self._host = host
        self._folder = folder
        self._problems = Problems(document)

    def read(self, settings: tuple[Setting, ...]) -> Recipe:
        data = self._document.data
        if not isinstance(data, dict):
            found = "a list" if isinstance(data, list) else "empty" if data is None else "a value"
            raise RecipeError(
                f"a recipe is a mapping with the keys {', '.join(TOP_KEYS)}; this is {found}",
                where=self._document.where(()),
                remedy="`trtforge init MODEL` writes one to start from",
            )
        self._problems.refuse_unknown(data, TOP_KEYS, (), "a recipe")
        reader = StageReader(self._problems, self._host, self._name, self._folder)
        stages = reader.read(data.get("stages"), settings)
        recipe = Recipe(
            name=self._name,
            stages=stages,
            description=str(data.get("description") or ""),
            model=self._model(data.get("model")),
            profiles=self._profiles(data.get("shapes")),
            targets=self._targets(data.get("targets")),
            require=self._requirements(data.get("require")),
        )
        if not self._problems.found:
            self._check_order(recipe)
        self._problems.raise_all()
        return recipe

    def _model(self, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            self._problems.report(("model",), "model must be text: the path of a file or folder")
            return None
        if value is not None and ":" in value:
            self._problems.report(
                ("model",),
                f"model {value!r} names code to run, which a recipe may not do",
                f"if you trust it, give --model {value} on the command line",
            )
            return None
        return value and str(self._folder / value)

    def _profiles(self, value: Any) -> tuple[Profile, ...]:
        if value is None:
            return ()
        listed = value if isinstance(value, list) else [value]
        profiles = []
        for index, item in enumerate(listed):
            path: Location = ("shapes", index) if isinstance(value, list) else ("shapes",)
            if not isinstance(item, dict):
                self._problems.report(
                    path, "shapes is a mapping of input names to shapes, or a list of them"
                )
                continue
            ranges = {
                name: self._problems.attempt((*path, name), ShapeRange.read, shape)
                for name, shape in item.items()
            }
            profiles.append(ranges)
        return tuple(profiles)

    def _targets(self, value: Any) -> tuple[Target, ...]:
        listed = [] if value is None else value if isinstance(value, list) else [value]
        targets = [
            self._problems.attempt(("targets", index), read_target, item)
            for index, item in enumerate(listed)
        ]
        return tuple(dict.fromkeys(target for target in targets if target))

    def _requirements(self, value: Any) -> Requirements:
        if value is None:
            return Requirements()
        if not isinstance(value, dict):
            self._problems.report(("require",), "require is a mapping, for example {cosine: 0.999}")
            return Requirements()
        return self._problems.bind(Requirements, value, "require", ("require",)) or Requirements()

    def _check_order(self, recipe: Recipe) -> None:
        given: set[type[Artifact]] = set()
        for index, stage in enumerate(recipe.stages):
            for position, step in enumerate(stage.steps):
                for artifact in step.needs:
                    if artifact not in given:
                        self._report_order(step, artifact, ("stages", index, "steps", position))
                given.update(step.gives)

    def _report_order(self, step: Step, artifact: type[Artifact], path: Location) -> None:
        givers = self._host.givers(artifact)
        self._problems.report(
            path,
            f"step {step.name!r} needs {artifact.__name__}, which no earlier step gives",
            f"put {' or '.join(givers)} before it" if givers else "install a plugin that gives it",
        )
