"""cast: a strongly typed model with Casts only where float32 meets the lower type."""

from collections import Counter
from pathlib import Path

import ml_dtypes
import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import random_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trtforge_plugins.precision import half_range
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.quantized_weights import requantize

from trtforge import Batches, CastTo, Context, CustomOp, Request, StepError
from trtforge.reference import Reference
from trtforge.testing import check_pass, run_model

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
# float16 keeps 11 bits: each rounding is within 2^-11; sums of some dozens of them stay within 1 %.
HALF = {"rtol": 1e-2, "atol": 1e-2}


def cast(text: str, **options: object) -> Context:
    ctx = Context(ir.from_proto(models.parse(HEADER + text)), Path(), Request("m"))
    Cast(**options).run(ctx)
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=True)
    return ctx


def lines(ctx: Context) -> list[str]:
    """One line per node: result = Operator(inputs), with the type of a Cast."""
    return [
        f"{node.outputs[0].name} = {node.op_type}"
        + (
            f"<{ir.DataType(node.attributes['to'].as_int()).name}>"
            if node.op_type == "Cast"
            else ""
        )
        + f"({', '.join(value.name if value else '' for value in node.inputs)})"
        for node in ctx.model.graph.all_nodes()
    ]


def casts(ctx: Context) -> int:
    return sum(node.op_type == "Cast" for node in ctx.model.graph.all_nodes())


def kept(ctx: Context) -> dict[str, str]:
    return dict(ctx.get(CastTo).kept)


# Where Casts go


def test_one_cast_at_each_border_and_none_between():
    ctx = cast("""
        m (float[N,4] x) => (float[N,4] y) <float[4,4] w>
        { [a] a = MatMul (x, w)  [b] b = Relu (a)  [c] c = Add (b, x)  [d] y = Tanh (c) }""")
    assert lines(ctx) == [
        "x_float16 = Cast<FLOAT16>(x)",
        "a = MatMul(x_float16, w_float16)",
        "b = Relu(a)",
        "c = Add(b, x_float16)",
        "y_float16 = Tanh(c)",
        "y = Cast<FLOAT>(y_float16)",
    ]
    assert ctx.model.graph.initializers["w_float16"].dtype == ir.DataType.FLOAT16
    assert list(ctx.model.graph.initializers) == ["w_float16"]
    assert ctx.get(CastTo) == CastTo("float16", {}, casts_before=0, casts_after=2)


def test_interface_types_may_change_when_asked():
    ctx = cast("m (float[N] x) => (float[N] y) { y = Relu (x) }", keep_io=False)
    assert lines(ctx) == ["y = Relu(x)"]
    assert (
        ctx.model.graph.inputs[0].dtype == ctx.model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    )


def test_a_kept_node_costs_one_cast_on_each_side_also_for_many_uses():
    ctx = cast(
        """m (float[N,4] x) => (float[N,4] y) <float[4,4] w>
        { [a] a = MatMul (x, w) [big] b = Exp (a) [c] c = MatMul (b, w) [d] d = MatMul (w, b)
          [e] y = MatMul (c, d) }""",
        keep=("big",),
    )
    assert casts(ctx) == 4  # x, a, b, y
    assert kept(ctx) == {"big": "named by keep pattern 'big'"}


def test_data_movement_between_kept_nodes_needs_no_cast():
    ctx = cast(
        """m (float[2,8] x) => (float[4,4] y) <int64[2] s = {4, 4}>
        { [one] a = Exp (x) [move] b = Reshape (a, s) [turn] c = Transpose (b)
          [two] y = Log (c) }""",
        keep=("one", "two"),
    )
    assert casts(ctx) == 0


def test_shape_arithmetic_stays_as_it_is():
    ctx = cast("""
        m (float[N,4] x) => (float[A,B] y) <int64[1] minus = {-1}, float[2] half = {0.5, 2.0}>
        { [a] a = Exp (x) [s] s = Shape (a) [f] f = Cast <to=1> (s) [m] m = Mul (f, half)
          [i] i = Cast <to=7> (m) [r] y = Reshape (a, i) }""")
    assert kept(ctx) == {"m": "it is computed from integers only"}
    assert "m = Mul(f, half)" in lines(ctx)
    assert casts(ctx) == 4  # x, y, and the two of the model


