"""Where TensorRT's words fit several causes, it is asked again with one thing changed.

All builds are real ones, by TensorRT-RTX. Rules explain its failures; here they are taken away, so
that only the answers tell the causes apart.
"""

from __future__ import annotations

import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt import TensorRT, known_failures
from trtforge_plugins.tensorrt.questions import ask, is_open, questions

from trtforge import BuildError, Context, Engine, Request, ShapeRange
from trtforge.targets import read_target

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
PRODUCT = "g (float[8,16] x, float[16,16] w) => (float[8,16] y) { [product] y = MatMul (x, w) }"
FLOAT8 = """g (float[2,4] x) => (float[2,4] y) {
    [before] a = Relu (x) [narrow] b = Cast <to = 17> (a) [wide] c = Cast <to = 1> (b)
    [after] y = Tanh (c) }"""
RESHAPE = """g (float[N,4] x) => (float[2,4] y) <int64[2] s = {2,4}> { [r] y = Reshape (x, s) }"""
TOO_LARGE = {"x": "2x4:8x4:8x4"}


@pytest.fixture
def no_rules(monkeypatch):
    """Let no rule explain anything."""
    monkeypatch.setattr(known_failures, "rules", tuple)


def context(folder, text, *, targets=("sm_89",), shapes=None):
    profile = {name: ShapeRange.read(shape) for name, shape in (shapes or {}).items()}
    profiles = (profile,) if profile else ()
    request = Request("m.onnx", profiles, tuple(map(read_target, targets)))
    return Context(ir.from_onnx_text(HEAD + text), folder, request)


def failed(step, ctx):
    with pytest.raises(BuildError) as raised:
        step.run(ctx)
    assert ctx.find(Engine) is None
    return raised.value


@pytest.mark.parametrize(
    ("options", "code", "remedy"),
    [
        ({"workspace": 1024}, "workspace-too-small", "raise the option workspace"),
        ({"tactic_shared_memory": 16}, "shared-memory-limit", "raise the option tactic_shared_m"),
    ],
)
def test_a_limit_is_at_fault_where_it_builds_without_it(tmp_path, no_rules, options, code, remedy):
    error = failed(TensorRT(**options), context(tmp_path, PRODUCT))
    (limit,) = options
    assert error.code == code
    assert f"Asked again without {limit}: it builds" in error.what
    assert error.remedy.startswith(remedy)


def test_the_target_is_at_fault_that_it_builds_without(tmp_path, no_rules):
    ctx = context(tmp_path, PRODUCT, targets=("sm_86", "sm_75", "sm_89"))
    error = failed(TensorRT(), ctx)
    assert "Asked again without the target sm_86: it fails (build-failed)" in error.what
    assert "Asked again without the target sm_75: it builds" in error.what
    assert "without the target sm_89" not in error.what  # an answer ends the questions
    assert error.remedy.startswith("leave sm_75 out of the targets; or ")


def test_the_largest_shape_is_at_fault_where_the_smallest_builds(tmp_path, no_rules):
    error = failed(TensorRT(), context(tmp_path, RESHAPE, shapes=TOO_LARGE))
    assert "Asked again with the smallest shapes only: it builds" in error.what
    assert error.remedy.startswith("lower the largest shapes")


def test_a_node_that_the_failure_names_is_left_out(tmp_path, no_rules):
    step = TensorRT(optimization_level=0)
    ctx = context(tmp_path, FLOAT8)
    failure = BuildError("it fails at narrow", code=known_failures.UNKNOWN)
    asked = [each.change for each in questions(failure.what, vars(step), ctx)]
    assert asked == ["without the node 'narrow'"]
    step.explain(failure, ctx)
    assert "Asked again without the node 'narrow': it" in failure.what


def test_what_a_rule_explains_is_not_asked_again(tmp_path):
    error = failed(TensorRT(workspace=1024), context(tmp_path, PRODUCT))
    assert error.code == "workspace-too-small"
    assert "Asked again" not in error.what


@pytest.mark.parametrize(
    ("code", "is_it"),
    [
        ("build-failed", True), ("no-implementation", True), ("compiler-limit", True),
        ("tensorrt-crashed", True), ("mixed-types", False), ("time-limit", False),
    ],
)  # fmt: skip
def test_which_failures_leave_the_cause_open(code, is_it):
    assert is_open(BuildError("no", code=code)) is is_it


def test_no_time_no_questions(tmp_path, no_rules):
    error = failed(TensorRT(workspace=1024, ask_again=0), context(tmp_path, PRODUCT))
    assert error.code == "build-failed"
    assert "Asked again" not in error.what


def test_the_time_for_questions_is_bounded_and_each_build_gets_what_is_left(tmp_path):
    limits = []

    def build(options, _model, _ctx):
        limits.append(options["time_limit"])
        raise BuildError("no", code="compiler-limit")

    ctx = context(tmp_path, PRODUCT, targets=("sm_86", "sm_89"))
    error = BuildError("no", code="compiler-limit")
    ask(error, vars(TensorRT(time_limit=5.0)), ctx, build, 600.0)
    assert limits == [5.0] * 3  # each target left out, and another optimization level
    assert error.what.count("it fails (compiler-limit)") == 3
    assert error.code == "compiler-limit"
    limits.clear()
    ask(error, vars(TensorRT()), ctx, build, 0.0)
    assert limits == []
    assert "the time for it (ask_again) is over" in error.what


def test_the_model_and_what_was_asked_for_stay_as_they_are(tmp_path, no_rules):
    ctx = context(tmp_path, RESHAPE, shapes=TOO_LARGE)
    before = ir.to_onnx_text(ctx.model), ctx.request
    failed(TensorRT(), ctx)
    assert (ir.to_onnx_text(ctx.model), ctx.request) == before
    assert not list((tmp_path / "engines").glob("*"))
