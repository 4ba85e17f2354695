"""Inputs and outputs: frozen, converted beside the engine; functions and sequences resolved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from conversion import needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from trtforge_plugins.clean import FoldConstants
from trtforge_plugins.convert import (
    FreezeInputs,
    InlineFunctions,
    MakeConvertible,
    ResolveSequences,
    WidenTypes,
)
from trtforge_plugins.convert.beyond import BeyondTensorRt
from trtforge_plugins.convert.freeze_inputs import inputs_to_freeze

from trtforge import CustomOp, DataError, ModelError, RequestError, StepError, io_adapter
from trtforge.context import Context, Request
from trtforge.io_adapter import Adapted
from trtforge.reference import Reference
from trtforge.testing import apply, check_pass, run_model

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
SUM = f"""{HEAD} g (float[2,3] x, int64[1] axes, float[2] f) => (float[2] y)
    {{ s = ReduceSum <keepdims = 0> (x, axes) y = Add (s, f) }}"""


def test_a_frozen_input_is_gone_and_the_outputs_stay() -> None:
    x, f = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    after, count, _ = apply(FreezeInputs(values={"axes": [1]}), SUM)
    before = run_model(ir.from_onnx_text(SUM), {"x": x, "axes": np.array([1]), "f": f})
    assert count == 1
    assert [value.name for value in after.graph.inputs] == ["x", "f"]
    np.testing.assert_array_equal(run_model(after, {"x": x, "f": f})["y"], before["y"])
    assert apply(FreezeInputs(values={"axes": [1]}), after)[1] == 0


def test_a_frozen_input_keeps_its_value() -> None:
    after, _, _ = apply(FreezeInputs(values={"axes": [1]}), SUM)
    with pytest.raises(RequestError, match=r"'axes' is frozen to \[1\], not to \[0\]"):
        apply(FreezeInputs(values={"axes": [0]}), after)


def test_an_input_that_a_constant_is_computed_from_is_named() -> None:
    text = f"""{HEAD} g (float[2,8] x, float limit) => (float[2,n] y, int64[2,n] i)
        {{ c = Ceil (limit) k = Cast <to = 7> (c) one = Constant <value_ints = [1]> ()
           r = Reshape (k, one) [top] y, i = TopK (x, r) }}"""
    assert inputs_to_freeze(ir.from_onnx_text(text)) == {"limit": "k of TopK top"}
    found = text.replace("Ceil (limit)", "ReduceMax <keepdims = 0> (x)")
    assert inputs_to_freeze(ir.from_onnx_text(found)) == {}, "k depends on data"


def test_inputs_that_tensorrt_needs_as_constants_are_named_with_the_reason() -> None:
    assert inputs_to_freeze(ir.from_onnx_text(SUM)) == {"axes": "axes of ReduceSum ReduceSum -> s"}


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"axis": [1]}, "no input 'axis'"),
        ({"axes": [0.5]}, "cannot hold"),
        ({"axes": [1, 2]}, r"shape \[2\], not \[1\]"),
        ({"axes": [[1], [1, 2]]}, "different lengths"),
        ({"axes": "one"}, "not a number"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        apply(FreezeInputs(values=values), SUM)


UINT16 = f"{HEAD} g (uint16[3] x) => (uint16[3] y) {{ y = Add (x, x) }}"


def test_an_adapted_model_takes_and_gives_the_types_it_had() -> None:
    after, _, _ = apply(WidenTypes(interface="adapt"), UINT16)
    assert after.graph.inputs[0].dtype == after.graph.outputs[0].dtype == ir.DataType.INT32
    assert io_adapter.read(after.metadata_props)["x"] == Adapted("UINT16", "INT32")
    found = Reference(after).run({"x": np.array([1, 2, 2**16 - 1], np.uint16)})["y"]
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, [2, 4, 2**16 - 2])


def test_a_value_without_an_equal_is_named_with_its_input() -> None:
    with pytest.raises(DataError, match="'y' holds 70000, which uint16 cannot"):
        io_adapter.from_model({"y": Adapted("UINT16", "INT32")}, {"y": np.array([1, 70000])})


@pytest.mark.parametrize("text", ["[1]", "{", '{"x": {"given": "A"}}',
                                  '{"x": {"given": "NOPE", "now": "INT32"}}'])  # fmt: skip
def test_damaged_metadata_is_an_error_of_the_model(text: str) -> None:
    with pytest.raises(ModelError, match="damaged"):
        io_adapter.read({io_adapter.KEY: text})


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_uint64_keeps_its_bits_there_and_back(values: list[int]) -> None:
    entries = {"x": Adapted("UINT64", "INT64")}
    given_array = np.array(values, np.uint64)
    inner = io_adapter.to_model(entries, {"x": given_array})
    assert inner["x"].dtype == np.int64
    np.testing.assert_array_equal(io_adapter.from_model(entries, inner)["x"], given_array)


RECURSIVE = """<ir_version: 10, opset_import: ["" : 21, "d" : 1]>
g (float[2] x) => (float[2] y) { y = d.F (x) }
<domain: "d", opset_import: ["" : 21, "d" : 1]>
F (x) => (y) { y = d.F (x) }
"""


def test_a_function_that_calls_itself_is_named() -> None:
    with pytest.raises(StepError, match="cannot be inlined"):
        apply(InlineFunctions(), RECURSIVE)


def test_functions_of_custom_ops_stay(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "d" : 1]>
        g (float[2] x) => (float[2] y) { y = d.F (x) }
        <domain: "d", opset_import: ["" : 21]>
        F (x) => (y) { y = Relu (x) }"""
    ctx = Context(ir.from_onnx_text(text), tmp_path, Request("test"), ops={"d::F": CustomOp})
    assert InlineFunctions().run(ctx) == 0
    assert len(ctx.model.functions) == 1
    assert "custom op" in ctx.notes[0].text


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 7), step=st.integers(1, 4), position=st.integers(-7, 6))  # fmt: skip
def test_parts_of_a_split_are_those_of_the_sequence(length: int, step: int, position: int) -> None:
    parts = -(-length // step)
    text = f"""{HEAD} g (float[2,{length}] x) => (float y, int64 n)
        <int64 step = {{{step}}}, int64 at = {{{position % parts}}}>
        {{ s = SplitToSequence <axis = 1> (x, step)
           e = SequenceErase (s, at) i = SequenceInsert (e, x, at)
           a = SequenceAt (i, at) n = SequenceLength (s) y = ReduceSum <keepdims = 0> (a) }}"""
    x = np.arange(2 * length, dtype=np.float32).reshape(2, length)
    after = check_pass(ResolveSequences(), text, {"x": x})
    assert not {node.op_type for node in after.graph} & {"SplitToSequence", "SequenceAt"}


@pytest.mark.parametrize("op", sorted(BeyondTensorRt.ops))
def test_operators_beyond_tensorrt_are_refused_with_a_way_out(op: str) -> None:
    domain, _, op_type = op.rpartition("::")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    node = ir.node(op_type, [x], domain=domain, name="n")
    node.outputs[0].name = "y"
    imports = {"": 21, domain: 1} if domain else {"": 21}
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports=imports, name="g")
    _, count, notes = apply(MakeConvertible(), ir.Model(graph, ir_version=10))
    assert count == 0
    assert "beyond-tensorrt: left alone: " in notes[0].text


def test_a_constant_that_torch_casts_like_an_input_is_folded() -> None:
    text = f"""{HEAD} g (float[2] x) => (float[2] y) <double one = {{1.0}}, int64[1] two = {{2}}>
        {{ c = CastLike (one, x) e = Expand (c, two) y = Mul (x, e) }}"""
    after = check_pass(FoldConstants(), text, {"x": np.ones(2, np.float32)})
    assert [node.op_type for node in after.graph] == ["Mul"]


@needs_tensorrt
def test_tensorrt_builds_what_was_resolved_and_frozen() -> None:
    sequence = f"""{HEAD} g (float[2,4] x) => (float[2,2] y) <int64 two = {{2}}, int64 at = {{1}}>
        {{ s = SplitToSequence <axis = 1> (x, two) y = SequenceAt (s, at) }}"""
    jobs = {
        "frozen": apply(FreezeInputs(values={"axes": [1]}), SUM)[0],
        "adapted": apply(WidenTypes(interface="adapt"), UINT16)[0],
        "sequence": apply(ResolveSequences(), sequence)[0],
    }
    dumps = build_dumps({name: (ir.to_proto(model), ("SM89",)) for name, model in jobs.items()})
    assert set(dumps) == set(jobs)
