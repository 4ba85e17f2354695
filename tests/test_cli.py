"""The command line: what each command answers, to people, to programs, and on a terminal."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnx.parser
import pytest
from command import trtforge
from models import CONV_RELU, parse
from trtforge_plugins.importers.onnx_file import ImportOnnx

from trtforge import demo
from trtforge.cli.answers import flush, say, watcher
from trtforge.records import StepRecord
from trtforge.report import report_schema
from trtforge.terminal import Live, PlainLines, Quiet

DONE, REQUIREMENT_MISSED, STEP_FAILED, ENVIRONMENT_LACKS = 0, 1, 3, 4
COMMAND = str(Path(sys.executable).with_name("trtforge"))

STATIC = """
<ir_version: 10, opset_import: ["" : 21]>
static (float[2,8] x) => (float[2,8] y)
{
    [first] a = Relu (x)
    [second] y = Neg (a)
}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of the user's with a model of fixed and one of dynamic shape."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "conv.onnx").write_bytes(parse(CONV_RELU).SerializeToString())
    (folder / "static.onnx").write_bytes(onnx.parser.parse_model(STATIC).SerializeToString())
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def done(*arguments, code=DONE):
    answer = trtforge(*arguments)
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    return answer


# What is installed


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
    answer = done("run", "convert", "-m", "conv.onnx", "--verify-each", "--out", "out")
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
    arguments = ("run", "fp16", "-m", "conv.onnx", "--shape", "x=1x16x8x8", "--target", "sm_86")
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
    done("run", "convert", "-m", "conv.onnx", "--out", "out")
    plan = done("run", "convert", "-m", "conv.onnx", "--dry-run", "--json").json["plan"]
    assert {row["step"]: row["cached"] for row in plan}["fold-constants"]


def test_options_replace_those_of_the_recipe():
    Path("r.yaml").write_text(
        "model: conv.onnx\nshapes: {x: 1x16x8x8}\ntargets: [sm_86]\n"
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


# Questions about models


def test_check_a_model_that_tensorrt_takes():
    assert re.search(
        r"static.onnx: tensorrt_rtx .* takes it as it is", done("check", "static.onnx").out
    )
    assert done("check", "static.onnx", "--json").json["findings"] == []


def test_check_a_model_that_needs_converting():
    answer = done("check", demo.MODEL, code=REQUIREMENT_MISSED)
    assert "1 finding of tensorrt_rtx" in answer.out
    assert "ReduceMean 'node_mean'" in answer.out
    assert "After the recipe `convert`: TensorRT takes it" in answer.out
    assert f"To do: trtforge run convert --model {demo.MODEL}" in answer.out
    found = done("check", demo.MODEL, "--json", code=REQUIREMENT_MISSED).json
    assert found["findings"][0]["op"] == "ReduceMean"
    assert found["findings"][0]["mended"] is True
    assert found["left"] == 0


def test_check_a_model_that_nothing_mends():
    text = STATIC.replace('"" : 21', '"" : 21, "acme" : 1').replace("Neg", "acme.Mystery")
    Path("m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    answer = done("check", "m.onnx", code=REQUIREMENT_MISSED)
    assert "Mystery 'second': " in answer.out
    assert "    To do: " in answer.out
    assert "After the recipe `convert`: 1 finding\n" in answer.out
    assert "trtforge run convert" not in answer.out


AXES = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2,3] x, int64[k] axes) => (float[n] y) { y = ReduceSum <keepdims = 0> (x, axes) }"""


def test_check_names_the_input_to_freeze_and_run_and_verify_know_it():
    Path("m.onnx").write_bytes(onnx.parser.parse_model(AXES).SerializeToString())
    answer = done("check", "m.onnx", code=REQUIREMENT_MISSED)
    assert "After the recipe `convert`: 1 finding\n" in answer.out
    assert "freeze 'axes'" in answer.out
    assert "`freeze-inputs: {values: {axes: [1]}}`" in answer.out
    setting = answer.out.partition("--set '")[2].partition("'")[0]
    done("run", "convert", "--model", "m.onnx", "--set", setting, "-o", "out")
    assert "takes it as it is" in done("check", "out/model.onnx").out
    assert "4 samples: synthesized" in done("verify", "m.onnx", "out/model.onnx").out
    np.savez("x.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3))
    assert "2 samples" in done("verify", "m.onnx", "out/model.onnx", "--data", "x.npz").out


@pytest.mark.parametrize("model", [demo.MODEL, "static.onnx", "conv.onnx"])
def test_the_recipe_of_init_runs_as_it_is(model):
    assert "next: trtforge run my.yaml" in done("init", model, "-o", "my.yaml").out
    text = Path("my.yaml").read_text()
    assert f'model: "{model}"' in text
    assert ("shapes:" in text) is (model != "static.onnx")
    report = done("run", "my.yaml", "--json").json
    assert report["verdict"]["exit_code"] == DONE
    assert report["engines"][0]["targets"] == ["sm_80", "sm_86", "sm_89", "sm_120"]
    assert done("init", model, "-o", "my.yaml", "--force").code == DONE


def test_init_below_another_folder_names_the_model_from_there():
    Path("recipes").mkdir()
    done("init", "static.onnx", "-o", "recipes/my.yaml")
    assert done("run", "recipes/my.yaml", "--dry-run").code == DONE


def test_init_of_a_model_that_code_makes(monkeypatch):
    """A recipe may not name code, so the user does; the importer itself is another test's."""
    monkeypatch.setattr(
        "trtforge_plugins.importers.torch_model.ImportTorch.run",
        lambda self, ctx: ImportOnnx(source="static.onnx").run(ctx),
    )
    answer = done("init", "my.models:make", "-o", "my.yaml")
    assert answer.out == "wrote my.yaml; next: trtforge run my.yaml --model my.models:make\n"
    assert "\nmodel:" not in Path("my.yaml").read_text()
    assert done("run", "my.yaml", "--model", "my.models:make", "--dry-run").code == DONE


