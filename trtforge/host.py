"""Finds plugins, names them in errors, and gives typed answers about what they offer.

The only module that touches pluggy's untyped side. There is no global host: a command makes one,
a test makes ``Host([MyPlugin()], installed=False)``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pluggy

from trtforge import hooks
from trtforge.errors import PluginError, RecipeError, RequestError, TrtforgeError, did_you_mean
from trtforge.ops import CustomOp
from trtforge.steps import Importer, Step

if TYPE_CHECKING:
    from trtforge.context import Context
    from trtforge.hooks import Component

GROUP = "trtforge"
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_OP_NAME = re.compile(r"[A-Za-z_][\w.]*::[A-Za-z_]\w*")


@dataclass(frozen=True)
class PluginSource:
    """Where a plugin comes from, as messages name it."""

    name: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.package} {self.version}".rstrip()


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out because it does not load."""

    source: PluginSource
    cause: str

    def __str__(self) -> str:
        return (
            f"{self.source} does not load: {self.cause}\n"
            f"  To do: mend or uninstall it, or leave it out with --without {self.source.name}"
        )


class Host:
    """The plugins of one command and what they offer.

    Args:
        plugins: Further plugin objects (modules or instances), for tests and scripts.
        installed: Whether to load the plugins that installed packages offer.
        without: Names of installed plugins to leave out.

    Raises:
        PluginError: a hook is misspelt, or two plugins offer the same name.
    """

    def __init__(
        self,
        plugins: Iterable[object] = (),
        *,
        installed: bool = True,
        without: Collection[str] = (),
    ) -> None:
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)
        self._manager.register(_Runner(), "trtforge-host")
        self._sources: dict[str, PluginSource] = {}
        self.broken: tuple[BrokenPlugin, ...] = ()
        self.steps: dict[str, type[Step]] = {}
        self.ops: dict[str, type[CustomOp]] = {}
        self.recipes: dict[str, Path] = {}
        self._owners: dict[str, PluginSource] = {}
        if installed:
            self._load_installed(without)
        for index, plugin in enumerate(plugins):
            name = getattr(plugin, "__name__", type(plugin).__name__)
            self._add(PluginSource(f"{name}#{index}", "this process", ""), plugin)

    def _load_installed(self, without: Collection[str]) -> None:
        found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
        unknown = set(without) - {entry.name for entry in found}
        if unknown:
            name = min(unknown)
            hint = did_you_mean(name, [entry.name for entry in found])
            raise RequestError(
                f"--without {name}: no installed plugin has this name. {hint}".rstrip(),
                remedy="`trtforge list` shows what comes from which plugin",
            )
        for entry in found:
            if entry.name not in without:
                self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        source = _source_of(entry)
        twin = self._sources.get(entry.name)
        if twin is not None:
            raise PluginError(
                f"{twin} and {source} have the same name",
                remedy="uninstall one of the two packages, or ask its author for another name",
            )
        try:
            plugin = entry.load()
            self._add(source, plugin)
        except PluginError:
            raise
        except Exception as error:  # noqa: BLE001  # any third-party failure becomes its report
            cause = str(error) if isinstance(error, TrtforgeError) else _describe(error)
            self.broken = (*self.broken, BrokenPlugin(source, cause))

    def _add(self, source: PluginSource, plugin: object) -> None:
        _refuse_misspelt_hooks(source, plugin)
        self._manager.register(plugin, source.name)
        try:
            self._take_components(source, plugin)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        self._sources[source.name] = source

    def _take_components(self, source: PluginSource, plugin: object) -> None:
        offer = getattr(plugin, "trtforge_components", None)
        components: list[Component] = list(offer()) if offer else []
        named = [(_checked_name(component), component) for component in components]
        for name, component in named:
            self._claim(name, source)
            if isinstance(component, Path):
                self.recipes[component.stem] = component
            elif issubclass(component, Step):
                self.steps[name] = component
            else:
                self.ops[name] = component

    def _claim(self, name: str, source: PluginSource) -> None:
        other = self._owners.get(name)
        if other is not None:
            raise PluginError(
                f"{other} and {source} both offer {name!r}",
                remedy=f"leave one of them out with --without {source.name}",
            )
        self._owners[name] = source

    def owner(self, name: str) -> PluginSource:
        """Return which plugin offers the step, op or recipe ``name``."""
        return self._owners[name]

    @property
    def plugins(self) -> tuple[PluginSource, ...]:
        """The loaded plugins."""
        return tuple(self._sources.values())

    def step(self, name: str) -> type[Step]:
        """Return the step class called ``name``.

        Raises:
            RecipeError: no plugin offers it; the message suggests the nearest name.
        """
        if name not in self.steps:
            hint = did_you_mean(name, self.steps)
            broken = "".join(f" Note that {b.source} does not load." for b in self.broken)
            raise RecipeError(
                f"no installed plugin offers a step {name!r}. {hint}{broken}".rstrip(),
                remedy="`trtforge list steps` shows all of them",
            )
        return self.steps[name]

    def importer(self, source: str) -> type[Importer] | None:
        """Return the importer that accepts the model ``source``, or None."""
        importers = [cls for cls in self.steps.values() if issubclass(cls, Importer)]
        return next((cls for cls in importers if cls.accepts(source)), None)

    def givers(self, artifact: type) -> list[str]:
        """Return the names of the steps that give ``artifact``."""
        return sorted(name for name, cls in self.steps.items() if artifact in cls.gives)

    def run_step(self, step: Step, ctx: Context) -> int:
        """Run ``step`` through the ``trtforge_run_step`` hook and return its number of changes."""
        result = self._manager.hook.trtforge_run_step(step=step, ctx=ctx)
        return cast("int", result)


