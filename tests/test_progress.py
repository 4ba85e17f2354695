"""What somebody who watches a command sees, on a terminal and elsewhere, and Ctrl-C."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import COMMAND, on_terminal, trtforge

from trtforge.cli.answers import flush, say, watcher
from trtforge.records import StepRecord
from trtforge.terminal import Live, PlainLines, Quiet

pytestmark = pytest.mark.usefixtures("two_models")

DONE, STEP_FAILED = 0, 3
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
        "model: good.onnx\nstages:\n  - {name: a, steps: [fold-constants]}\n"
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
