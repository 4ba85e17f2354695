"""What the commands answer, to people and to programs."""

import json
import re
from pathlib import Path

import jsonschema
import onnx
import onnx.parser
import pytest
from command import done, on_terminal, trtforge

from trtforge import demo
from trtforge.report import report_schema

pytestmark = pytest.mark.usefixtures("two_models")

REQUIREMENT_MISSED = 1


def test_help_fits_80_columns():
    answer = done("--help")
    commands = re.findall(r"^  (\w+)  +[A-Z]", answer.out.partition("Commands:")[2], re.MULTILINE)
    assert {"demo", "run", "check", "bisect", "init", "verify", "report"} <= set(commands)
    assert {"doctor", "list", "show"} <= set(commands)
    about = answer.out.partition("Commands:")[2]
    assert "..." not in about, "the help of a command does not fit its line"
    assert max(map(len, answer.out.splitlines())) <= 80


def test_the_version():
    assert re.fullmatch(r"trtforge \d+\.\d+\.\d+\n", done("--version").out)


def test_list_names_everything_by_plugin():
    lines = done("list").out.splitlines()
    assert "trtforge-plugins:" in lines
    assert "trtforge-ops:" in lines
    assert any(re.match(r"  pass +fold-constants +\w", line) for line in lines)
    assert any(re.match(r"  backend +tensorrt +\w", line) for line in lines)
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ("pass", {"pass"}),
        ("passes", {"pass"}),
        ("op", {"op"}),
        ("recipes", {"recipe"}),
        ("steps", {"pass", "calibrator", "backend", "importer", "step"}),
    ],
)
def test_list_one_kind(asked, kinds):
    rows = done("list", asked, "--json").json
    assert {row["kind"] for row in rows} >= kinds
    assert {row["kind"] for row in rows}.isdisjoint({"op", "recipe"} - kinds)
    assert all(row["name"] and row["about"] and row["plugin"] for row in rows)


def test_list_fits_a_terminal_of_80_columns():
    shown = on_terminal("list", columns=80)
    assert max(map(len, shown.splitlines())) <= 80


def test_show_a_step():
    text = done("show", "insert-qdq").out
    assert text.startswith("insert-qdq  (plugin 'trtforge-plugins' of trtforge")
    assert "needs: Ranges" in text
    assert 'dtype: int8 | float8e4m3fn | float4e2m1 = "int8"' in text
    facts = done("show", "insert-qdq", "--json").json
    assert facts["gives"] == ["Quantized"]
    assert facts["options"]["dtype"]["default"] == "int8"


def test_show_a_custom_op_and_a_recipe():
    assert "inputs: x, bias" in done("show", "trtforge::BiasGelu").out
    assert done("show", "trtforge::BiasGelu", "--json").json["outputs"] == ["y"]
    assert done("show", "fp16").out.startswith("description:")
    assert "stages:" in done("show", "fp16", "--json").json["recipe"]


def test_every_step_op_and_recipe_can_be_shown():
    for row in done("list", "--json").json:
        assert row["about"].split()[0] in done("show", row["name"]).out


def test_the_schema_takes_the_demo_recipe():
    from ruamel.yaml import YAML

    schema = done("schema").json
    jsonschema.Draft202012Validator.check_schema(schema)
    recipe = YAML(typ="safe").load(demo.RECIPE)
    jsonschema.validate(recipe, schema)
    recipe["stages"][0]["steps"].append("no-such-step")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, schema)


# Runs


def test_the_demo(place):
    answer = done("demo", "--out", "out")
    for line in (
        r"Output     logits: cosine 0\.99\d+, SQNR [\d.]+ dB, max abs [\d.]+, top-1 (0\.99|1\.0)",
        r"Accuracy   0\.98\d+ before, 0\.9[89]\d+ after",
        r"Data       450 samples, .*test\.npz$",
        r"Precision  99\.98% int8",
        r"Engine     out/engines/digits\.engine$",
        r"for sm_80, sm_86, sm_89, sm_120$",
        r"\(built, not executed\)$",
        r"Memory     activations [\d.]+MiB",
        r"Verdict    done as asked \(exit code 0\)",
    ):
        assert re.search(line, answer.out, re.MULTILINE), (line, answer.out)
    assert re.search(r"^build: tensorrt +gives Engine +\d+\.\d\d s$", answer.err, re.MULTILINE)
    assert "To do" not in answer.err
    onnx.checker.check_model(onnx.load("out/model.onnx"), full_check=True)
    for name in ("engines/digits.engine", "report.html", "report.json", "run.json"):
        assert (place / "out" / name).stat().st_size > 0

    again = done("demo", "--json")
    jsonschema.validate(again.json, report_schema())
    assert Path("runs/digits-int8/report.json").read_text() == again.out
    cached = [step["cached"] for stage in again.json["stages"] for step in stage["steps"]]
    assert sum(cached) > len(cached) / 2


