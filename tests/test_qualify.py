"""The upgrade gate: two environments, of which one may be worse in each way there is."""

import json
import os
import sys
from dataclasses import replace

import pytest
from command import trtforge

from trtforge import demo
from trtforge.api import run
from trtforge.artifacts import Comparison, OutputComparison, PrecisionProof, Timings
from trtforge.diff_figures import Figure
from trtforge.errors import RequestError
from trtforge.evidence import read_report
from trtforge.qualification.judge import qualify
from trtforge.qualification.sides import Side
from trtforge.qualification.text import data, headline, markdown
from trtforge.report import Verdict

SHAPE = ("--shape", "image=1x1x8x8")
FAKE = """#!{python}
# Stands for the interpreter of an environment: it copies a run that was made before.
import json, pathlib, shutil, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
answer = json.loads(pathlib.Path({answer!r}).read_text())
if answer["copy"]:
    shutil.copytree({run!r}, out)
    report = json.loads((out / "report.json").read_text())
    report.update(answer["report"])
    (out / "report.json").write_text(json.dumps(report))
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with an engine."""
    out = tmp_path_factory.mktemp("qualify") / "run"
    shapes = {"image": "1x1x8x8"}
    return run("fp16", demo.MODEL, out=out, shapes=shapes, targets=("sm_86",)).folder


@pytest.fixture
def environment(finished, tmp_path):
    """Makes an environment whose run has another report, another exit code or another answer."""

    def make(code=0, out="", err="", *, copy=True, **report):
        place = tmp_path / f"environment-{len(list(tmp_path.iterdir()))}"
        python, answer = place / "bin" / "python", place / "answer.json"
        python.parent.mkdir(parents=True)
        told = {"code": code, "out": out, "err": err, "copy": copy, "report": report}
        answer.write_text(json.dumps(told))
        python.write_text(FAKE.format(python=sys.executable, answer=str(answer), run=str(finished)))
        python.chmod(0o755)
        return place

    return make


def ask(against, candidate, *more):
    words = ("qualify", "fp16", "-m", demo.MODEL, *SHAPE, "--against", against)
    return trtforge(*words, "--candidate", candidate, *more)


FAILED = {
    "verdict": {"exit_code": 3, "missed": [], "error": "it crashed\nsomewhere"},
    "engines": [],
}


def test_two_equal_environments_are_safe(environment, tmp_path):
    page = tmp_path / "verdict.md"
    answer = ask(environment(), environment(), "--markdown", page)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1].startswith("Safe by what was measured: tensorrt_rtx ")
    assert page.read_text().startswith("### ✅ Safe")
    assert "| latency | none | none | not measured |" in page.read_text()


def test_an_environment_that_does_not_build_is_not_safe(environment):
    answer = ask(environment(), environment(3, **FAILED), "--json")
    assert answer.code == 1
    assert answer.json["safe"] is False
    (build,) = answer.json["checks"]
    assert (build["before"], build["after"], build["judgement"]) == ("built", "it crashed", "worse")


def test_one_that_builds_after_one_that_does_not_is_safe(environment):
    answer = ask(environment(3, **FAILED), environment(), "--json")
    assert (answer.code, answer.json["checks"][0]["judgement"]) == (0, "better")


def test_where_neither_builds_nothing_is_said(environment):
    answer = ask(environment(3, **FAILED), environment(3, **FAILED))
    assert answer.code == 3
    assert "nothing to compare" in answer.out


def test_a_finished_run_is_only_read(finished, environment):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert ask(finished, environment()).code == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("made", "code", "said"),
    [
        ({"err": "ModuleNotFoundError: No module named 'trtforge'"}, 4, "pip install trtforge"),
        ({"out": '{"error": {"what": "no GPU", "where": "x", "remedy": "buy"}}'}, 4, "To do: buy"),
        ({"out": "what?", "err": "some words"}, 2, "some words"),
        ({"err": "Segmentation fault"}, 3, "the run left no report (exit code 3): Segmentation"),
    ],
    ids=["no trtforge", "lacks something", "another trtforge", "no report"],
)
def test_an_environment_that_does_not_answer_is_named(environment, made, code, said):
    place = environment(code, copy=False, **made)
    answer = ask(environment(), place)
    assert answer.code == code
    assert str(place) in answer.err
    assert said in answer.err


def test_what_is_no_environment_is_a_wrong_request(environment, tmp_path):
    assert ask(environment(), tmp_path / "nowhere").code == 2
    answer = ask(environment(), environment(), "--fail-if", "layers>many")
    assert (answer.code, "is no condition" in answer.err) == (2, True)
    answer = ask(environment(), environment(), "--fail-if", "warmth>3")
    assert (answer.code, "no figure 'warmth'" in answer.err) == (2, True)


def side(finished, **report):
    return Side("python", finished, replace(read_report(finished), **report))