class _Runner:
    """The host's own implementation of ``trtforge_run_step``: the innermost one."""

    @hooks.hookimpl(trylast=True)
    def trtforge_run_step(self, step: Step, ctx: Context) -> int:
        return step.run(ctx)


def _source_of(entry: EntryPoint) -> PluginSource:
    dist = entry.dist
    return PluginSource(
        entry.name, dist.name if dist else "an unknown package", dist.version if dist else ""
    )


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _refuse_misspelt_hooks(source: PluginSource, plugin: object) -> None:
    """Refuse functions that look like hooks of ours but are none, marked or not."""
    known = {name for name in vars(hooks) if name.startswith("trtforge_")}
    for name in dir(plugin):
        member = inspect.getattr_static(plugin, name)
        marked = hasattr(getattr(member, "__func__", member), f"{hooks.PROJECT}_impl")
        looks_like = name.startswith("trtforge_") and (callable(member) or marked)
        if (marked or looks_like) and name not in known:
            raise PluginError(
                f"{source} has a function {name!r}, but trtforge has no such hook. "
                f"{did_you_mean(name, known)} trtforge's hooks are: {', '.join(sorted(known))}.",
                remedy=f"mend the plugin, or leave it out with --without {source.name}",
            )
        if looks_like and not marked:
            raise PluginError(
                f"{source}: its function {name!r} is not marked as a hook of trtforge",
                remedy="put @trtforge.hookimpl above it",
            )


def _checked_name(component: object) -> str:
    """Return the name under which ``component`` is known, or raise a PluginError-worthy error."""
    if isinstance(component, Path):
        if not component.is_file():
            raise TrtforgeError(f"it offers the recipe {component}, which is no file")
        return f"recipe {component.stem}"
    if not isinstance(component, type) or not issubclass(component, Step | CustomOp):
        raise TrtforgeError(f"it offers {component!r}, which is no Step, CustomOp or Path")
    title = component.__qualname__
    name = getattr(component, "name", None)
    pattern, form = (_KEBAB, "kebab-case") if issubclass(component, Step) else (_OP_NAME, "a::B")
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise TrtforgeError(f"{title}.name is {name!r}; it must be {form}")
    if inspect.isabstract(component):
        missing = ", ".join(sorted(component.__abstractmethods__))
        raise TrtforgeError(f"{title} lacks {missing}")
    if not is_dataclass(component) or "__dataclass_fields__" not in vars(component):
        raise TrtforgeError(f"{title} is no dataclass; put @dataclass(frozen=True) above it")
    if not (component.__doc__ or "").strip() or (component.__doc__ or "").startswith(f"{title}("):
        raise TrtforgeError(f"{title} has no docstring; its first line is the help text")
    return name


def first_line(cls: type) -> str:
    """Return the first line of a class's docstring: its help text."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def kinds(host: Host) -> Mapping[str, list[str]]:
    """Return the names on offer by kind, for ``trtforge list``."""
    by_kind: dict[str, list[str]] = {}
    for name, cls in sorted(host.steps.items()):
        by_kind.setdefault(_kind(cls), []).append(name)
    by_kind["op"] = sorted(host.ops)
    by_kind["recipe"] = sorted(host.recipes)
    return by_kind


def _kind(cls: type[Step]) -> str:
    """Return the nearest kind of step: the first class of ours above it."""
    for parent in cls.__mro__[1:]:
        if parent.__module__.startswith("trtforge.") and parent is not Step:
            return parent.__name__.removesuffix("Pass").lower() or "pass"
    return "step"
