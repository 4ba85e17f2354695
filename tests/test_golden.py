"""What each step does, as text: ``tests/golden/<step>/<case>.txt`` holds a model before and after.

A file is: a sentence behind ``#``, optionally ``# options: {...}`` (JSON), the model before as
ONNX text, ``=== after, changes: <n>`` and the model after, and ``=== notes`` with what was left
alone and why. ``pytest tests/test_golden.py --update`` rewrites the last two parts; read the
difference.
"""

import json
from pathlib import Path

import onnx_ir as ir
import pytest
import trtforge_plugins.clean
import trtforge_plugins.convert
import trtforge_plugins.fuse
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.join_products import JoinProducts

from trtforge import Pass
from trtforge.testing import apply, check_pass

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*/*.txt"))
PASSES: dict[str, type[Pass]] = {
    cls.name: cls
    for package in (trtforge_plugins.clean, trtforge_plugins.convert, trtforge_plugins.fuse)
    for cls in (getattr(package, name) for name in package.__all__)
    if issubclass(cls, Pass) and cls is not trtforge_plugins.fuse.UseCustomOps
} | {step.name: step for step in (Cast, JoinProducts)}

# use-custom-ops needs the ops that are installed, which tests/test_use_custom_ops.py gives it.


def read(case: Path) -> tuple[Pass, str]:
    """The step with its options, and the model before."""
    before = case.read_text().partition("=== after")[0]
    options = [line for line in before.splitlines() if line.startswith("# options:")]
    step = PASSES[case.parent.name]
    return step(**json.loads(options[0].partition(":")[2] if options else "{}")), before


def model_text(before: str) -> str:
    return "\n".join(line for line in before.splitlines() if not line.startswith("#"))


def render(step: Pass, before: str) -> str:
    model, count, notes = apply(step, model_text(before))
    parts = [before, f"=== after, changes: {count}\n", ir.to_onnx_text(model).strip() + "\n"]
    if notes:
        parts += ["=== notes\n", *(f"{note.node}: {note.text}\n" for note in notes)]
    return "".join(parts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.stem}")
def test_step_does_what_the_golden_file_says(case: Path, request: pytest.FixtureRequest) -> None:
    step, before = read(case)
    result = render(step, before)
    if request.config.getoption("--update"):
        case.write_text(result)
    assert result == case.read_text()
    check_pass(step, model_text(before))


def test_each_pass_has_a_change_and_a_refusal() -> None:
    for name in PASSES:
        texts = [case.read_text() for case in CASES if case.parent.name == name]
        assert any("=== after, changes: 0" not in text for text in texts), f"{name} changes nothing"
        assert any("=== notes" in text for text in texts) or name in NEVER_REFUSES, name


# What infer-shapes cannot find is no candidate; inline-functions keeps only custom ops.
NEVER_REFUSES = {"infer-shapes", "inline-functions"}
