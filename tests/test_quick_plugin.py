"""Ops as plugins that TensorRT launches itself: against the bindings, without TensorRT's library.

``quick_plugin_run.py`` hands every shipped op to the real module ``tensorrt.plugin`` and holds the
types, shapes, tactics, launch and PTX that come out of it to the op's declaration. Nothing is built
by TensorRT here, and nothing executed.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import onnx_ir as ir
import op_cases
import pytest
import trtforge_ops
from trtforge_plugins.tensorrt import TensorRT, adapter, plugin_nodes
from trtforge_plugins.tensorrt.library import Library
from trtforge_plugins.tensorrt.plugin import check_fields
from trtforge_plugins.tensorrt.quick_plugin import why_not

from trtforge import Context, CustomOp, EnvironmentLacks, Request
from trtforge.op_testing import call_model
from trtforge.targets import KNOWN

TESTS = Path(__file__).parent
OPS = {kind.name: kind for kind in trtforge_ops.OPS}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    bindings = os.environ.get("TRTFORGE_TENSORRT_BINDINGS")
    if not bindings:
        pytest.skip(
            "no bindings of TensorRT: pip install --no-deps --target DIR tensorrt-cu13-bindings, "
            "and set TRTFORGE_TENSORRT_BINDINGS=DIR"
        )
    if shutil.which("cc") is None or shutil.which("readelf") is None:
        pytest.skip("no C compiler and binutils for the empty libraries of the bindings")
    folder = tmp_path_factory.mktemp("bindings")
    script = runpy.run_path(str(TESTS.parent / "scripts" / "extract_tensorrt_api.py"))
    extension = Path(bindings, "tensorrt_bindings", "tensorrt.so")
    script["write_empty_libraries"](extension, folder)
    command = (sys.executable, "quick_plugin_run.py", folder / "kernels", folder / "answers.json")
    paths = {
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": os.pathsep.join([str(Path(bindings).absolute()), str(TESTS)]),
    }
    subprocess.run(command, cwd=TESTS, env={**os.environ, **paths}, check=True)
    return json.loads((folder / "answers.json").read_text())["answers"]


PLAIN = {
    "AddRMSNorm", "BiasGelu", "Bitwise", "GatedActivation", "InstanceNorm", "LayerNorm",
    "MaskedSoftmax", "QuantizeFloat8", "QuantizeInt8", "RMSNorm", "RMSNormQuantize",
    "RotaryEmbedding",
}  # fmt: skip
"""One kernel each, with a launch that is arithmetic on sizes."""
NEEDS_MORE = {
    "Compress": "the length of its outputs depends on the data",
    "GroupNorm": "scratch memory",
    "GroupNormNHWC": "scratch memory",
    "NonZero": "the length of its outputs depends on the data",
    "ScatterElements": "2 kernels",
    "Unique": "the length of its outputs depends on the data",
}


@pytest.mark.slow
def test_each_op_is_such_a_plugin_or_has_a_reason(answers):
    """The others' launches may come to be written as arithmetic; then they are held to it, too."""
    for op, _ in op_cases.CASES:
        reason = answers[f"{op}"]
        if op.op_type in NEEDS_MORE:
            assert NEEDS_MORE[op.op_type] in reason
        assert reason == "" or op.op_type not in PLAIN


@pytest.mark.slow
def test_dynamic_shapes_bring_one_tactic_per_choice_of_the_op(answers):
    assert (answers["tactics"], answers["dynamic"]) == ("3", "")


@dataclass(frozen=True)
class Dotted(trtforge_ops.RMSNorm):
    name = "com.acme::RMSNorm"


@dataclass(frozen=True)
class Greedy(trtforge_ops.RMSNorm):
    def launch(self, inputs, outputs, tactic):
        from trtforge import Launch

        return Launch(1, 32, shared_bytes=64 * 1024)


def test_reasons_that_no_shipped_op_has():
    assert "no namespace 'com.acme'" in why_not(Dotted(), [2, 1])
    assert "more than 48 KiB" in why_not(Greedy(), [2, 1])


def test_the_module_is_taken_where_this_tensorrt_has_such_plugins():
    assert adapter.quick_plugins(SimpleNamespace(), "tensorrt_rtx") is None
    having = SimpleNamespace(QuickPluginCreationRequest=1)
    assert adapter.quick_plugins(having, "json") is None  # there is no module json.plugin


def test_bindings_that_misread_fields_are_refused():
    """Seen in 10.13.3.9 and 10.15.1.29 with NumPy 2: each entry is read as the first."""

    def field(_name, array, _kind):
        return SimpleNamespace(data=array[:1].repeat(len(array)))

    misreading = SimpleNamespace(
        __version__="10.13.3.9", PluginField=field, PluginFieldType=SimpleNamespace(CHAR=1)
    )
    with pytest.raises(EnvironmentLacks, match=r"10\.13\.3\.9 misread the fields of plugins"):
        check_fields(misreading)


def swapped(op: CustomOp, shapes, tmp_path, dtype="float16"):
    model = call_model(op, shapes, dtype, 20)
    ctx = Context(model, tmp_path, Request("one", targets=(KNOWN["sm_89"],)), ops=OPS)
    return plugin_nodes.with_plugins(model, "auto", ctx.request.targets, ctx), ctx


def test_an_op_that_cannot_be_one_is_noted_with_the_reason(tmp_path):
    plugins, ctx = swapped(trtforge_ops.GroupNorm(4), [(1, 8, 2, 2), (8,), (8,)], tmp_path)
    assert plugins.ahead_of_time(ctx) == []
    (note,) = ctx.notes
    assert "the engine needs Python to run trtforge::GroupNorm" in note.text
    assert "scratch memory" in note.text


def test_an_input_of_unknown_rank_is_noted(tmp_path):
    plugins, ctx = swapped(trtforge_ops.RMSNorm(), [(2, 8), (8,)], tmp_path)
    assert plugins.ahead_of_time(ctx) == ["trtforge_ops.rms_norm:RMSNorm"]
    next(iter(plugins.model.graph)).inputs[0].shape = None
    assert plugins.ahead_of_time(ctx) == []
    assert "rank" in ctx.notes[0].text


@pytest.mark.parametrize("flavor", ["tensorrt", "tensorrt_rtx"])
def test_only_tensorrt_itself_is_asked_for_such_plugins(flavor, tmp_path, monkeypatch):
    """What the worker process is told; TensorRT itself is not here, so it is not started."""
    from trtforge_plugins.tensorrt import backend

    asked = []

    def call(_self, _function, order, *_rest):
        asked.append(order.ahead_of_time)
        return {"refused": [], "failed": "not built", "errors": [], "warnings": []}

    monkeypatch.setattr(backend, "find", lambda _flavor: Library(flavor, "11"))
    monkeypatch.setattr(TensorRT, "_targets", lambda *_: (KNOWN["sm_89"],))
    monkeypatch.setattr(TensorRT, "_call", call)
    model = call_model(trtforge_ops.RMSNorm(), [(2, 8), (8,)], "float16", 20)
    ctx = Context(model, tmp_path, Request("one", targets=(KNOWN["sm_89"],)), ops=OPS)
    with pytest.raises(Exception, match="not built"):
        TensorRT().build(model, ctx)
    expected = ["trtforge_ops.rms_norm:RMSNorm"] if flavor == "tensorrt" else []
    assert asked == [expected]
    assert isinstance(model, ir.Model)