def test_inputs_that_onnx_wants_in_float32_stay():
    ctx = cast("""
        m (float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] scales = {1.0, 1.0, 2.0, 2.0}>
        { [r] y = Resize <mode="nearest"> (x, , scales) }""")
    assert "y_float16 = Resize(x_float16, , scales)" in lines(ctx)


def test_casts_of_the_model_are_retyped_and_idle_ones_removed():
    ctx = cast("""
        m (float[N] x, int64[N] k) => (float[N] y)
        { [up] d = Cast <to=10> (x) [back] a = Cast <to=1> (d) [int] b = Cast <to=1> (k)
          [add] c = Add (x, b) [mul] y = Mul (c, c) }""")
    assert "b = Cast<FLOAT16>(k)" in lines(ctx)


def test_what_the_model_computes_in_float32_itself_stays_so():
    """As T5's norms: x is float16, its square would overflow."""
    text = """
        m (float16[N,8] x) => (float16[N,8] y) <float[1] two = {2.0}>
        { [a] a = Neg (x) [up] b = Cast <to=1> (a) [square] c = Pow (b, two)
          [norm] d = ReduceMean <keepdims=1> (c) [root] e = Sqrt (d) [over] f = Div (b, e)
          [down] g = Cast <to=10> (f) [h] y = Neg (g) }"""
    ctx = cast(text)
    assert casts(ctx) == 2
    assert set(kept(ctx)) == {"square", "norm", "root", "over"}
    assert Cast().run(Context(ctx.model, Path(), Request("m"))) == 0


# Constants


@pytest.mark.parametrize(
    ("number", "text"), [("1e-12", "1e-12 becomes 0"), ("1e30", "1e+30 is outside the range")]
)
def test_a_constant_that_float16_cannot_hold_keeps_its_node(number, text):
    ctx = cast(f"""
        m (float[N,4] x) => (float[N,4] y) <float[4,4] w, float e = {{{number}}}>
        {{ [a] a = MatMul (x, w) [eps] b = Add (a, e) [c] y = MatMul (b, w) }}""")
    assert text in kept(ctx)["eps"]
    assert "b = Add(a_float32, e)" in lines(ctx)
    assert [note.node for note in ctx.notes] == ["eps"]
    assert casts(cast("m (float[N] x) => (float[N] y) { y = Relu (x) }", to="bfloat16")) == 2


def test_mask_constants_stay_finite():
    """Of a row that is masked everywhere, -inf would make NaN."""
    low = float(np.finfo(np.float32).min)
    text = f"""
        m (float[N,4] x, int64[N,4] mask) => (float[N,4] y)
        <float one = {{1.0}}, float low = {{{low}}}>
        {{ [f] f = Cast <to=1> (mask) [i] i = Sub (one, f) [m] m = Mul (i, low) [a] a = Add (x, m)
           [s] y = Softmax (a) }}"""
    ctx = cast(text)
    feed = {
        "x": np.float32([[-60, 2, 3, 4], [1, 2, 3, 4]]),
        "mask": np.int64([[0, 0, 0, 0], [1, 1, 0, 0]]),
    }
    y = run_model(ctx.model, feed)["y"]
    assert np.isfinite(y).all()
    np.testing.assert_allclose(
        y[1], run_model(models.parse(HEADER + text), feed)["y"][1], atol=1e-3
    )
    assert any("mask value" in note.text for note in ctx.notes)


@given(arrays(np.float32, 20, elements=st.floats(-65504, 65504, width=32)))
def test_a_tensor_passes_the_range_check_only_if_float16_keeps_it(array):
    reason = half_range.why_not(array, ir.DataType.FLOAT16)
    error = np.linalg.norm(array.astype(np.float64) - array.astype(np.float16).astype(np.float64))
    norm = np.linalg.norm(array.astype(np.float64))
    # The check works in float32; 2 % covers its own rounding near the limit.
    assert (reason is None) or error > 0.98e-3 * norm
    assert (reason is not None) or error <= 1.02e-3 * norm


# Subgraphs and functions


IF = """
m (float[N] x, bool c) => (float[N] y) <float[1] w = {2.0}>
{ [a] a = Relu (x)
  [if] b = If (c) <
    then_branch = g () => (float[N] p) { [t] p = Mul (a, w) },
    else_branch = h () => (float[N] q) { [k] k = Constant <value = float[1] {3.0}> ()
                                         [e] q = Add (a, k) } >
  [z] y = Neg (b) }
"""
LOOP = """
m (float[N] x) => (float[N] y) <int64 n = {3}, bool go = {1}, float[1] w = {0.5}>
{ [loop] y = Loop (n, go, x) <
    body = g (int64 i, bool c, float[N] v) => (bool d, float[N] r)
    { [d] d = Identity (c) [s] s = Add (v, x) [r] r = Mul (s, w) } > }
"""


