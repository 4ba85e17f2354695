"""Plugins: found one at a time, named when they fail, refused when they clash."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest

import trtforge as tf
from trtforge import host as host_module
from trtforge.host import Host, kinds


@dataclass(frozen=True)
class DropNothing(tf.Pass):
    """Drop nothing at all."""

    name = "drop-nothing"

    def rewrite(self, model, ctx):
        return 0


class Plugin:
    def __init__(self, *components):
        self.components = components

    @tf.hookimpl
    def trtforge_components(self):
        return self.components


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these modules are installed plugins: name -> module, or an error to raise."""

    def install(**plugins):
        entries = []
        for name, plugin in plugins.items():
            if isinstance(plugin, ModuleType):
                monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
            module = plugin.__name__ if isinstance(plugin, ModuleType) else plugin
            dist = SimpleNamespace(name=f"{name}-forge", version="1.2")
            entry = EntryPoint(name, module, "trtforge")
            vars(entry).update(dist=dist)
            entries.append(entry)
        monkeypatch.setattr(host_module, "entry_points", lambda group: entries)

    return install


def module(name, *components, **members):
    made = ModuleType(name)
    made.trtforge_components = tf.hookimpl(lambda: list(components))
    vars(made).update(members)
    return made


def test_a_plugin_offers_steps():
    host = Host([Plugin(DropNothing)], installed=False)
    assert host.step("drop-nothing") is DropNothing
    assert kinds(host)["pass"] == ["drop-nothing"]
    assert host.owner("drop-nothing").name.startswith("Plugin")


def test_the_shipped_plugins_come_through_the_same_door():
    host = Host()
    assert {"trtforge-plugins", "trtforge-ops"} <= {plugin.name for plugin in host.plugins}
    assert host.broken == ()
    assert {"fold-constants", "tensorrt", "verify", "insert-qdq"} <= set(host.steps)
    assert {"fp16", "bf16", "int8", "fp8", "best"} <= set(host.recipes)


def test_a_plugin_that_does_not_load_is_named_and_left_out(installed):
    installed(broken="nowhere_to_be_found", fine=module("fine_forge", DropNothing))
    host = Host()
    assert "drop-nothing" in host.steps
    (broken,) = host.broken
    assert str(broken) == (
        "plugin 'broken' of broken-forge 1.2 does not load: "
        "ModuleNotFoundError: No module named 'nowhere_to_be_found'\n"
        "  To do: mend or uninstall it, or leave it out with --without broken"
    )
    assert Host(without=["broken"]).broken == ()


def test_an_unknown_step_names_the_plugin_that_does_not_load(installed):
    installed(broken="nowhere_to_be_found")
    with pytest.raises(tf.RecipeError, match=r"plugin 'broken' of broken-forge 1\.2 does not load"):
        Host().step("fold-constants")


def test_without_a_plugin_that_is_not_there(installed):
    installed(fine=module("fine_forge"))
    with pytest.raises(tf.RequestError, match="Did you mean 'fine'"):
        Host(without=["fin"])


def test_two_plugins_with_one_step_name_both_sides(installed):
    installed(one=module("one_forge", DropNothing), two=module("two_forge", DropNothing))
    with pytest.raises(tf.PluginError) as caught:
        Host()
    assert "plugin 'one' of one-forge 1.2 and plugin 'two' of two-forge 1.2" in str(caught.value)
    assert "--without two" in str(caught.value)


@pytest.mark.parametrize("marked", [True, False])
def test_a_misspelt_hook_names_both_spellings(installed, marked):
    def hook():
        return []

    function = tf.hookimpl(hook) if marked else hook
    installed(typo=module("typo_forge", trtforge_component=function))
    with pytest.raises(tf.PluginError) as caught:
        Host()
    message = str(caught.value)
    assert "plugin 'typo' of typo-forge 1.2 has a function 'trtforge_component'" in message
    assert "Did you mean 'trtforge_components'" in message


def test_a_hook_without_its_mark(installed):
    installed(unmarked=module("unmarked_forge", trtforge_run_step=lambda step, ctx: 0))
    with pytest.raises(tf.PluginError, match=r"put @trtforge\.hookimpl above it"):
        Host()


class NoDataclass(tf.Pass):
    """A pass that forgot its decorator."""

    name = "no-dataclass"

    def rewrite(self, model, ctx):
        return 0


@dataclass(frozen=True)
class NoDocstring(tf.Pass):
    name = "no-docstring"

    def rewrite(self, model, ctx):
        return 0


@dataclass(frozen=True)
class NoRewrite(tf.Pass):
    """A pass that rewrites nothing."""

    name = "no-rewrite"


@dataclass(frozen=True)
class BadName(DropNothing):
    """A pass whose name is not in kebab-case."""

    name = "BadName"


@pytest.mark.parametrize(
    ("component", "cause"),
    [
        (NoDataclass, "put @dataclass"),
        (NoDocstring, "has no docstring"),
        (NoRewrite, "lacks rewrite"),
        (BadName, "must be kebab-case"),
        ("text", "is no Step, CustomOp or Path"),
    ],
)
def test_a_component_that_cannot_be_used_makes_its_plugin_broken(installed, component, cause):
    installed(poor=module("poor_forge", component))
    (broken,) = Host().broken
    assert cause in str(broken)


def test_a_wrapper_sees_every_step():
    seen = []

    class Watcher:
        @tf.hookimpl(wrapper=True)
        def trtforge_run_step(self, step, ctx):
            changes = yield
            seen.append((step.name, changes))
            return changes

    host = Host([Plugin(DropNothing), Watcher()], installed=False)
    assert host.run_step(DropNothing(), SimpleNamespace(model=None)) == 0
    assert seen == [("drop-nothing", 0)]
