"""Recipes and settings that are wrong, given to the real command."""

from pathlib import Path

import pytest
from refusals import refused

pytestmark = pytest.mark.usefixtures("place")


STEPS = "stages: [{name: a, steps: [%s]}]"
RECIPES = {
    "empty": ("", "this is empty"),
    "list": ("- a\n- b\n", "this is a list"),
    "tab": ("stages:\n\t- name: a\n", "bad.yaml:2:1"),
    "twice": ("model: a\nmodel: b\n", "stands twice, first in line 1"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nstages: [*b]\n", "bad.yaml:1:4"),
    "loop": ("stages: &a [*a]\n", "anchors and aliases"),
    "deep": ("stages: " + "[" * 1000 + "]" * 1000, "nested more than"),
    "bytes": (b"\xff\xfe\x00", "not UTF-8"),
    "large": ("#" * 2**21, "over 1 MiB"),
    "tag": ("stages: !!python/object:os.system x\n", "not allowed"),
    "unknown key": ("stage: []\n", "no key 'stage'. Did you mean 'stages'?"),
    "no stages": ("model: good.onnx\n", "stages is a list of at least one"),
    "unknown step": (STEPS % "fold-constant", "Did you mean 'fold-constants'?"),
    "unknown option": (STEPS % "{cast: {too: float16}}", "Did you mean 'to'?"),
    "wrong type": (STEPS % "{tensorrt: {optimization_level: many}}", "optimization_level"),
    "wrong choice": (STEPS % "{cast: {to: float8}}", "float16"),
    "wrong size": (STEPS % "{tensorrt: {workspace: 4 gigs}}", "write it like 4GiB"),
    "wrong order": (STEPS % "insert-qdq, load-data", "which no earlier step gives"),
    "wrong repeat": ("stages: [{name: a, repeat: 0, steps: [cast]}]", "from 1 to 100"),
    "wrong requirement": ("require: {cosinus: 1}\n" + STEPS % "cast", "'cosine'"),
    "code": ("model: os:system\n" + STEPS % "cast", "names code to run"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_wrong(name):
    text, says = RECIPES[name]
    Path("bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("run", "bad.yaml", "-m", "good.onnx", says=["trtforge: bad.yaml", says])


def test_everything_that_is_wrong_is_said_at_once():
    Path("bad.yaml").write_text(
        "targets: [sm_1]\nstages:\n  - name: a\n    steps: [drop-idents, {cast: {too: 1}}]\n"
    )
    refused(
        "run", "bad.yaml", "-m", "good.onnx",
        says=["3 things are wrong", "bad.yaml:1:11", "bad.yaml:4:13", "bad.yaml:4:"],
    )  # fmt: skip


def test_an_unknown_recipe():
    refused("run", "fp61", "-m", "good.onnx", says=["'fp61'", "Did you mean 'fp16'?"])
    refused("run", ".", "-m", "good.onnx", says=["is a folder, not a recipe file"])
    refused("run", "fp16", says=["names no model", "--model"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "m.yaml: cannot be read"),
        ("", "m.yaml:1:1: a matrix is a mapping with the keys models, recipes, targets"),
        ("- a\n", "m.yaml:1:1: a matrix is a mapping"),
        ("models: [good.onnx]\n", "m.yaml:1:1: models"),
        ("models: {\n", "m.yaml"),
    ],
)
def test_a_matrix_that_is_wrong(text, says):
    if text is not None:
        Path("m.yaml").write_text(text)
    refused("run", "--matrix", "m.yaml", says=[says, "docs/matrix.md"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("tensorrt", "not of the form step.option=value"),
        ("tensorrt=5", "not of the form step.option=value"),
        (".x=5", "not of the form step.option=value"),
        ("tensort.tf32=true", "Did you mean 'tensorrt'?"),
        ("tensorrt.tf23=true", "Did you mean 'tf32'?"),
        ("tensorrt.tf32=maybe", "tf32"),
        ("cast.to=[", "--set cast.to=["),
        ("cast.to=float64", "float16"),
    ],
)
def test_settings_of_the_command_line(setting, says):
    refused("run", "fp16", "-m", "good.onnx", "--set", setting, says=[says, "--set"])
