"""The runner: order, repetition, cache, resume after kill -9, and named failures."""

import importlib
import os
import signal
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import trtforge as tf
from trtforge import demo
from trtforge.api import RunOptions, plan, run
from trtforge.graph import bypass
from trtforge.host import Host
from trtforge.terminal import Quiet

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1,4] x) => (float[1,4] y) {
  a = Identity(x)
  b = Identity(a)
  c = Relu(b)
  y = Add(c, c)
}
"""
LOG: list[str] = []


@dataclass(frozen=True)
class LoadText(tf.Importer):
    """Read a model in ONNX text."""

    name = "load-text"
    cacheable = False

    @classmethod
    def accepts(cls, source):
        return source.endswith(".txt")

    def load(self, source, ctx):
        return ir.from_onnx_text(Path(source).read_text())


@dataclass(frozen=True)
class DropOne(tf.Pass):
    """Drop one Identity."""

    name = "drop-one"

    def rewrite(self, model, ctx):
        LOG.append("drop-one")
        for node in model.graph:
            if node.op_type == "Identity" and bypass(node):
                return 1
        return 0


@dataclass(frozen=True)
class MeasureRange(tf.Step):
    """Measure a range."""

    name = "measure-range"
    gives = (tf.Ranges,)

    table: Path | None = None
    fail: bool = False
    weird: bool = False
    kill: bool = False

    def reads(self):
        return [self.table] if self.table else []

    def run(self, ctx):
        LOG.append("measure-range")
        if self.fail:
            raise ZeroDivisionError("no samples")
        if self.weird:
            ctx.put(tf.Figures({"a": 1.0}))
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.put(tf.Ranges({"x": tf.Range(-1.0, 1.0)}, "max", 1, "made up"))
        return 0


@dataclass(frozen=True)
class CompareNothing(tf.Step):
    """Compare nothing, each time."""

    name = "compare-nothing"
    gives = (tf.Comparison,)
    cacheable = False

    cosine: float = 1.0

    def run(self, ctx):
        LOG.append("compare-nothing")
        output = tf.OutputComparison("y", 0.0, 0.0, self.cosine, 99.0, None)
        ctx.put(tf.Comparison((output,), "made up", real=True, samples=1))
        return 0


class Plugin:
    @tf.hookimpl
    def trtforge_components(self):
        return [LoadText, DropOne, MeasureRange, CompareNothing]


class Watcher(Quiet):
    def __init__(self):
        self.records, self.messages = [], []

    def step_finished(self, record):
        self.records.append(record)

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def host():
    LOG.clear()
    return Host([Plugin()], installed=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.txt").write_text(MODEL)
    return tmp_path


def recipe(folder, steps="[drop-one]", **keys):
    head = "".join(f"{key}: {value}\n" for key, value in keys.items() if key != "repeat")
    repeat = keys.get("repeat", 1)
    text = f"{head}stages:\n  - name: only\n    repeat: {repeat}\n    steps: {steps}\n"
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def go(host, folder, path, name="out", watcher=None, **options):
    options = RunOptions(out=folder / name, **options)
    return run(path, folder / "m.txt", options=options, host=host, observer=watcher)


def test_a_repeated_stage_ends_when_nothing_changes(host, folder):
    done = go(host, folder, recipe(folder, repeat=9))
    assert done.exit_code == 0
    assert LOG == ["drop-one"] * 3 + ["compare-nothing"]
    assert [node.op_type for node in ir.load(done.model).graph] == ["Relu", "Add"]
    assert done.report.given.nodes == 4
    assert done.report.final.nodes == 2


def test_an_edit_that_found_nothing_to_do_waits_for_a_change(host, folder):
    path = recipe(folder)
    twice = "{name: a, repeat: 9, steps: [drop-one]}, {name: b, steps: [drop-one]}"
    path.write_text(f"stages: [{twice}, {{name: c, steps: [measure-range, drop-one]}}]")
    go(host, folder, path)
    # Twice it drops one, then it finds none; so stage b need not look, and c looks anew.
    assert [*["drop-one"] * 3, "measure-range", "drop-one", "compare-nothing"] == LOG


def test_the_run_folder_holds_the_evidence(host, folder):
    done = go(host, folder, recipe(folder))
    names = {path.name for path in done.folder.iterdir()}
    assert {"model.onnx", "report.json", "report.html", "run.json"} <= names
    assert [stage.name for stage in done.report.stages] == ["import", "only", "compare"]


def test_a_second_run_takes_everything_from_the_cache(host, folder):
    path = recipe(folder, "[drop-one, measure-range]")
    first = go(host, folder, path)
    LOG.clear()
    watcher = Watcher()
    second = go(host, folder, path, "again", watcher)
    assert LOG == ["compare-nothing"]
    assert [record.cached for record in watcher.records] == [False, True, True, False]
    assert second.model.read_bytes() == first.model.read_bytes()


def test_a_second_run_compares_weights_that_come_from_the_cache(tmp_path, monkeypatch):
    """NumPy has no bfloat16; ONNX Runtime was once given the name of the cache's file instead."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "r.yaml"
    path.write_text(
        "require: {cosine: 0.99}\n"
        "stages: [{name: all, steps: [upgrade-opset: {to: 22}, cast: {to: bfloat16}, verify]}]\n"
    )
    runs = [run(path, demo.MODEL, out=tmp_path / name) for name in ("first", "second")]
    assert [done.exit_code for done in runs] == [0, 0]
    cast = next(
        each for stage in runs[1].report.stages for each in stage.steps if each.step == "cast"
    )
    assert cast.cached
    assert runs[0].report.comparison == runs[1].report.comparison


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: (f / "m.txt").write_text(MODEL.replace("Relu", "Abs")), id="model"),
        pytest.param(lambda f: (f / "t.csv").write_text("2"), id="file-that-is-read"),
    ],
)
def test_a_changed_input_is_a_miss(host, folder, change):
    (folder / "t.csv").write_text("1")
    path = recipe(folder, "[measure-range: {table: t.csv}]")
    go(host, folder, path)
    LOG.clear()
    change(folder)
    go(host, folder, path, "again")
    assert "measure-range" in LOG


