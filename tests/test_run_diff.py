"""Two runs held against each other: what they asked for, did and found."""

import json
from dataclasses import replace

import pytest
from command import trtforge
from test_report import HOSTILE, Page, example

from trtforge import artifacts as a
from trtforge.diff import Diff
from trtforge.diff_page import render
from trtforge.errors import DataError, RequestError
from trtforge.report import Verdict
from trtforge.report_facts import UNKNOWN, requirements
from trtforge.run_diff import Pair, compare_runs
from trtforge.run_diff_text import change_text, run_lines, step_text, value_text


def changed(report):
    """The example, run by another recipe: other data, types, sizes, steps and packages."""
    first = report.comparison.outputs[0]
    outputs = (replace(first, cosine=0.9, sqnr_db=20.0), *report.comparison.outputs[1:2])
    shares = (a.PrecisionShare("float16", 1000, 1.0, ("layer1.conv", "c")),)
    steps = report.stages[0].steps
    options = {"limit": "4MiB"}
    stages = (
        replace(report.stages[0], steps=(replace(steps[0], options=options, changes=10),)),
        *report.stages[1:2],
    )
    return replace(
        report,
        verdict=Verdict(0),
        request=replace(report.request, recipe="other", require={"cosine": 0.5}),
        comparison=replace(report.comparison, outputs=outputs, data="other.npz", real=True),
        precision=replace(report.precision, shares=shares, deviations={}, unknown=()),
        engines=(replace(report.engines[0], size=7_000_000),),
        stages=stages,
        environment=replace(report.environment, packages={"numpy": "1.0", "new": "2"}),
    )


@pytest.fixture
def pair(tmp_path):
    first = example(tmp_path)
    return first, changed(first)


def test_a_run_differs_in_nothing_from_itself(tmp_path):
    report = example(tmp_path)
    found = compare_runs(report, report)
    assert not any(step.differs for step in found.steps)
    assert not any(p.differs for p in (*found.sizes, *found.operators, *found.precision))
    assert (found.request, found.retyped, found.environment) == ((), (), ())
    assert found.cautions == (
        "the first run's accuracy rests on made-up data",
        "the second run's accuracy rests on made-up data",
    )


def test_what_differs_is_told_and_nothing_else(pair):
    found = compare_runs(*pair)
    assert [v.exit_code for v in found.verdicts] == [1, 0]
    assert found.request == (Pair("recipe", "layer1.conv", "other"),)
    figures = {p.name: (p.before, p.after) for p in found.accuracy[0].figures if p.differs}
    assert figures == {"cosine": (0.99995, 0.9), "SQNR": (41.3, 20.0)}
    assert found.accuracy[2].figures == (Pair("problem", "layer1.conv is missing", None),)
    assert found.precision == (
        Pair("int8", 0.9, None, "share"), Pair("float16", 0.1, 1.0, "share"),
    )  # fmt: skip
    assert found.retyped == (
        Pair("layer1.conv", "int8", "float16"), Pair("b", "int8", None),
    )  # fmt: skip
    assert [p for p in found.sizes if p.differs] == [Pair("engine size", 3_500_000, 7_000_000, "B")]
    assert {p.name for p in found.environment} == {"numpy", "layer1.conv", "new"}
    assert found.cautions[0].startswith("accuracy was measured on different data: 512 samples of")


def test_steps_are_told_where_they_ran(pair):
    told = {s.step: step_text(s) for s in compare_runs(*pair).steps if s.differs}
    assert told == {
        "fold-constants": "limit: 1MiB -> 4MiB; 12 -> 10 changes",
        "drop-identity": "only in the first run",
        "tensorrt": "only in the first run",
    }
    back = {s.step: step_text(s) for s in compare_runs(*pair[::-1]).steps if s.differs}
    assert back["tensorrt"] == "only in the second run"


def test_requirements_say_what_the_verdict_says(tmp_path):
    report = example(tmp_path)  # an output of it could not be compared, a node deviates
    rows = {each.name: each for each in requirements(report)}
    assert {name: row.met for name, row in rows.items()} == {
        "cosine": False, "precision": False, "engine size": True,
    }  # fmt: skip
    sound = replace(report.comparison, outputs=report.comparison.outputs[:2])
    assert next(requirements(replace(report, comparison=sound))).met
    unmeasured = {each.name: each.met for each in requirements(replace(report, comparison=None))}
    assert unmeasured["cosine"] is None


@pytest.mark.parametrize(
    ("pair", "before", "change"),
    [
        (Pair("x", 2**20, 2**21, "B"), "1MiB", "+100.0 %"),
        (Pair("x", 0.5, 0.25, "share"), "50.00%", "-25.00 points"),
        (Pair("x", 40.0, 41.5, "dB"), "40 dB", "+1.5 dB"),
        (Pair("x", float("inf"), 41.5, "dB"), "∞ dB", ""),
        (Pair("x", 1200, 1000), "1,200", "-200"),
        (Pair("x", None, 3), UNKNOWN, "only in the second"),
        (Pair("x", "a", "b"), "a", ""),
        (Pair("x", 1.0, 1.0), "1", ""),
    ],
)
def test_numbers_are_written_with_their_unit(pair, before, change):
    assert value_text(pair.before, pair.unit) == before
    assert change_text(pair) == change


def test_lines_for_a_terminal(pair):
    lines = list(run_lines(compare_runs(*pair)))
    for shown in (
        "Required   cosine: 0.99995, asked 0.999, missed -> 0.9, asked 0.5, met",
        "Required   engine size: 3.34MiB, asked 4MiB, met -> not required",
        f"Precision  int8: 90.00% -> {UNKNOWN} (only in the first)",
        "Size       engine size: 3.34MiB -> 6.68MiB (+100.0 %)",
        "Step       prepare: drop-identity: only in the first run",
    ):
        assert shown in lines


def test_the_page_shows_both_runs_and_escapes_their_text(tmp_path):
    first = example(tmp_path, HOSTILE)
    run = compare_runs(first, changed(first))
    page = Page(render(Diff(HOSTILE, "b", run, None, f"{HOSTILE} has no engine", ())))
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    for shown in ("Done as asked (exit code 0)", "different data", "Not compared", "✗ missed",
                  "6.68MiB", "+100.0 %", "limit: 1MiB"):  # fmt: skip
        assert shown in page.text


def test_the_command_compares_runs_without_engines(tmp_path):
    first = example(tmp_path)
    for name, report in (("a", first), ("b", changed(first))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(report.to_json())
    runs = tmp_path / "a", tmp_path / "b"
    answer = trtforge("diff", *runs, "--html", tmp_path / "d.html", "--fail-if", "cosine<-0.01")
    assert answer.code == 1, answer.err
    assert "Layers     not compared" in answer.out
    assert "Failed     cosine<-0.01: cosine went from 0.99995 to 0.9" in answer.out
    assert "no layer list beside its engine" in (tmp_path / "d.html").read_text()
    facts = trtforge("diff", *runs, "--json").json
    assert facts["engines"] is False
    assert facts["changes"] == []
    assert facts["run"]["retyped"][0] == {
        "name": "layer1.conv", "before": "int8", "after": "float16", "unit": "",
    }  # fmt: skip
    broken = tmp_path / "b" / "report.json"
    broken.write_text(json.dumps({"version": 2}))
    assert trtforge("diff", *runs).code == DataError("x").exit_code
    assert trtforge("diff", tmp_path / "a", tmp_path / "none").code == RequestError("x").exit_code
