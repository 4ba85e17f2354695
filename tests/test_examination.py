"""`check`: what TensorRT-RTX refuses is found without a build."""

from __future__ import annotations

from tensorrt_builds import DISGUISED, FP8, MLP, UNKNOWN_OPERATORS, context, files
from trtforge_plugins.tensorrt import TensorRT, library

from trtforge.worker import Job


def examine(model, folder, targets=()):
    ctx = context(model, folder, targets=targets)
    diagnosis = TensorRT().examine(ctx.model, ctx)
    assert diagnosis.backend == f"tensorrt_rtx {library.find().version}"
    assert files(folder) in ([], ["logs/tensorrt.log"])
    return diagnosis.refused


def test_an_examination_finds_every_refused_node_and_what_to_do(tmp_path):
    first, second = examine(UNKNOWN_OPERATORS, tmp_path)
    assert (first.code, first.node, first.op) == ("no-such-operator", "first", "Swirl")
    assert first.cause == "TensorRT has no operator Swirl"
    assert "Plugin not found" in first.evidence
    assert "make-convertible" in first.remedy
    assert second.node == "second"


def test_an_examination_of_a_good_model_finds_nothing_and_needs_no_shapes(tmp_path):
    assert examine(MLP, tmp_path) == ()


def test_an_examination_also_finds_types_and_disguises(tmp_path):
    (types,) = examine(FP8, tmp_path, targets=["sm_75"])
    assert types.code == "type-of-target"
    assert "does not build for sm_75" in types.cause
    assert [each.code for each in examine(DISGUISED, tmp_path)] == ["misread-model"]


EARLY_END = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[3] x, float limit) => (float[3] y, float[n,3] all) <int64 most = {50}, bool yes = {1}>
{
    [search] y, all = Loop (most, yes, x) <body = turn (int64 i, bool go, float[3] a)
        => (bool more, float[3] b, float[3] each)
    { b = Add (a, a)  each = Exp (b)  s = ReduceSum <keepdims = 0> (b)  more = Less (s, limit) }>
}
"""


def test_an_examination_finds_a_loop_whose_results_get_another_length(tmp_path):
    (found,) = examine(EARLY_END, tmp_path)
    assert found.code == "misread-model"
    assert "search may end early" in found.cause
    assert examine(EARLY_END.replace("[n,3]", "[50,3]"), tmp_path) == ()
    steady = EARLY_END.replace("Less (s, limit)", "Identity (go)")
    assert examine(steady, tmp_path) == ()


def test_a_crash_of_the_parser_is_a_finding(tmp_path, monkeypatch):
    def crashing(function: str, *facts: object, **limits: object) -> Job:
        return Job("worker_jobs:abort", *facts, **limits)

    monkeypatch.setattr("trtforge_plugins.tensorrt.backend.Job", crashing)
    (crash,) = examine(MLP, tmp_path)
    assert crash.code == "parser-crashed"
    assert "the parse by TensorRT-RTX" in crash.cause
    assert "died from SIGABRT" in crash.cause
