"""Plugins, names and libraries that are not there, and the command as a process of its own."""

import importlib.metadata
import json
import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import onnx
import pytest
from command import COMMAND, trtforge
from refusals import BAD_REQUEST, DONE, ENVIRONMENT_LACKS, STEP_FAILED, refused

from trtforge import hookimpl

pytestmark = pytest.mark.usefixtures("place")


def offer(monkeypatch, **modules):
    """Let installed packages offer further plugins."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    real = importlib.metadata.entry_points
    more = [EntryPoint(name, name, "trtforge") for name in modules]
    monkeypatch.setattr("trtforge.host.entry_points", lambda **wanted: [*real(**wanted), *more])


def test_a_broken_plugin_is_named_and_the_command_goes_on(monkeypatch):
    offer(monkeypatch, broken=None)  # Python's mark of a module that cannot be imported
    answer = trtforge("list", "recipes")
    assert answer.code == DONE
    assert "fp16" in answer.out
    assert "plugin 'broken' of an unknown package does not load" in answer.err
    assert "To do: mend or uninstall it, or leave it out with --without broken" in answer.err
    assert trtforge("list", "recipes", "--without", "broken").err == ""


def test_a_plugin_with_a_misspelt_hook(monkeypatch):
    @hookimpl
    def trtforge_component():
        return []

    module = types.ModuleType("misspelt")
    module.trtforge_component = trtforge_component
    offer(monkeypatch, misspelt=module)
    says = ["plugin 'misspelt'", "Did you mean 'trtforge_components'?", "--without misspelt"]
    refused("list", code=ENVIRONMENT_LACKS, says=says)


def test_without_an_unknown_plugin():
    says = ["--without trtforge-plugin", "Did you mean 'trtforge-plugins'?"]
    refused("list", "--without", "trtforge-plugin", says=says)
    refused("list", "--without", "x", says=["`trtforge list` shows"])


def test_without_the_plugins_that_ship():
    without = ("--without", "trtforge-plugins")
    refused("run", "fp16", "-m", "good.onnx", *without, says=["'fp16'"])
    refused("check", "good.onnx", *without, says=["To do:"])


def test_unknown_names():
    refused("show", "fold-constant", says=["Did you mean 'fold-constants'?"])
    refused("list", "stepps", says=["Did you mean"])
    refused("run", "--modle", "x", says=["--modle"])
    refused("frobnicate", says=["frobnicate"])


def test_an_error_as_json():
    answer = trtforge("run", "fp61", "-m", "good.onnx", "--json")
    assert answer.json["exit_code"] == answer.code == BAD_REQUEST
    assert "fp61" in answer.json["error"]["what"]
    assert "fp16" in answer.json["error"]["remedy"]


def test_no_tensorrt(monkeypatch):
    monkeypatch.setattr("trtforge_plugins.tensorrt.library.installed", lambda: iter(()))
    shapes = ("--shape", "x=1x16x8x8", "--target", "sm_86")
    pip = "pip install 'trtforge[cu13]'"
    for command in (("run", "fp16", "-m", "good.onnx", *shapes), ("check", "good.onnx")):
        refused(*command, code=ENVIRONMENT_LACKS, says=["no TensorRT is installed", pip])


REFUSED = """
<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
refused (float[2,8] x) => (float[2,8] y) {
    [first] a = acme.Mystery (x)
    [middle] b = Relu (a)
    [second] y = acme.Riddle (b)
}
"""


def test_tensorrt_refuses_a_model():
    Path("r.yaml").write_text("targets: [sm_86]\nstages: [{name: build, steps: [tensorrt]}]\n")
    Path("m.onnx").write_bytes(onnx.parser.parse_model(REFUSED).SerializeToString())
    answer = refused(
        "run", "r.yaml", "-m", "m.onnx", "--out", "out", code=STEP_FAILED, unchanged=False,
        says=["stage 'build', step 'tensorrt'", "'first'", "Mystery", "'second'", "Riddle"],
    )  # fmt: skip
    assert "'middle'" not in answer.err
    assert json.loads(Path("out/report.json").read_bytes())["verdict"]["exit_code"] == STEP_FAILED
    assert not list(Path("out").rglob("*.engine"))


# The same as a process of its own


def process(*arguments, **more):
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True, text=True, check=False, timeout=120, **more,
    )  # fmt: skip


def test_a_bad_model_in_a_real_process():
    Path("m.onnx").write_bytes(b"nothing")
    done = process("run", "convert", "--model", "m.onnx")
    assert (done.returncode, done.stdout) == (BAD_REQUEST, "")
    assert "trtforge: stage 'import', step 'import-onnx': m.onnx: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in Path().iterdir() if path.name != "m.onnx"] == ["good.onnx"]


def test_an_error_as_json_in_a_real_process():
    done = process("check", "none.onnx", "--json")
    assert done.returncode == BAD_REQUEST
    assert json.loads(done.stdout)["exit_code"] == BAD_REQUEST


def test_who_reads_the_output_may_go_away():
    line = f"{COMMAND} list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", line], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (DONE, "")
