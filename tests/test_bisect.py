"""`trtforge bisect --build`: the smallest part that still fails, and a script that shows it."""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command import trtforge
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.tensorrt import TensorRT
from trtforge_plugins.tensorrt.library import find

from trtforge import Backend, BuildError, Request, RequestError, ShapeRange
from trtforge.bisection import Search, reduce_build
from trtforge.delta import smallest
from trtforge.subgraph import Cutter
from trtforge.targets import read_target
from trtforge.testing import run_model
from trtforge.worker import Cause, WorkerFailure

# --- delta debugging ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_what_is_found_is_exactly_what_the_failure_needs(drawn):
    count, needed = drawn
    asked = []

    def first(parts):
        asked.extend(parts)
        return next((i for i, part in enumerate(parts) if needed <= set(part)), None)

    found = smallest(tuple(range(count)), first)
    assert set(found) == needed or (not needed and len(found) == 1)


def test_a_good_guess_saves_nearly_all_trials():
    asked = []

    def first(parts):
        asked.extend(parts)
        return next((i for i, part in enumerate(parts) if {700, 703} <= set(part)), None)

    assert smallest(tuple(range(1000)), first, [tuple(range(700, 704))]) == (700, 703)
    assert len(asked) < 20


# --- cutting a part out ------------------------------------------------------------------------

DEEP = """
<ir_version: 10, opset_import: ["" : 21]>
deep (float[N,6] x, bool c) => (float[N,6] y, float[N,6] z)
<float[6,6] w = {1,2,3,4,5,6, 1,2,3,4,5,6, 1,2,3,4,5,6, 1,2,3,4,5,6, 1,2,3,4,5,6, 1,2,3,4,5,6}>
{
    [scale] a = MatMul (x, w)
    [squash] b = Tanh (a)
    [both] d = Add (a, b)
    [branch] e = If (c) <then_branch = t () => (float[N,6] p) { [in] p = Mul (b, d) },
                         else_branch = f () => (float[N,6] q) { q = Identity (d) }>
    [last] y = Exp (e)
    [side] z = Neg (b)
}
"""


@pytest.mark.parametrize("chosen", [(0,), (1, 2), (2, 3), (3,), (3, 4), (0, 5), (0, 1, 2, 3, 4, 5)])
def test_a_part_computes_what_the_model_computes_there(chosen):
    model = ir.from_onnx_text(DEEP)
    cutter = Cutter(model, {"x": ShapeRange.read("1x6:2x6:4x6")})
    part, ranges = cutter.cut(chosen)
    onnx.checker.check_model(ir.to_proto(part), full_check=True)
    everything = ir.from_onnx_text(DEEP)
    for node in everything.graph:
        everything.graph.outputs.extend(
            value for value in node.outputs if not value.is_graph_output()
        )
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    values = {"x": x, "c": np.array(True)}
    values |= run_model(everything, values)
    names = [value.name for value in part.graph.inputs]
    found = run_model(part, {name: values[name] for name in names})
    assert found
    for name, array in found.items():
        np.testing.assert_allclose(array, values[name], rtol=1e-6)  # the same float32 operations
    assert all(ranges[name].opt == (2, 6) for name in names if name != "c")
    assert ir.to_onnx_text(model) == ir.to_onnx_text(ir.from_onnx_text(DEEP))


# --- reducing ----------------------------------------------------------------------------------


def chain(count, bad, opset=21):
    """Return a model of ``count`` nodes in a row, with the nodes of ``bad`` in between."""
    nodes = dict.fromkeys(range(count), "Relu") | bad
    lines, value = [], "x"
    for number, op in sorted(nodes.items()):
        lines.append(f"[n{number}] v{number} = {op} ({value})")
        value = f"v{number}"
    body = "\n".join(lines)
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[N,8] x) => (float[N,8] {value})'
        f"{{ {body} }}"
    )


PROFILE = {"x": ShapeRange.read("1x8:2x8:4x8")}


def request(**more):
    return Request("chain.onnx", profiles=(PROFILE,), targets=(read_target("sm_89"),), **more)


