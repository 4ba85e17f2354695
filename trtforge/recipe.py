"""Reads a recipe, binds its options, and refuses what is wrong before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trtforge.artifacts import Artifact
from trtforge.context import Requirements
from trtforge.errors import RecipeError, RequestError, did_you_mean
from trtforge.host import Host
from trtforge.options import OptionErrors, bind, option_names
from trtforge.quantities import ShapeRange
from trtforge.steps import Step
from trtforge.targets import Target, read_target
from trtforge.yaml_text import Document, Location, parse_yaml, read_yaml

TOP_KEYS = ("description", "model", "shapes", "targets", "require", "stages")
STAGE_KEYS = ("name", "repeat", "steps")
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
    """Reads one document and collects its problems, so that all are shown at once."""

    def __init__(self, document: Document, name: str, host: Host, folder: Path) -> None:
        self._document = document
        self._name = name
        self._host = host
        self._folder = folder
        self._problems: list[RecipeError] = []

    def read(self, settings: tuple[Setting, ...]) -> Recipe:
        data = self._document.data
        if not isinstance(data, dict):
            found = "a list" if isinstance(data, list) else "empty" if data is None else "a value"
            raise RecipeError(
                f"a recipe is a mapping with the keys {', '.join(TOP_KEYS)}; this is {found}",
                where=self._document.where(()),
                remedy="`trtforge init MODEL` writes one to start from",
            )
        self._refuse_unknown(data, TOP_KEYS, (), "a recipe")
        stages = self._stages(data.get("stages"), settings)
        recipe = Recipe(
            name=self._name,
            stages=stages,
            description=str(data.get("description") or ""),
            model=self._model(data.get("model")),
            profiles=self._profiles(data.get("shapes")),
            targets=self._targets(data.get("targets")),
            require=self._requirements(data.get("require")),
        )
        if not self._problems:
            self._check_order(recipe)
        self._raise_problems()
        return recipe

    def _raise_problems(self) -> None:
        if len(self._problems) == 1:
            raise self._problems[0]
        if self._problems:
            listing = "\n".join(f"- {problem}" for problem in self._problems)
            raise RecipeError(
                f"{len(self._problems)} things are wrong:\n{listing}", where=self._document.source
            )

    def _report(self, path: Location, what: str, remedy: str = "") -> None:
        self._problems.append(RecipeError(what, where=self._document.where(path), remedy=remedy))

    def _attempt(self, path: Location, read: Callable[[Any], Any], value: Any) -> Any:
        try:
            return read(value)
        except RequestError as error:
            self._report(path, error.what, error.remedy)
            return None

    def _refuse_unknown(
        self, data: Mapping[str, Any], known: Iterable[str], path: Location, subject: str
    ) -> None:
        known = list(known)
        for key in data:
            if key not in known:
                hint = did_you_mean(key, known) or f"It has: {', '.join(known)}."
                self._report((*path, key), f"{subject} has no key {key!r}. {hint}")

    def _model(self, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            self._report(("model",), "model must be text: the path of a file or folder")
            return None
        if value is not None and ":" in value:
            self._report(
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
                self._report(
                    path, "shapes is a mapping of input names to shapes, or a list of them"
                )
                continue
            ranges = {
                name: self._attempt((*path, name), ShapeRange.read, shape)
                for name, shape in item.items()
            }
            profiles.append(ranges)
        return tuple(profiles)

    def _targets(self, value: Any) -> tuple[Target, ...]:
        listed = [] if value is None else value if isinstance(value, list) else [value]
        targets = [
            self._attempt(("targets", index), read_target, item)
            for index, item in enumerate(listed)
        ]
        return tuple(dict.fromkeys(target for target in targets if target))

    def _requirements(self, value: Any) -> Requirements:
        if value is None:
            return Requirements()
        if not isinstance(value, dict):
            self._report(("require",), "require is a mapping, for example {cosine: 0.999}")
            return Requirements()
        return self._bind(Requirements, value, "require", ("require",)) or Requirements()

    def _stages(self, value: Any, settings: tuple[Setting, ...]) -> tuple[Stage, ...]:
        if not isinstance(value, list) or not value:
            self._report(
                ("stages",),
                "stages is a list of at least one {name, steps}",
                "for example: stages: [{name: prepare, steps: [fold-constants]}]",
            )
            return ()
        stages = [self._stage(item, ("stages", i), settings) for i, item in enumerate(value)]
        names: dict[str, int] = {}
        for index, stage in enumerate(stages):
            if stage and names.setdefault(stage.name, index) != index:
                self._report(("stages", index, "name"), f"two stages are called {stage.name!r}")
        self._refuse_idle_settings(stages, settings)
        return tuple(stage for stage in stages if stage)

    def _refuse_idle_settings(
        self, stages: Iterable[Stage | None], settings: tuple[Setting, ...]
    ) -> None:
        used = {step.name for stage in stages if stage for step in stage.steps}
        for setting in settings:
            if setting.step not in used and not self._problems:
                hint = did_you_mean(setting.step, used) or f"It has: {', '.join(sorted(used))}."
                self._problems.append(
                    RecipeError(
                        f"the recipe {self._name!r} has no step {setting.step!r}. {hint}",
                        where=f"--set {setting.text}",
                    )
                )

    def _stage(self, value: Any, path: Location, settings: tuple[Setting, ...]) -> Stage | None:
        if not isinstance(value, dict):
            self._report(path, "a stage is a mapping {name: prepare, steps: [...]}")
            return None
        self._refuse_unknown(value, STAGE_KEYS, path, "a stage")
        name, repeat, items = value.get("name"), value.get("repeat", 1), value.get("steps")
        if not isinstance(name, str) or not name:
            self._report(path, "a stage needs a name")
            name = f"stage {path[-1]}"
        if not isinstance(repeat, int) or isinstance(repeat, bool) or not 1 <= repeat <= 100:
            self._report(
                (*path, "repeat"),
                f"repeat is a number from 1 to 100, not {repeat!r}",
                "write for example repeat: 4; it ends earlier when a round changes nothing",
            )
            repeat = 1
        if not isinstance(items, list) or not items:
            self._report(path, f"stage {name!r} needs steps: a list of at least one")
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
            self._report(path, "a step is a name, or one name with its options: - cast: {to: …}")
            return None
        if not isinstance(options, dict):
            self._report(path, f"the options of step {name!r} are a mapping: {name}: {{option: …}}")
            return None
        cls = self._attempt(path, self._host.step, name)
        if cls is None:
            return None
        mine = [setting for setting in settings if setting.step == name]
        for setting in mine:
            if setting.option not in option_names(cls):
                self._unknown_setting(cls, setting)
                return None
        for option in sorted(set(cls.by_user) & set(options)):
            self._report(
                (*path, option),
                f"step {name!r}, option {option!r}: it makes code run, so a recipe may not set it",
                f"if you trust it, give --set {name}.{option}=… on the command line",
            )
            return None
        chosen = {setting.option: setting.value for setting in mine}
        texts = {setting.option: setting.text for setting in mine}
        bound: Step | None = self._bind(cls, {**options, **chosen}, f"step {name!r}", path, texts)
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
        self._problems.append(
            RecipeError(
                f"step {setting.step!r} has no option {setting.option!r}. {hint}",
                where=f"--set {setting.text}",
            )
        )

    def _bind(
        self,
        cls: type[Any],
        options: dict[str, Any],
        subject: str,
        path: Location,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """Return ``cls`` with ``options``; ``settings``: texts of those from --set."""
        try:
            return bind(cls, options, subject)
        except OptionErrors as errors:
            for problem in errors.problems:
                setting = settings.get(str(problem.path[0])) if problem.path else None
                where = self._document.where((*path, *problem.path))
                where = where if setting is None else f"--set {setting}"
                remedy = (
                    f"`trtforge show {cls.name}` explains the options"
                    if hasattr(cls, "name")
                    else ""
                )
                self._problems.append(RecipeError(problem.text, where=where, remedy=remedy))
        except RequestError as error:
            self._report(path, f"{subject}: {error.what}", error.remedy)
        return None

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
        self._report(
            path,
            f"step {step.name!r} needs {artifact.__name__}, which no earlier step gives",
            f"put {' or '.join(givers)} before it" if givers else "install a plugin that gives it",
        )


def with_request(
    recipe: Recipe,
    *,
    profiles: tuple[Profile, ...] = (),
    targets: tuple[Target, ...] = (),
) -> Recipe:
    """Return ``recipe`` with the shapes and targets that the command line gave, if it gave any."""
    return replace(recipe, profiles=profiles or recipe.profiles, targets=targets or recipe.targets)