OTHER = STATIC.replace("Neg (a)", "Identity (a)")


def test_a_run_without_comparison():
    done("run", "convert", "-m", "conv.onnx", "--no-compare", "--out", "out")
    report = json.loads(Path("out/report.json").read_text())
    assert report["comparison"] is None
    assert "compare" not in [stage["name"] for stage in report["stages"]]


def test_verify_equal_and_different_models():
    Path("other.onnx").write_bytes(onnx.parser.parse_model(OTHER).SerializeToString())
    np.savez("data.npz", x=np.ones((4, 8), np.float32))
    equal = done("verify", "static.onnx", "static.onnx", "--data", "data.npz")
    assert re.search(r"^y +0 +0 +1\.000000 +inf", equal.out, re.MULTILINE)
    assert "4 samples: data.npz\n" in equal.out
    found = done("verify", "static.onnx", "static.onnx", "--json").json
    assert found["outputs"][0]["sqnr_db"] == "Infinity"
    assert found["real"] is False
    different = done("verify", "static.onnx", "other.onnx", code=REQUIREMENT_MISSED)
    assert "trtforge: not met: " in different.err
    assert "not real data: give some with --data" in different.out
    missed = done("verify", "static.onnx", "other.onnx", "--json", code=REQUIREMENT_MISSED).json
    assert "cosine" in missed["missed"][0]


def test_verify_models_of_different_interface():
    answer = done("verify", "conv.onnx", "static.onnx", code=REQUIREMENT_MISSED)
    assert "input 'x' has shape (2, 8) instead of ('N', 16, 8, 8)" in answer.out
    assert "trtforge: not met: " in answer.err


# Progress

RECORD = StepRecord("build", "tensorrt", 1, {}, 0, 1.25, gave=("Engine",))


def test_plain_lines():
    stream = io.StringIO()
    lines = PlainLines(stream, every=0)
    lines.step_started("build", "tensorrt")
    lines.update("tensorrt: tactics", 3, 8)
    lines.update("tensorrt: graph", 3, 0)
    lines.step_finished(RECORD)
    lines.message("hello")
    progress, no_total, finished, message = stream.getvalue().splitlines()
    assert (progress, no_total) == ("    tensorrt: tactics: 3/8", "    tensorrt: graph: 3")
    assert re.fullmatch(r"build: tensorrt +gives Engine +1\.25 s", finished)
    assert message == "hello"
    slow = io.StringIO()
    PlainLines(slow, every=60).update("tensorrt: tactics", 3, 8)
    assert slow.getvalue() == ""


