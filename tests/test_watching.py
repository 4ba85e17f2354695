"""What somebody who watches a run sees of it: the builder's log, and the time that is left."""

import io
import re
import time
from dataclasses import dataclass

import onnx
import onnx.parser
import pytest
from command import trtforge as command
from trtforge_plugins.importers.onnx_file import ImportOnnx

import trtforge as tf
from trtforge.api import RunOptions, run
from trtforge.host import Host
from trtforge.terminal import Live, Quiet

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1,4] x) => (float[1,4] y) { y = Relu (x) }
"""
RECIPE = "stages:\n  - name: build\n    steps: [talkative]\n"


@dataclass(frozen=True)
class Talkative(tf.Step):
    """Log something, then fail if asked to."""

    name = "talkative"

    fail: bool = False

    def run(self, ctx):
        ctx.path("logs", "tensorrt.log").write_text("[INFO] hello\n")
        if self.fail:
            raise tf.StepError("it broke")
        return 0


class Plugin:
    @tf.hookimpl
    def trtforge_components(self):
        return [ImportOnnx, Talkative]


class Messages(Quiet):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that runs the talkative recipe and returns its messages."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text(RECIPE)
    host = Host([Plugin()], installed=False)

    def start(name, **options):
        watcher = Messages()
        chosen = RunOptions(out=tmp_path / name, compare=False, **options)
        model = tmp_path / "m.onnx"
        run(tmp_path / "r.yaml", model, options=chosen, host=host, observer=watcher)
        return watcher.texts

    return start


def test_the_log_is_copied_where_it_is_asked_for(start, tmp_path):
    place = tmp_path / "logs" / "mine.log"
    assert not any("Nothing was logged" in text for text in start("a", log=place))
    assert place.read_text() == "[INFO] hello\n"


def test_the_log_of_a_failed_run_is_copied_too(start, tmp_path):
    with pytest.raises(tf.StepError, match="it broke"):
        start("a", log=tmp_path / "mine.log", settings=["talkative.fail=true"])
    assert (tmp_path / "mine.log").read_text() == "[INFO] hello\n"


def test_a_run_whose_build_comes_from_the_cache_says_that_it_logged_nothing(start, tmp_path):
    start("a")
    (said,) = start("b", log=tmp_path / "mine.log")[-1:]
    assert said.startswith("Nothing was logged")
    assert not (tmp_path / "mine.log").exists()


def test_a_log_cannot_be_asked_for_of_many_runs(tmp_path):
    answer = command("run", "--matrix", tmp_path / "matrix.yaml", "--log", tmp_path / "x.log")
    assert answer.code == 2
    assert "--log" in answer.err


def test_a_display_says_how_long_a_step_will_take():
    from rich.console import Console

    now = [0.0]
    stream = io.StringIO()
    live = Live(Console(file=stream, force_terminal=True, width=100), clock=lambda: now[0])
    live.step_started("build", "tensorrt")
    live.update("tactics", 0, 8)
    for second in range(1, 5):  # a step of eight parts, half of them done, a second each
        now[0] = second
        live.update("tactics", second, 8)
    waited = time.monotonic() + 30
    while "00:04" not in stream.getvalue() and time.monotonic() < waited:
        time.sleep(0.02)  # it is drawn ten times a second
    assert re.search(r"0:00:04.*00:04", stream.getvalue())  # since it began, and still to come