def test_report_shows_a_run_again():
    made = done("run", "convert", "-m", "static.onnx", "--out", "out")
    Path("out/report.html").unlink()
    assert done("report", "out").out == made.out.lstrip("\n")
    assert Path("out/report.html").is_file()
    answer = done("report", "out", "--json")
    assert answer.json == json.loads(Path("out/report.json").read_bytes())
    jsonschema.validate(answer.json, report_schema())


def test_the_report_of_a_run_that_failed():
    Path("r.yaml").write_text(
        "stages: [{name: a, steps: [drop-identity, load-data]}]\nmodel: static.onnx\n"
    )
    failed = trtforge("run", "r.yaml", "--out", "out")
    assert failed.code == 2
    shown = done("report", "out").out
    assert "Verdict    failed: stage 'a', step 'load-data': no data is given" in shown
    jsonschema.validate(done("report", "out", "--json").json, report_schema())


def test_run_as_json_says_nothing_else():
    answer = done("run", "convert", "-m", "static.onnx", "--out", "out", "--json")
    jsonschema.validate(answer.json, report_schema())
    assert answer.json["comparison"]["outputs"][0]["sqnr_db"] == "Infinity"  # JSON has no infinity
    assert answer.err == ""


def test_run_quietly():
    answer = done("run", "convert", "-m", "static.onnx", "--out", "out", "--quiet")
    assert answer.err == ""
    assert "Verdict    done as asked" in answer.out


def test_run_with_every_step_verified():
    answer = done("run", "convert", "-m", "good.onnx", "--verify-each", "--out", "out")
    steps = [
        step
        for stage in json.loads(Path("out/report.json").read_bytes())["stages"]
        for step in stage["steps"]
    ]
    changed = [step for step in steps if step["changes"]]
    assert changed
    assert all(step["notes"] for step in changed)
    assert not any(step["cached"] for step in steps)
    assert "change" in answer.err


def test_a_missed_requirement():
    Path("r.yaml").write_text(
        "model: static.onnx\ntargets: [sm_86]\nrequire: {engine_size: 1KiB}\n"
        "stages: [{name: build, steps: [tensorrt]}]\n"
    )
    answer = done("run", "r.yaml", "--out", "out", code=REQUIREMENT_MISSED)
    assert "Verdict    1 requirement not met (exit code 1)" in answer.out
    assert re.search(r"trtforge: not met: engine size is .* over the required 1KiB", answer.err)
    assert "Not met    engine size is" in done("report", "out").out


def test_a_dry_run_runs_nothing(place):
    arguments = ("run", "fp16", "-m", "good.onnx", "--shape", "x=1x16x8x8", "--target", "sm_86")
    before = sorted(place.iterdir())
    answer = done(*arguments, "--dry-run", "--set", "tensorrt.optimization_level=1")
    assert answer.out.endswith("Nothing was run.\n")
    assert re.search(
        r"^build +tensorrt +optimization_level=1 +Engine +no$", answer.out, re.MULTILINE
    )
    plan = done(*arguments, "--dry-run", "--json").json
    assert (plan["recipe"], plan["targets"]) == ("fp16", ["sm_86"])
    assert plan["plan"][0]["step"] == "import-onnx"
    assert sorted(place.iterdir()) == before
    assert "Nothing was run." in on_terminal(*arguments, "--dry-run", columns=80)


def test_a_dry_run_tells_what_is_cached():
    done("run", "convert", "-m", "good.onnx", "--out", "out")
    plan = done("run", "convert", "-m", "good.onnx", "--dry-run", "--json").json["plan"]
    assert {row["step"]: row["cached"] for row in plan}["fold-constants"]


def test_options_replace_those_of_the_recipe():
    Path("r.yaml").write_text(
        "model: good.onnx\nshapes: {x: 1x16x8x8}\ntargets: [sm_86]\n"
        "stages: [{name: build, steps: [{tensorrt: {tf32: true}}]}]\n"
    )
    answer = done(
        "run", "r.yaml", "--json", "--target", "8.9", "--set", "tensorrt.tf32=false",
        "--shape", "x=1x16x8x8:2x16x8x8:4x16x8x8",
    )  # fmt: skip
    assert answer.json["request"]["targets"] == ["sm_89"]
    assert answer.json["request"]["profiles"] == [{"x": "1x16x8x8:2x16x8x8:4x16x8x8"}]
    steps = {step["step"]: step for stage in answer.json["stages"] for step in stage["steps"]}
    assert steps["tensorrt"]["options"]["tf32"] is False
