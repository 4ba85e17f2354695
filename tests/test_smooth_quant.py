"""smooth-quant: the products stay what they are, and one INT8 scale fits their input better."""

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.smooth_quant import SmoothQuant, smoothing_factors

from trtforge import Batches, Context, Range, Ranges, Request, StepError
from trtforge.compare import compare
from trtforge.testing import run_model

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
POST_NORM = (
    HEADER
    + """
post_norm (float[N,32] x) => (float[N,32] y)
<float[32] scale, float[32] bias, float[32,64] up, float[64] up_bias, float[64,32] down>
{
    [norm] a = LayerNormalization <axis=-1> (x, scale, bias)
    [up] b = MatMul (a, up)
    [up_bias] c = Add (b, up_bias)
    [relu] d = Relu (c)
    [down] e = MatMul (d, down)
    [residual] y = Add (e, a)
}
"""
)
PRE_NORM = (
    HEADER
    + """
pre_norm (float[N,32] x) => (float[N,48] y, float[N,16] z)
<float[32] scale, float[32] bias, float[32,48] w1, float[16,32] w2, float[16] b2>
{
    [norm] a = LayerNormalization <axis=-1> (x, scale, bias)
    [left] y = MatMul (a, w1)
    [right] z = Gemm <transB=1> (a, w2, b2)
}
"""
)


def loud(model: onnx.ModelProto, seed: int = 0, channels: int = 32) -> dict[str, np.ndarray]:
    """Normals in which every eighth channel is thirty times as large as the others."""
    x = np.random.default_rng(seed).standard_normal((64, channels)).astype(np.float32)
    x[:, ::8] *= 30
    return {"x": x}


def outlier_norm(text: str) -> onnx.ModelProto:
    """A model whose LayerNormalization amplifies two channels, as trained transformers do."""
    model = models.parse(text)
    scale = next(t for t in model.graph.initializer if t.name == "scale")
    array = np.ones(32, np.float32)
    array[[3, 17]] = 40
    scale.CopyFrom(onnx.numpy_helper.from_array(array, "scale"))
    return model


def context(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> Context:
    ctx = Context(ir.from_proto(model), Path(), Request("m"))
    ctx.put(Batches((feed,), "test"))
    return ctx


def smoothed(model: onnx.ModelProto, feed: dict[str, np.ndarray], **options: object) -> Context:
    ctx = context(model, feed)
    SmoothQuant(**options).run(ctx)
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=True)
    return ctx


def lines(ctx: Context) -> list[str]:
    return [
        f"{node.outputs[0].name} = {node.op_type}({', '.join(v.name for v in node.inputs)})"
        for node in ctx.model.graph
    ]


def int8_sqnr(ctx: Context, exact: dict[str, np.ndarray], feed: dict[str, np.ndarray]) -> float:
    CalibrateMax().run(ctx)
    InsertQDQ().run(ctx)
    return min(o.sqnr_db for o in compare([exact], [run_model(ctx.model, feed)]))


def test_a_norm_that_only_products_read_takes_the_division():
    ctx = smoothed(outlier_norm(PRE_NORM), loud(None), alpha=0.5)
    assert lines(ctx) == [
        "a = LayerNormalization(x, scale_smoothed, bias_smoothed)",
        "y = MatMul(a, w1_smoothed)",
        "z = Gemm(a, w2_smoothed, b2)",
    ]
    assert "scale" not in ctx.model.graph.initializers


def test_where_a_residual_reads_the_norm_a_mul_is_added():
    ctx = smoothed(outlier_norm(POST_NORM), loud(None), alpha=0.5)
    assert lines(ctx) == [
        "a = LayerNormalization(x, scale, bias)",
        "a_smoothed = Mul(a, a_inverse)",
        # A Relu lets positive factors pass, so the product before it takes the next ones.
        "b = MatMul(a_smoothed, up_smoothed_smoothed)",
        "c = Add(b, up_bias_smoothed)",
        "d = Relu(c)",
        "e = MatMul(d, down_smoothed)",
        "y = Add(e, a)",
    ]