def test_another_library_version_is_a_miss(host, folder, monkeypatch):
    path = recipe(folder, "[measure-range]")
    go(host, folder, path)
    LOG.clear()
    monkeypatch.setattr(MeasureRange, "environment", lambda self: {"tensorrt": "99"})
    go(host, folder, path, "again")
    assert "measure-range" in LOG


def test_a_damaged_cache_entry_is_computed_anew(host, folder):
    path = recipe(folder, "[drop-one, measure-range]")
    first = go(host, folder, path)
    for blob in (folder / "cache" / "blobs").glob("*/*"):
        blob.write_bytes(b"damaged")
    LOG.clear()
    watcher = Watcher()
    second = go(host, folder, path, "again", watcher)
    assert any("computing everything anew" in text for text in watcher.messages)
    assert LOG == ["drop-one", "measure-range", "compare-nothing"]
    assert second.model.read_bytes() == first.model.read_bytes()


def test_the_plan_says_what_is_cached(host, folder):
    path = recipe(folder, "[drop-one, measure-range]")
    _, before = plan(path, folder / "m.txt", host=host)
    go(host, folder, path)
    _, after = plan(path, folder / "m.txt", host=host)
    assert [item.cached for item in before] == [False] * 4
    assert [item.cached for item in after] == [False, True, True, False]


def test_a_crash_of_a_step_is_named(host, folder):
    with pytest.raises(tf.StepError) as caught:
        go(host, folder, recipe(folder, "[measure-range: {fail: true}]"))
    message = str(caught.value)
    assert message.startswith("stage 'only', step 'measure-range': ZeroDivisionError: no samples")
    assert "this is a defect of plugin 'Plugin#0'" in message
    assert "no samples" in (folder / "out" / "report.json").read_text()


def test_an_artifact_must_be_declared(host, folder):
    with pytest.raises(tf.StepError, match="gave Figures, which its `gives` does not declare"):
        go(host, folder, recipe(folder, "[measure-range: {weird: true}]"))


def test_a_missed_requirement_is_exit_code_1(host, folder):
    path = recipe(folder, "[compare-nothing: {cosine: 0.5}]", require="{cosine: 0.9}")
    done = go(host, folder, path)
    assert done.exit_code == 1
    assert done.missed == ("output 'y': cosine similarity 0.5 is below the required 0.9",)


def test_a_requirement_that_nothing_measured_is_missed(host, folder):
    path = recipe(folder, require="{engine_size: 4MiB}")
    assert "never measured" in go(host, folder, path).missed[0]


def test_a_folder_with_a_run_is_not_overwritten(host, folder):
    go(host, folder, recipe(folder))
    with pytest.raises(tf.RequestError, match="holds a run"):
        go(host, folder, recipe(folder))
    go(host, folder, recipe(folder), resume=True)


def test_nothing_to_resume(host, folder):
    with pytest.raises(tf.RequestError, match="there is no run"):
        go(host, folder, recipe(folder), resume=True)