@pytest.mark.parametrize("keep", [(), ("if",), ("t",), ("loop",), ("s",)])
@pytest.mark.parametrize("text", [IF, LOOP])
def test_subgraphs_are_typed_as_their_node_is(text, keep):
    model = models.parse(HEADER + text)
    feed = {"x": np.float32([1.5, -2, 3])}
    feeds = [feed | {"c": np.array(c)} for c in (True, False)] if "bool c)" in text else [feed]
    check_pass(Cast(keep=keep), model, feeds, **HALF)


def test_a_branch_costs_no_cast():
    assert casts(cast(IF)) == casts(cast(LOOP)) == 2


FUNCTION = """
<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
m (float[4,4] x) => (float[4,4] y)
{ [a] a = MatMul (x, x) [call] b = my.f (a) [c] y = MatMul (b, b) }
<domain: "my", opset_import: ["" : 21]>
f (v) => (r) { k = Constant <value = float[1] {2.0}> () r = Mul (v, k) }
"""


def test_a_function_with_float32_inside_is_called_in_float32():
    feed = {"x": np.eye(4, dtype=np.float32)}
    ctx = Context(check_pass(Cast(), models.parse(FUNCTION), feed, **HALF), Path(), Request("m"))
    assert casts(ctx) == 4
    generic = FUNCTION.replace(
        "k = Constant <value = float[1] {2.0}> () r = Mul (v, k)", "r = Mul (v, v)"
    )
    ctx = Context(check_pass(Cast(), models.parse(generic), feed, **HALF), Path(), Request("m"))
    assert casts(ctx) == 2


def test_a_custom_op_runs_in_the_types_of_its_kernel():
    class Twice(CustomOp):
        name = "my::f"
        dtypes = ("float32", "float16")

    for dtypes, expected in ((("float32", "float16"), 2), (("float32",), 4)):
        op = type("Op", (Twice,), {"dtypes": dtypes})
        ctx = Context(
            ir.from_proto(models.parse(FUNCTION)), Path(), Request("m"), ops={"my::f": op}
        )
        Cast().run(ctx)
        assert casts(ctx) == expected


# Q/DQ


