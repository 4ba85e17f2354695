"""The verify step and the --verify-each wrapper, on models where the answer is known."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pluggy
import pytest
import trtforge_plugins
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trtforge_plugins.verify import Verify

from trtforge import (
    Batches,
    Comparison,
    Context,
    DataError,
    ModelError,
    Pass,
    Request,
    StepError,
    frozen_inputs,
    hooks,
)
from trtforge.compare import meets
from trtforge.context import Requirements
from trtforge.hooks import PROJECT, hookimpl

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
SCORES = "m (float[N,3] x) => (float[N,3] y) { %s }"


def model(body: str, form: str = SCORES) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(HEADER + form.replace("%s", body)))


def context(tmp_path: Path, given: ir.Model, final: ir.Model, **request) -> Context:
    path = tmp_path / "given.onnx"
    ir.save(given, path)
    return Context(final, tmp_path, Request(str(path), **request), given=path)


def verified(ctx: Context, step: Verify | None = None) -> Comparison:
    assert (step or Verify()).run(ctx) == 0
    return ctx.get(Comparison)


def test_a_faithful_rewrite_passes(tmp_path):
    ctx = context(
        tmp_path,
        model("a = Add (x, x)  y = Softmax (a)"),
        model("a = Add (x, x)  y = Softmax <axis=-1> (a)"),
    )
    result = verified(ctx)
    assert meets(result, Requirements(cosine=1.0, sqnr=100.0, top1_agreement=1.0)) == []


def test_made_up_data_is_said_to_be_made_up(tmp_path):
    ctx = context(tmp_path, model("y = Relu (x)"), model("y = Relu (x)"))
    result = verified(ctx, Verify(count=5, seed=3))
    assert (result.real, result.data, result.samples) == (False, "synthesized (seed 3)", 5)
    assert "no accuracy on real data" in ctx.notes[0].text


def test_a_changed_value_is_seen(tmp_path):
    ctx = context(tmp_path, model("y = Relu (x)"), model("y = Neg (x)"))
    result = verified(ctx)
    assert meets(result, Requirements(cosine=0.99))


SUM = "m (float[2,3] x, int64[k] axes) => (float[n] y) { %s }"


def frozen_sum(**values: np.ndarray) -> ir.Model:
    """The sum over an axis that is a constant, with what the metadata say that it is."""
    final = model(
        "a = Constant <value_ints=[1]> ()  y = ReduceSum <keepdims=0> (x, a)",
        "m (float[2,3] x) => (float[n] y) { %s }",
    )
    frozen_inputs.write(final.metadata_props, values)
    return final


def test_the_given_model_gets_the_values_that_inputs_were_frozen_to(tmp_path):
    given = model("y = ReduceSum <keepdims=0> (x, axes)", SUM)
    result = verified(context(tmp_path, given, frozen_sum(axes=np.array([1]))))
    assert meets(result, Requirements(cosine=1.0, sqnr=100.0)) == []
    result = verified(context(tmp_path, given, frozen_sum(axes=np.array([0]))))
    assert meets(result, Requirements(cosine=0.99)), "the metadata say another axis"


def test_data_with_another_value_for_a_frozen_input_is_refused(tmp_path):
    given = model("y = ReduceSum <keepdims=0> (x, axes)", SUM)
    ctx = context(tmp_path, given, frozen_sum(axes=np.array([1])))
    ctx.put(Batches(({"x": np.ones((2, 3), np.float32), "axes": np.array([0])},), "test"))
    with pytest.raises(DataError, match=r"'axes' is frozen to \[1\], and the data says \[0\]"):
        verified(ctx)


@given(
    arrays(
        st.sampled_from([np.bool_, np.int64, np.uint8, np.float16, np.float32, np.float64]),
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
    )
)
def test_frozen_values_are_recorded_exactly(array):
    metadata = {}
    frozen_inputs.write(metadata, {"a": array})
    found = frozen_inputs.read(metadata)["a"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", '{"x": {"type": "INT64"}}', '{"x": {"type": "N", "shape": [], "values": [1]}}'],
)
def test_damaged_metadata_of_frozen_inputs_is_an_error_of_the_model(text):
    with pytest.raises(ModelError, match="damaged"):
        frozen_inputs.read({frozen_inputs.KEY: text})


def test_labels_give_the_task_accuracy_of_both_models(tmp_path):
    ctx = context(tmp_path, model("y = Identity (x)"), model("y = Neg (x)"))
    feed = np.eye(3, dtype=np.float32)
    ctx.put(
        Batches(({"x": feed}, {"x": feed[:2]}), "two batches", labels=np.array([0, 1, 0, 0, 2]))
    )
    result = verified(ctx)
    assert result.samples == 5
    assert result.real
    # Identity is right on samples 0, 1, 3. Neg: argmax of -e_i is 1, 0, 0, 1, 0.
    assert result.accuracy == {"given": 3 / 5, "final": 1 / 5}


def test_labels_without_scores_give_no_accuracy_and_a_note(tmp_path):
    form = "m (float[N,3] x) => (float[M] y) { %s }"
    body = "k = Constant <value_ints=[-1]> ()  y = Reshape (x, k)"
    ctx = context(tmp_path, model(body, form), model(body, form))
    ctx.put(Batches(({"x": np.ones((2, 3), np.float32)},), "test", labels=np.array([0, 1])))
    assert verified(ctx).accuracy == {}
    assert "no task accuracy" in ctx.notes[0].text


@pytest.mark.parametrize(
    ("final", "problem"),
    [
        ("m (float[N,3] z) => (float[N,3] y) { y = Relu (z) }", "no input 'x'"),
        ("m (float[N,3] x, float[3] z) => (float[N,3] y) { y = Add (x, z) }", "further input 'z'"),
        ("m (int64[N,3] x) => (float[N,3] y) { y = Cast <to=1> (x) }", "type int64 instead of"),
        ("m (float[N,3] x) => (float[N,3] q) { q = Relu (x) }", "the output is missing"),
        ("m (float[N,3] x) => (float[3,N] y) { y = Transpose (x) }", "shape 3x4 instead of 4x3"),
        ("m (float[N,3] x) => (int64[N,3] y) { y = Cast <to=7> (x) }", "type int64 instead of"),
    ],
)
def test_another_interface_is_a_problem(tmp_path, final, problem):
    ctx = context(tmp_path, model("y = Relu (x)"), model("", final))
    result = verified(ctx)
    assert problem in result.outputs[0].problem
    assert meets(result, Requirements())


def test_float16_inputs_and_outputs_are_compared_by_value(tmp_path):
    half = "m (float16[N,3] x) => (float16[N,3] y) { y = Relu (x) }"
    result = verified(context(tmp_path, model("y = Relu (x)"), model("", half)))
    # the inputs' rounding to 11 bits: 20 log10(2**11 * sqrt(3)) = 71 dB
    assert 65 < result.outputs[0].sqnr_db < 80


def test_without_a_given_model_it_says_so(tmp_path):
    with pytest.raises(StepError, match="no given model"):
        Verify().run(Context(model("y = Relu (x)"), tmp_path, Request("m.onnx")))


class ToNeg(Pass):
    """Break the model."""

    name = "to-neg"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        for node in model.graph:
            node.op_type = "Neg"
        return len(model.graph)


class Rename(Pass):
    """Change a model, but none of its values."""

    name = "rename"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        for node in model.graph:
            node.name = "new"
        return len(model.graph)


class Nothing(Pass):
    """Leave the model alone."""

    name = "nothing"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        return 0


def run_with_wrapper(step: Pass, ctx: Context) -> int:
    class Host:
        @hookimpl(trylast=True)
        def trtforge_run_step(self, step, ctx):
            return step.run(ctx)

    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(hooks)
    plugins.register(Host())
    plugins.register(trtforge_plugins)
    return plugins.hook.trtforge_run_step(step=step, ctx=ctx)


@pytest.mark.parametrize(
    ("step", "note"),
    [(ToNeg(), "CHANGED VALUES on 4 synthesized"), (Rename(), "values kept"), (Nothing(), None)],
)
def test_verify_each_names_the_step_that_changed_values(tmp_path, step, note):
    given = model("y = Relu (x)")
    ctx = context(tmp_path, given, given, verify_each=True)
    assert run_with_wrapper(step, ctx) == (0 if note is None else 1)
    assert [note in text.text for text in ctx.notes] == ([] if note is None else [True])


def test_verify_each_is_silent_unless_asked_for(tmp_path):
    given = model("y = Relu (x)")
    ctx = context(tmp_path, given, given)
    run_with_wrapper(ToNeg(), ctx)
    assert ctx.notes == []


class Break(Pass):
    """Make a model that does not run."""

    name = "break"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        for node in model.graph:
            node.op_type = "Frobnicate"
        return 1


def test_verify_each_survives_a_model_that_does_not_run(tmp_path):
    given = model("y = Relu (x)")
    ctx = context(tmp_path, given, given, verify_each=True)
    run_with_wrapper(Break(), ctx)
    assert "could not be compared" in ctx.notes[0].text