def test_outputs_that_cannot_be_written(host, folder):
    (folder / "file").write_text("")
    with pytest.raises(tf.RequestError, match="is a file, not a folder"):
        go(host, folder, recipe(folder), "file")
    with pytest.raises(tf.RequestError, match="cannot be written"):
        go(host, folder, recipe(folder), "file/below")


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_runner
from pathlib import Path
from trtforge.host import Host
folder = Path({folder!r})
test_runner.go(Host([test_runner.Plugin()], installed=False), folder, folder / "r.yaml")
"""


def test_resume_after_kill_9_repeats_nothing_that_was_done(host, folder):
    steps = "[measure-range, drop-one, measure-range: {kill: true}]"
    path = recipe(folder, steps)
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (folder / "out" / "report.json").exists()

    path.write_text(path.read_text().replace("kill: true", "kill: false"))
    done = go(host, folder, path, resume=True)
    assert done.exit_code == 0
    assert LOG == ["measure-range", "compare-nothing"]  # the first two came from the cache
    leftovers = [p for p in folder.rglob(".*") if p.is_file() and p.name != ".lock"]
    assert leftovers == []


def test_large_weights_stay_in_the_users_file(host, folder, tmp_path):
    from trtforge.cache import StepCache
    from trtforge.context import Context, Request

    model = ir.from_onnx_text(MODEL)
    data = np.ones(4096, np.float32)
    (tmp_path / "w.bin").write_bytes(data.tobytes())
    weight = ir.ExternalTensor(
        "w.bin", 0, data.nbytes, ir.DataType.FLOAT, shape=ir.Shape([4096]), name="w",
        base_dir=tmp_path,
    )  # fmt: skip
    model.graph.register_initializer(ir.Value(name="w", const_value=weight))
    ctx = Context(model, tmp_path / "run", Request("m"))
    cache = StepCache(tmp_path / "cache", {})
    entry = cache.freeze(ctx, (), ())
    cache.save("k", entry)
    assert cache.find("k") == entry
    assert [own.path for own in entry.weights.values()] == [str(tmp_path / "w.bin")]
    (tmp_path / "w.bin").write_bytes(data.tobytes() + b"more")
    assert cache.find("k") is None


@pytest.mark.parametrize("file", ["__init__.py", "kernel.cu.jinja"])
def test_another_kernel_of_a_custom_op_is_another_key(tmp_path, monkeypatch, file):
    """The kernel goes into the engine but not into the model, so the model's hash misses it."""
    from trtforge.cache import StepCache, code_digest
    from trtforge.context import Request

    package = tmp_path / "ops_of_somebody"
    package.mkdir()
    (package / "__init__.py").write_text("class Op: pass\n")
    (package / "kernel.cu.jinja").write_text("void f() {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    op = importlib.import_module(package.name).Op
    cache = StepCache(tmp_path / "cache", {})
    before = cache.key("state", (), Request("m"), [op])
    assert cache.key("state", (), Request("m"), [op]) == before
    (package / file).write_text((package / file).read_text() + "\n// edited\n")
    code_digest.cache_clear()  # as in a new process
    assert cache.key("state", (), Request("m"), [op]) != before
    del sys.modules[package.name]


def test_code_without_a_file_is_never_found_by_another_process(monkeypatch):
    from trtforge.cache import code_digest

    monkeypatch.setitem(sys.modules, "of_a_notebook", types.ModuleType("of_a_notebook"))
    first = code_digest("of_a_notebook")
    assert code_digest("of_a_notebook") == first
    code_digest.cache_clear()  # as in a new process
    assert code_digest("of_a_notebook") != first


def test_the_cache_forgets_what_was_not_used_for_long(host, folder):
    from trtforge.cache import StepCache

    go(host, folder, recipe(folder, "[measure-range]"))
    root = folder / "cache"
    for blob in (root / "blobs").glob("*/*"):
        os.utime(blob, (0, 0))
    assert StepCache(root, {}).prune() == 0
    assert StepCache(root, {}, limit=1).prune() > 0
    assert list((root / "entries").iterdir()) == []


def test_graph_edits_of_neighbouring_stages_share_a_cache_entry(host, folder):
    text = "{name: a, steps: [drop-one]}, {name: b, repeat: 2, steps: [drop-one]}"
    path = recipe(folder)
    path.write_text(f"stages: [{text}, {{name: c, steps: [measure-range]}}]")
    go(host, folder, path)
    entries = list((folder / "cache" / "entries").iterdir())
    assert len(entries) == 2  # of the stages a and b, and of c
