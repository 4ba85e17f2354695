"""A recipe is refused, with place and remedy, before anything runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonschema
import pytest

import trtforge as tf
from trtforge.host import Host
from trtforge.options import as_data
from trtforge.recipe import Setting
from trtforge.recipe_reader import find, parse, read
from trtforge.schema import recipe_schema
from trtforge.yaml_text import read_yaml


@dataclass(frozen=True)
class DropSmall(tf.Pass):
    """Drop what is small."""

    name = "drop-small"

    limit: tf.ByteSize = tf.ByteSize("1MiB")
    """Below this size things are small."""
    to: Literal["float16", "bfloat16"] = "float16"
    table: Path | None = None

    def rewrite(self, model, ctx):
        return 0


@dataclass(frozen=True)
class RunScript(tf.Pass):
    """Run a script."""

    name = "run-script"
    by_user = ("script",)

    script: str = ""

    def rewrite(self, model, ctx):
        return 0


@dataclass(frozen=True)
class InsertScales(tf.Pass):
    """Insert scales."""

    name = "insert-scales"
    needs = (tf.Ranges,)

    skip: tuple[str, ...] = ()

    def rewrite(self, model, ctx):
        return 0


@dataclass(frozen=True)
class CalibrateNothing(tf.Calibrator):
    """Calibrate without data."""

    name = "calibrate-nothing"
    needs = ()

    strength: int

    def calibrate(self, model, batches, ctx):
        raise NotImplementedError


class Plugin:
    @tf.hookimpl
    def trtforge_components(self):
        return [DropSmall, RunScript, InsertScales, CalibrateNothing]


@pytest.fixture(scope="module")
def host():
    return Host([Plugin()], installed=False)


GOOD = """
description: An example.
model: models/a.onnx
shapes: {x: {min: 1x3, opt: 2x3, max: [4, 3]}, y: 1x2}
targets: [sm_86, 8.9, sm_86]
require: {cosine: 0.99, engine_size: 4MiB}
stages:
  - name: a
    repeat: 3
    steps: [drop-small, drop-small: {limit: 3GiB, table: t.csv}]
  - name: b
    steps:
      - calibrate-nothing: {strength: 2}
      - insert-scales:
          skip: [fc]