def test_progress_that_nobody_reads_stops_no_run():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    PlainLines(Gone()).step_finished(RECORD)


def test_quiet_says_nothing(capsys):
    quiet = Quiet()
    quiet.step_started("build", "tensorrt")
    quiet.update("tactics", 3, 8)
    quiet.step_finished(RECORD)
    quiet.message("hello")
    assert capsys.readouterr() == ("", "")


def test_a_live_display():
    from rich.console import Console

    stream = io.StringIO()
    live = Live(Console(file=stream, force_terminal=True, width=100))
    live.step_started("[red]", "tensorrt")
    live.update("tactics [bold]", 3, 8)
    time.sleep(0.2)  # the display is drawn ten times a second
    live.step_finished(RECORD)
    live.message("[hello]")
    shown = stream.getvalue()
    assert "[red]: tensorrt" in shown  # names are no markup
    assert "tactics [bold]" in shown
    assert "✓" in shown
    assert "[hello]" in shown
    assert "gives Engine" in shown


def on_terminal(*arguments, columns=100):
    """Run the command on a pseudo-terminal and return what it shows, without colours."""
    import fcntl
    import struct
    import termios

    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(mine, 2**16)
        except OSError:  # how Linux ends a pseudo-terminal
            break
        if not data:
            break
        shown += data
    os.close(mine)
    assert process.wait(timeout=60) == DONE
    text = shown.decode().replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_gets_a_live_display():
    shown = on_terminal("run", "convert", "-m", "static.onnx", "--out", "out")
    assert "✓ import: import-onnx" in shown
    assert "Verdict    done as asked" in shown


SLOW = """
from dataclasses import dataclass
import time
import trtforge as tf

@dataclass(frozen=True)
class Wait(tf.Step):
    '''Wait for a Ctrl-C.'''
    name = "wait"
    cacheable = False
    def run(self, ctx):
        ctx.progress.update("waiting", 1, 2)
        if not (ctx.workdir / "go").exists():
            print("waiting", flush=True)
            time.sleep(60)
        return 0

@tf.hookimpl
def trtforge_components():
    return [Wait]
"""


def test_ctrl_c_leaves_a_run_that_goes_on(place, monkeypatch):
    site = place / "site"
    (site / "slow-1.dist-info").mkdir(parents=True)
    (site / "slow.py").write_text(SLOW)
    (site / "slow-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: slow\nVersion: 1\n"
    )
    (site / "slow-1.dist-info/entry_points.txt").write_text("[trtforge]\nslow = slow\n")
    Path("r.yaml").write_text(
        "model: conv.onnx\nstages:\n  - {name: a, steps: [fold-constants]}\n"
        "  - {name: b, steps: [wait]}\n"
    )
    line = [COMMAND, "run", "r.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "trtforge: stopped" in err
    assert "--resume goes on from here" in err
    Path("out/go").touch()
    again = subprocess.run(
        [*line, "--resume"], capture_output=True, text=True, env=environment, check=False
    )
    assert again.returncode == DONE, again.stderr
    assert re.search(r"a: fold-constants .* cached", again.stderr)
    assert "done as asked" in again.stdout


def test_ctrl_c_while_modules_load(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trtforge.cli.app.app", interrupted)
    assert trtforge("list").err.startswith("\ntrtforge: stopped\n")
    assert trtforge("run", "fp16").code == 130
    assert "--resume goes on from here" in trtforge("run", "fp16").err


def test_what_nobody_reads_is_not_printed(monkeypatch):
    """Like ``trtforge list | head``, whose reader leaves before everything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stream:  # noqa: PTH123  # a descriptor, no path
        monkeypatch.setattr(sys, "stdout", stream)
        say("one")
        say("two")
        flush()
        os.write(writer, b"still open, to nowhere")


def test_a_terminal_is_asked_for(monkeypatch):
    assert isinstance(watcher(as_json=False), PlainLines)
    assert isinstance(watcher(as_json=True), Quiet)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(watcher(as_json=False), Live)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def broken(without):
        raise ZeroDivisionError

    monkeypatch.setattr("trtforge.cli.look.open_host", broken)
    answer = trtforge("list")
    assert answer.code == STEP_FAILED
    assert "ZeroDivisionError" in answer.err
    assert "This is a defect of trtforge" in answer.err