def quantized(text: str) -> Context:
    model = models.parse(text)
    ctx = Context(ir.from_proto(model), Path(), Request("m"))
    shape = [dim.dim_value or 4 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ctx.put(Batches(({"x": x},), "test"))
    CalibrateMax().run(ctx)
    InsertQDQ().run(ctx)
    return ctx


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
def test_scales_take_the_type_of_the_tensors_around_them(to):
    """Q reads the float32 input as it is, so no Cast stands before it."""
    ctx = quantized(models.RESIDUAL.replace('"" : 21', '"" : 22'))
    feed = ctx.get(Batches).feeds[0]
    exact = Reference(ctx.model).run(feed)["y"]
    Cast(to=to).run(ctx)
    codes = "w1_quantized" if to == "float16" else "w1_quantized_bfloat16"
    assert lines(ctx)[:3] == [
        "x_QuantizeLinear = QuantizeLinear(x, x_scale, zero_int8)",
        f"x_DequantizeLinear = DequantizeLinear(x_QuantizeLinear, x_scale_{to}, zero_int8)",
        f"w1_DequantizeLinear = DequantizeLinear({codes}, w1_scale_{to})",
    ]
    assert casts(ctx) == 1
    assert Cast(to=to).run(Context(ctx.model, Path(), Request("m"))) == 0
    changed = Reference(ctx.model).run(feed)["y"]
    # One quantization step more or less here and there: well below the step itself (3 %).
    assert np.linalg.norm(changed - exact) < 0.02 * np.linalg.norm(exact)


def test_a_kept_convolution_keeps_its_scales_in_float32():
    ctx = quantized(models.RESIDUAL)
    Cast(keep=("conv1",)).run(ctx)
    assert "w1_DequantizeLinear = DequantizeLinear(w1_quantized, w1_scale)" in lines(ctx)
    assert "a = Conv(x_DequantizeLinear, w1_DequantizeLinear, b1)" in lines(ctx)
    # The residual Add shares x with it and leads to the float32 output: only conv2 needs a Cast.
    assert [line for line in lines(ctx) if "Cast" in line] == ["c_float32 = Cast<FLOAT>(c)"]


def test_old_opsets_without_half_scales_are_refused():
    with pytest.raises(StepError, match="upgrade-opset"):
        Cast().run(quantized(models.RESIDUAL.replace('"" : 21', '"" : 13')))
    with pytest.raises(StepError, match=r"Conv: no bfloat16 in opset 21.*\n.*to 22"):
        Cast(to="bfloat16").run(quantized(models.RESIDUAL))


@given(
    arrays(np.float32, 4, elements=st.floats(2.0**-40, 2.0**10, width=32)),
    st.sampled_from([ir.DataType.FLOAT16, ir.DataType.BFLOAT16]),
)
def test_half_scales_are_positive_and_clip_nothing(scales, low):
    rounded = half_range.low_scales(scales, low)
    assert rounded.dtype == low.numpy()
    wide = rounded.astype(np.float32)
    assert (wide >= scales).all()
    tiny = 2.0**-24 if low == ir.DataType.FLOAT16 else 0.0
    step = 2.0**-10 if low == ir.DataType.FLOAT16 else 2.0**-7
    assert (wide <= scales * (1 + step) + tiny).all()


@given(
    arrays(np.int8, (3, 6), elements=st.integers(-127, 127)),
    arrays(np.float32, 3, elements=st.floats(2.0**-14, 1, width=32)),
)
def test_codes_follow_a_scale_that_was_rounded(codes, scales):
    new = half_range.low_scales(scales, ir.DataType.BFLOAT16).astype(np.float32)
    changed = requantize(codes, scales, new, axis=0)
    after = (codes if changed is None else changed).astype(np.float64) * new[:, None]
    before = codes.astype(np.float64) * scales[:, None]
    # Half a step of the new scale, plus the half code below which nothing is done.
    assert (
        np.abs(after - before) <= new[:, None] * 1.001 * (0.5 if changed is not None else 0.501)
    ).all()


# The rules of every pass


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(random_models.models())
def test_every_rule_of_a_pass_on_random_models(model):
    """Values are compared loosely: random models may amplify float16's rounding."""
    check_pass(Cast(), model, random_models.feeds(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("text", [models.CONV_RELU, models.RESIDUAL, models.MLP])
def test_every_rule_of_a_pass_on_real_structures(text):
    model = models.parse(text)
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    check_pass(Cast(), model, feed, rtol=2e-2, atol=2e-2)


def test_a_bert_keeps_its_mask_in_float32():
    model = models.bert()
    ctx = Context(ir.from_proto(model), Path(), Request("m"))
    Cast().run(ctx)
    # The end of the pooling is float32 as the mask is before it and the output behind it.
    assert Counter(kept(ctx).values()) == {
        "it is computed from integers only": 4,
        "between nodes that stay in float32 it saves Casts": 5,
    }
    assert casts(ctx) == 3  # the mask's own, into the scores, into the pooling
    feed = models.bert_feed(3, 16, 128)
    exact, half = (run_model(m, feed)["embedding"] for m in (model, ctx.model))
    np.testing.assert_allclose(half, exact, **HALF)


def test_a_float16_model_is_left_as_it_is():
    ctx = Context(ir.from_proto(models.bert()), Path(), Request("m"))
    Cast(keep_io=False).run(ctx)
    assert ctx.model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    assert Cast(keep_io=False).run(Context(ctx.model, Path(), Request("m"))) == 0
    assert Cast().run(Context(ctx.model, Path(), Request("m"))) == 0


def test_weights_are_converted_as_numpy_does():
    ctx = cast(
        "m (float[N,8] x) => (float[N,4] y) <float[8,4] w> { y = MatMul (x, w) }", to="bfloat16"
    )
    given_weight = next(
        iter(
            models.parse(
                HEADER + "m (float[N,8] x) => (float[N,4] y) <float[8,4] w> { y = MatMul (x, w) }"
            ).graph.initializer
        )
    )
    expected = onnx.numpy_helper.to_array(given_weight).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(
        ctx.model.graph.initializers["w_bfloat16"].const_value.numpy(), expected
    )