FLOAT8_CAST = "Cast <to = 17>"


def float8_chain():
    """Only both casts together fail so: a Cast to float8 whose result TensorRT does not know."""
    return chain(30, {11: FLOAT8_CAST, 12: "Cast <to = 1>"})


def run_script(script):
    line = [sys.executable, script]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_a_failure_of_the_builder_is_reduced_and_shown_by_a_script(tmp_path):
    found = reduce_build(float8_chain(), TensorRT(), request(), Search(tmp_path))
    assert found.code == "quantized-type-loose"
    assert found.nodes in (("n11",), ("n12",))
    assert (found.of, found.builds < 30) == (30, True)
    onnx.checker.check_model(onnx.load(found.model))
    text = found.script.read_text()
    imports = {
        line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))
    }
    assert imports == {"json", "sys", "pathlib", "onnx", "tensorrt_rtx"}
    shown = subprocess.run(
        [sys.executable, found.script], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1, shown.stderr
    assert "has datatype FP8 but is not" in shown.stdout + shown.stderr


def test_the_script_builds_what_does_build(tmp_path):
    found = reduce_build(float8_chain(), TensorRT(), request(), Search(tmp_path))
    good = chain(3, {})
    ir.save(good, found.model)
    name = found.script.read_text()
    assert "ORDER" in name
    script = TensorRT().reproduction(good, found.model.name, request())
    found.script.write_text(script)
    shown = subprocess.run(
        [sys.executable, found.script], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr


def test_a_stopped_search_goes_on_where_it_was(tmp_path):
    first = reduce_build(float8_chain(), TensorRT(), request(), Search(tmp_path, workers=1))
    again = reduce_build(float8_chain(), TensorRT(), request(), Search(tmp_path, workers=1))
    assert again.builds == 0
    assert again.nodes == first.nodes
    (tmp_path / "verdicts.json").write_text("{damaged")
    assert reduce_build(float8_chain(), TensorRT(), request(), Search(tmp_path)).builds > 0


@dataclass(frozen=True)
class Fragile(Backend):
    """A backend that crashes where a model holds an Exp and a Neg, and hangs on a lone Tanh."""

    name = "fragile"
    threads: ClassVar[set[int]] = set()

    def build(self, model, ctx):
        self.threads.add(threading.get_ident())
        ops = {node.op_type for node in model.graph}
        if {"Exp", "Neg"} <= ops:
            raise WorkerFailure("it died from SIGSEGV", cause=Cause.CRASHED)
        if ops == {"Tanh"}:
            raise WorkerFailure("it did not end within 1 seconds", cause=Cause.TIMED_OUT)
        if "Tanh" in ops:
            raise BuildError("another failure", code="another")


def test_crashes_are_reduced_and_other_failures_are_not_mistaken_for_them(tmp_path):
    model = chain(64, {7: "Exp", 30: "Tanh", 51: "Neg"})
    found = reduce_build(model, Fragile(), request(), Search(tmp_path, workers=4))
    assert found.nodes == ("n7", "n51")
    assert found.code == "worker-failed"
    assert found.script is None
    assert len(Fragile.threads) > 1


def test_a_model_that_builds_is_nothing_to_reduce(tmp_path):
    with pytest.raises(RequestError, match="builds, so there is no failure"):
        reduce_build(chain(3, {}), TensorRT(), request(), Search(tmp_path))


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ir.save(float8_chain(), "m.onnx")
    line = ("bisect", "m.onnx", "--build", "--shape", "x=1x8:2x8:4x8", "--target", "sm_89")
    answer = trtforge(*line)
    assert answer.code == 0, answer.err
    assert "quantized-type-loose: 1 of 30 nodes fail so" in answer.out
    data = trtforge(*line, "--json").json
    assert data["code"] == "quantized-type-loose"
    assert json.loads((tmp_path / "bisect" / "verdicts.json").read_text())["verdicts"]
    assert trtforge("bisect", "m.onnx").code == 2
    assert trtforge(*line, "--set", "cast.to=float16").code == 2
    assert find().flavor == "tensorrt_rtx"
