"""Broken models: each is refused with the right cause, and its remedy makes it build.

All builds are real ones, by TensorRT-RTX.
"""

from __future__ import annotations

from collections import Counter

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from broken_models import Broken, all_broken
from trtforge_plugins.convert import FreezeInputs, WidenTypes
from trtforge_plugins.importers.onnx_file import ImportOnnx
from trtforge_plugins.tensorrt import TensorRT
from trtforge_plugins.tensorrt.failure_rules import rules

from trtforge import (
    Context,
    ModelError,
    Request,
    ShapeRange,
    TrtforgeError,
    make_convertible,
    model_file,
)
from trtforge.importing import no_model
from trtforge.options import bind
from trtforge.targets import read_target
from trtforge.testing import apply
from trtforge.yaml_text import parse_yaml

pytestmark = pytest.mark.slow
BROKEN = all_broken()


@pytest.fixture(scope="module")
def steps():
    """Steps by their options: one process builds for all tests with the same."""
    return {}


def build(model, broken, folder, steps, *, options=None, shapes=None, targets=None):
    """Build and return the error, or None."""
    given = broken.options if options is None else options
    key = repr(given)
    if key not in steps:
        steps[key] = bind(TensorRT, given, "step 'tensorrt'")
    ranges = broken.shapes if shapes is None else shapes
    profile = {name: ShapeRange.read(shape) for name, shape in ranges.items()}
    names = targets or broken.targets
    request = Request(
        "m.onnx", (profile,) if profile else (), tuple(read_target(name) for name in names)
    )
    try:
        steps[key].build(model, Context(model, folder, request))
    except TrtforgeError as error:
        return error
    return None


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def mended(broken: Broken) -> ir.Model:
    """Return the model after the remedy that changes the model."""
    model = ir.from_proto(parsed(broken.model(broken.mended)))
    if broken.freeze:
        model = apply(FreezeInputs(values=broken.freeze), model)[0]
    if broken.adapt:
        model = apply(WidenTypes(interface="adapt"), model)[0]
    if broken.convert or broken.freeze:
        return ir.from_proto(make_convertible(ir.to_proto(model)))
    return model


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: f"{b.kind}: {b.name}".replace(" ", "-"))
def test_the_cause_is_right_and_the_remedy_works(broken, tmp_path, steps):
    onnx.save(parsed(broken.model()), tmp_path / "m.onnx")
    try:
        model = model_file.load(tmp_path / "m.onnx")
        error = build(model, broken, tmp_path / "broken", steps)
    except ModelError as refusal:
        error = refusal
    assert error is not None, "it builds"
    assert error.code == broken.code, str(error)
    assert error.remedy
    shapes = broken.shapes
    if broken.right_shapes is not None:
        shapes = {**said_ranges(error, broken), **broken.right_shapes}
    again = build(
        mended(broken),
        broken,
        tmp_path / "mended",
        steps,
        options={},
        shapes=shapes,
        targets=broken.right_targets,
    )
    assert again is None, str(again)


def said_ranges(error: TrtforgeError, broken: Broken) -> dict[str, str]:
    """Return the ranges that the remedy of a missing range proposes, beside those given."""
    text = error.remedy.partition("shapes: ")[2]
    ranges = parse_yaml(text, "remedy").data if broken.code == "no-profile" else {}
    proposed = {
        name: ":".join(each[k] for k in ("min", "opt", "max")) for name, each in ranges.items()
    }
    return {**(broken.shapes if broken.code == "no-profile" else {}), **proposed}


ONLY_A_BUILD_SHOWS = ("limits",)
"""Options of the step ``tensorrt``, which `check` is not told."""
ADVICE = {"none", "none-of-two", "product"}
"""Inputs without any range: they are told as advice, since the model itself is right."""


def test_check_finds_the_cause_before_any_build(tmp_path):
    """Of all models, read as the command reads them, with the targets and ranges of the build."""
    step, missed, path = TensorRT(), [], tmp_path / "m.onnx"  # one process parses all
    asked = [each for each in BROKEN if each.kind not in ONLY_A_BUILD_SHOWS]
    for broken in asked:
        onnx.save(parsed(broken.model()), path)
        refused, told = codes_of_check(broken, path, step)
        no_range = broken.kind == "ranges of inputs" and broken.name in ADVICE
        right = (
            not refused and "input-without-range" in told if no_range else (broken.code in refused)
        )
        if not right:
            missed.append((broken.name, broken.code, refused, told))
    assert len(asked) == 120
    assert missed == []


def codes_of_check(broken, path, step):
    """Return the codes for which `check` refuses the model, and those of its advice."""
    profile = {name: ShapeRange.read(shape) for name, shape in broken.shapes.items()}
    request = Request(
        "m.onnx", (profile,) if profile else (), tuple(map(read_target, broken.targets))
    )
    ctx = Context(no_model(), path.parent, request)
    try:
        ctx.model = ImportOnnx().load(str(path), ctx)
        found = step.examine(ctx.model, ctx)
    except TrtforgeError as error:
        return {error.code}, set()
    return (
        {each.code for each in found.refused},
        {each.code for each in found.findings if each.level == "advice"},
    )


def test_there_are_ten_of_each_class_and_many_causes():
    assert set(Counter(broken.kind for broken in BROKEN).values()) == {10}
    assert len(BROKEN) == 130
    assert len({broken.name + broken.kind for broken in BROKEN}) == 130


def test_many_rules_are_provoked_here_by_real_models():
    known = {rule.code for rule in rules()}
    assert len({broken.code for broken in BROKEN} & known) >= 40
    assert sum(broken.code in known for broken in BROKEN) >= 120