def test_the_input_of_the_model_gets_a_mul_and_its_name_stays():
    model = models.parse(models.MLP)
    ctx = smoothed(model, loud(model, channels=64), alpha=0.5)
    assert lines(ctx)[0] == "x_smoothed = Mul(x, x_inverse)"
    assert [value.name for value in ctx.model.graph.inputs] == ["x"]


@pytest.mark.parametrize("text", [PRE_NORM, POST_NORM])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1))
def test_the_outputs_stay(text, seed, alpha):
    model = models.parse(text, seed)
    feed = loud(model, seed)
    before = run_model(model, feed)
    after = run_model(smoothed(model, feed, alpha=alpha).model, feed)
    # Each factor is rounded twice: 2**-22 of the sum of magnitudes, far above 100 dB.
    assert all(found.sqnr_db > 110 for found in compare([before], [after]))


@pytest.mark.parametrize("text", [PRE_NORM, POST_NORM])
def test_int8_is_much_nearer_with_it(text):
    model, feed = outlier_norm(text), loud(None)
    exact = run_model(model, feed)
    plain = int8_sqnr(context(model, feed), exact, feed)
    assert int8_sqnr(smoothed(model, feed), exact, feed) > plain + 6


def test_even_channels_are_left_alone_and_said_so():
    model = models.parse(models.MLP)
    feed = {"x": np.random.default_rng(0).uniform(-1, 1, (64, 64)).astype(np.float32)}
    ctx = smoothed(model, feed)
    assert "x_smoothed" not in " ".join(lines(ctx))
    assert any("no scale is better" in note.text for note in ctx.notes if note.node == "x")


def test_a_second_run_finds_nothing_to_do():
    ctx = smoothed(outlier_norm(PRE_NORM), loud(None), alpha=0.5)
    assert SmoothQuant(alpha=0.5).run(ctx) == 0


def test_a_weight_that_something_else_reads_keeps_its_values_for_it():
    text = (
        HEADER
        + """
    shared (float[N,32] x, float[N,32] other) => (float[N,32] y, float[N,32] z)
    <float[32,32] w>
    {
        [one] y = MatMul (x, w)
        [two] a = Relu (other)
        [three] z = MatMul (a, w)
    }
    """
    )
    model = models.parse(text)
    feed = {"x": loud(None)["x"], "other": loud(None, 1)["x"]}
    before = run_model(model, feed)
    after = run_model(smoothed(model, feed, alpha=0.5).model, feed)
    assert all(found.sqnr_db > 110 for found in compare([before], [after]))


def test_a_calibrator_before_it_is_refused():
    ctx = context(models.parse(models.MLP), loud(None, channels=64))
    ctx.put(Ranges({"x": Range(-1, 1)}, "max", 1, "test"))
    with pytest.raises(StepError, match="already chosen") as caught:
        SmoothQuant().run(ctx)
    assert "before the calibrator" in caught.value.remedy


def test_nan_in_the_data_is_named():
    model = models.parse(models.MLP)
    feed = loud(model, channels=64)
    feed["x"][3, 5] = np.nan
    with pytest.raises(StepError, match=r"tensor 'x' holds NaN on batch 0 of test"):
        smoothed(model, feed)


def test_dead_channels_and_zero_weights_get_factor_one():
    amax = np.array([0, 1, 4, 2], np.float32)
    weight = np.array([[1, 1], [0, 0], [1, 0], [0, 2]], np.float32)
    factors = smoothing_factors(amax, [weight], 0.5)
    assert factors[0] == factors[1] == 1
    # equation 4: sqrt(4 / 1) and sqrt(2 / 2), over their geometric mean
    assert factors[2:] == pytest.approx(np.array([2, 1]) / np.sqrt(2))
    assert (smoothing_factors(np.zeros(4), [weight], 0.5) == 1).all()