"""


def test_a_good_recipe(host):
    recipe = parse(GOOD, host)
    assert recipe.model == "models/a.onnx"
    assert [stage.repeat for stage in recipe.stages] == [3, 1]
    assert [target.name for target in recipe.targets] == ["sm_86", "sm_89"]
    assert str(recipe.profiles[0]["x"]) == "1x3:2x3:4x3"
    assert recipe.require.engine_size == 4 * 2**20
    assert [as_data(step) for step in recipe.steps] == [
        {"limit": "1MiB", "to": "float16", "table": None},
        {"limit": "3GiB", "to": "float16", "table": "t.csv"},
        {"strength": 2},
        {"skip": ["fc"]},
    ]


def test_paths_start_at_the_recipe_and_settings_at_the_user(host, tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    recipe = read(tmp_path / "r.yaml", host)
    assert recipe.model == str(tmp_path / "models/a.onnx")
    assert recipe.stages[0].steps[1].table == tmp_path / "t.csv"
    chosen = read(tmp_path / "r.yaml", host, [Setting.read("drop-small.table=mine.csv")])
    assert chosen.stages[0].steps[1].table == Path("mine.csv")


def one(step):
    return f"stages:\n  - name: a\n    steps:\n      - {step}\n"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("- drop-small", "r.yaml:1:1", "this is a list"),
        ("", "r.yaml:1:1", "this is empty"),
        ("modle: x\n" + one("drop-small"), "r.yaml:1:1", "Did you mean 'model'"),
        (one("drop-smal"), "r.yaml:4:9", "Did you mean 'drop-small'"),
        (one("drop-small: {limt: 3}"), "r.yaml:4:22", "Did you mean 'limit'"),
        (one("drop-small: {limit: big}"), "r.yaml:4:22", "'big' is not a size"),
        (one("drop-small: {to: int3}"), "r.yaml:4:22", "'float16' or 'bfloat16'"),
        (one("drop-small: 3"), "r.yaml:4:9", "options of step 'drop-small' are a mapping"),
        (one("{drop-small: , insert-scales: }"), "r.yaml:4:9", "a step is a name"),
        (one("calibrate-nothing"), "r.yaml:4:9", "needs the option 'strength'"),
        (one("insert-scales"), "r.yaml:4:9", "needs Ranges, which no earlier step gives"),
        (one("drop-small") + "targets: [sm_99]", "r.yaml:5:11", "Did you mean 'sm_90'"),
        (
            one("drop-small") + "shapes: {x: {min: 2, opt: 1, max: 3}}",
            "r.yaml:5:10",
            "not in order",
        ),
        (one("drop-small") + "require: {cosin: 1}", "r.yaml:5:11", "Did you mean 'cosine'"),
        (one("run-script: {script: a.py}"), "r.yaml:4:22", "it makes code run"),
        (one("drop-small") + "model: a.b:c", "r.yaml:5:1", "names code to run"),
        ("stages: []", "r.yaml:1:1", "at least one"),
        ("stages: [{name: a, steps: []}]", "r.yaml:1:10", "at least one"),
        ("stages: [{name: a, steps: [drop-small], repeat: 0}]", "r.yaml:1:41", "from 1 to 100"),
        (2 * "stages:\n", "r.yaml:2:1", "stands twice"),
    ],
)
def test_what_is_refused_and_where(host, text, where, message):
    with pytest.raises(tf.RecipeError, match=message) as caught:
        parse(text, host, "r.yaml")
    assert caught.value.where == where
    assert caught.value.exit_code == 2


def test_all_mistakes_are_told_at_once(host):
    with pytest.raises(tf.RecipeError, match="3 things are wrong") as caught:
        parse("modle: x\n" + one("drop-smal") + "targets: [sm_99]", host, "r.yaml")
    assert all(place in str(caught.value) for place in ("r.yaml:1:1", "r.yaml:5:9", "r.yaml:6:11"))


def test_the_order_names_what_would_give_it(host):
    with pytest.raises(tf.RecipeError, match="put calibrate-nothing before it"):
        parse(one("insert-scales"), host)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("drop-small", "not of the form step.option=value"),
        ("drop-smal.limit=1", "Did you mean 'drop-small'"),
        ("drop-small.limt=1", "Did you mean 'limit'"),
        ("drop-small.limit=[", "no valid YAML"),
    ],
)
def test_settings_that_are_refused(host, setting, message):
    with pytest.raises(tf.RequestError, match=message):
        parse(one("drop-small"), host, settings=[Setting.read(setting)])


def test_a_setting_replaces_an_option(host):
    recipe = parse(
        one("drop-small: {limit: 1}"), host, settings=[Setting.read("drop-small.limit=2KiB")]
    )
    assert recipe.stages[0].steps[0].limit == 2048


def test_what_runs_code_is_for_the_user_to_say(host):
    recipe = parse(one("run-script"), host, settings=[Setting.read("run-script.script=a.py")])
    assert recipe.stages[0].steps[0].script == "a.py"


def test_find_a_recipe_by_name_or_file(tmp_path):
    host = Host()
    assert find("fp16", host).name == "fp16.yaml"
    with pytest.raises(tf.RecipeError, match="Did you mean 'fp16'"):
        find("fp61", host)
    with pytest.raises(tf.RecipeError, match="is a folder"):
        find(str(tmp_path), host)


def test_every_shipped_recipe_is_read_and_fits_its_schema():
    host = Host()
    schema = recipe_schema(host)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert len(host.recipes) >= 6
    for path in host.recipes.values():
        assert read(path, host).stages
        jsonschema.validate(read_yaml(path).data, schema)


def test_the_schema_knows_the_options_of_installed_plugins(host):
    schema = recipe_schema(host)
    jsonschema.validate(read_yaml_text(GOOD), schema)
    for wrong in (
        "drop-smal",
        "drop-small: {limt: 3}",
        "drop-small: {to: int3}",
        "calibrate-nothing",
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(read_yaml_text(one(wrong)), schema)


def read_yaml_text(text):
    from trtforge.yaml_text import parse_yaml

    return parse_yaml(text, "r.yaml").data