def judged(found, what):
    return next(check for check in found.checks if check.what == what)


def comparison(cosine, problem=""):
    output = OutputComparison("y", 0.0, 0.0, cosine, 60.0, None, problem=problem)
    return Comparison((output,), "made up", real=False, samples=1)


def proof(**deviations):
    return PrecisionProof((), 1, {}, deviations)


def timings(median, low, high, device="a GPU"):
    return Timings(device, 100, 10, median, None, None, intervals={"median": (low, high)})


BETTER_OR_WORSE = [
    ("requirements", {}, {"verdict": Verdict(1, ("cosine 0.9 < 0.99",))}, "worse"),
    ("requirements", {"verdict": Verdict(1, ("a", "b"))}, {"verdict": Verdict(1, ("a",))},
     "better"),
    ("precision", {"precision": proof()}, {"precision": proof(conv="float32")}, "worse"),
    ("precision", {"precision": proof(a="x", b="x")}, {"precision": proof(c="x")}, "worse"),
    ("precision", {"precision": proof(a="x")}, {"precision": proof()}, "better"),
    ("precision", {"precision": None}, {"precision": proof()}, "not measured"),
    ("outputs", {"comparison": comparison(1.0)}, {"comparison": comparison(0.9995)}, "same"),
    ("outputs", {"comparison": comparison(1.0)}, {"comparison": comparison(0.99)}, "worse"),
    ("outputs", {"comparison": comparison(1.0)}, {"comparison": comparison(float("nan"))}, "worse"),
    ("outputs", {"comparison": comparison(1.0)}, {"comparison": comparison(1.0, "gone")}, "worse"),
    ("outputs", {"comparison": comparison(0.9)}, {"comparison": comparison(1.0)}, "better"),
    ("latency", {"timings": timings(10, 9, 11)}, {"timings": timings(12, 10.5, 13)}, "same"),
    ("latency", {"timings": timings(10, 9, 11)}, {"timings": timings(12, 11.5, 13)}, "worse"),
    ("latency", {"timings": timings(10, 9.9, 10.1)}, {"timings": timings(10.2, 10.15, 10.3)},
     "changed"),
    ("latency", {"timings": timings(10, 9, 11)}, {"timings": timings(5, 4, 6)}, "better"),
    ("latency", {"timings": timings(10, 9, 11)}, {"timings": timings(20, 19, 21, "another")},
     "not measured"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "first", "second", "expected"), BETTER_OR_WORSE)
def test_each_check_is_judged(finished, what, first, second, expected):
    before, after = side(finished, **first), side(finished, **second)
    medians = [
        each.report.timings.median_ms if each.report.timings else 0 for each in (before, after)
    ]
    found = qualify(before, after, [Figure("latency", *medians, "ms")])
    assert judged(found, what).judgement == expected
    assert found.safe is (expected != "worse")


def test_figures_count_against_the_second_beyond_their_limit(finished):
    both = side(finished), side(finished)
    figures = [Figure("layers", 100, 109), Figure("engine_size", 100, 111, "B")]
    found = qualify(*both, figures)
    assert judged(found, "layers").judgement == "changed"
    assert judged(found, "engine_size").judgement == "worse"
    assert "worse in engine_size" in headline(found)
    assert qualify(*both, figures, "engine_size>+20%").safe
    assert not qualify(*both, figures, "layers>+8").safe
    with pytest.raises(RequestError, match="no figure 'activation_memory'"):
        qualify(*both, figures, "activation_memory>+1%")


def test_markdown_and_json_hold_what_a_report_says_as_text(finished):
    error = Verdict(3, error="it says | and <b>")
    found = qualify(side(finished), side(finished, verdict=error), [])
    assert r"it says \| and &lt;b>" in markdown(found)
    json.dumps(data(found), allow_nan=False)


@pytest.mark.slow
def test_this_environment_is_as_safe_as_itself(tmp_path):
    answer = ask(sys.executable, sys.executable, "--out", tmp_path / "runs", "--json")
    assert answer.code == 0, answer.err
    assert {check["what"] for check in answer.json["checks"]} >= {"build", "precision", "outputs"}
    assert all(check["judgement"] != "changed" for check in answer.json["checks"])
    assert (tmp_path / "runs" / "after" / "report.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(
    "TRTFORGE_OTHER_PYTHON" not in os.environ,
    reason="NOT RUN: two versions of TensorRT; TRTFORGE_OTHER_PYTHON names another environment",
)
def test_two_versions_of_tensorrt(tmp_path):
    other = os.environ["TRTFORGE_OTHER_PYTHON"]
    answer = ask(sys.executable, other, "--out", tmp_path / "runs", "--json")
    assert answer.code in (0, 1), answer.err
    assert answer.json["before"]["tensorrt"] != answer.json["after"]["tensorrt"]
