"""calibrate-max and insert-qdq: where Q/DQ goes, with which scales, and why not elsewhere."""

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.quantized_weights import FORMATS, channel_scales, quantize

from trtforge import Batches, Context, Quantized, Range, Ranges, Request, StepError
from trtforge.testing import run_model

Feed = dict[str, np.ndarray]


def noise(model: onnx.ModelProto, seed: int = 0, batch: int = 4) -> Feed:
    random = np.random.default_rng(seed)
    return {
        value.name: random.standard_normal(
            [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in model.graph.input
    }


def calibrated(model: onnx.ModelProto, feeds: list[Feed] | None = None) -> Context:
    ctx = Context(ir.from_proto(model), Path(), Request("m"))
    feeds = feeds or [noise(model)]
    ctx.put(Batches(tuple(feeds), "test"))
    assert CalibrateMax().run(ctx) == 0
    return ctx


def quantized(text: str, **options: object) -> Context:
    ctx = calibrated(models.parse(text))
    InsertQDQ(**options).run(ctx)
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=True)
    return ctx


def constant(ctx: Context, name: str) -> np.ndarray:
    return ctx.model.graph.initializers[name].const_value.numpy()


def lines(ctx: Context) -> list[str]:
    """The graph as one line per node: result = Operator(inputs)."""
    return [
        f"{node.outputs[0].name} = {node.op_type}({', '.join(v.name for v in node.inputs)})"
        for node in ctx.model.graph
    ]


def notes(ctx: Context) -> dict[str, str]:
    return {note.node: note.text for note in ctx.notes}


# calibrate-max


def test_ranges_are_the_extremes_over_all_batches():
    model = models.parse(models.MLP)
    feeds = [noise(model, seed) for seed in range(3)]
    ranges = calibrated(model, feeds).get(Ranges)
    assert set(ranges.by_tensor) == {"x", "c"}  # what insert-qdq needs, nothing else
    stacked = np.concatenate([feed["x"] for feed in feeds])
    assert ranges.by_tensor["x"] == Range(float(stacked.min()), float(stacked.max()))
    hidden = ir.from_proto(model)
    hidden.graph.outputs.append(next(n for n in hidden.graph if n.name == "act").outputs[0])
    hidden.graph.outputs[1].type = ir.TensorType(ir.DataType.FLOAT)
    highest = max(run_model(hidden, feed)["c"].max() for feed in feeds)
    # Another optimization level of ONNX Runtime adds in another order.
    assert ranges.by_tensor["c"].high == pytest.approx(float(highest), rel=1e-5)
    assert ranges.by_tensor["c"].low == 0.0
    assert (ranges.samples, ranges.method, ranges.real) == (12, "max", True)


def test_calibration_leaves_the_model_as_it_is():
    model = models.parse(models.RESIDUAL)
    before = ir.to_proto(ir.from_proto(model)).SerializeToString()
    assert ir.to_proto(calibrated(model).model).SerializeToString() == before


def test_a_tensor_with_nan_is_named_with_its_batch():
    model = models.parse(models.MLP)
    feeds = [noise(model), noise(model)]
    feeds[1]["x"][0, 0] = np.inf
    with pytest.raises(StepError, match=r"tensor 'x' holds Inf on batch 1 of test"):
        calibrated(model, feeds)


def test_a_model_without_candidates_says_what_would_be_one():
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> m (float[N] x) => (float[N] y) { y = Relu (x) }'
    )
    with pytest.raises(StepError, match="no node that could be quantized"):
        calibrated(models.parse(text))


# Placement


def test_a_convolution_gets_one_pair_and_a_stored_weight():
    ctx = quantized(models.CONV_RELU)
    assert lines(ctx) == [
        "x_QuantizeLinear = QuantizeLinear(x, x_scale, zero_int8)",
        "x_DequantizeLinear = DequantizeLinear(x_QuantizeLinear, x_scale, zero_int8)",
        "w_DequantizeLinear = DequantizeLinear(w_quantized, w_scale)",
        "a = Conv(x_DequantizeLinear, w_DequantizeLinear, b)",
        "y = Relu(a)",
    ]
    assert ctx.get(Quantized) == Quantized("int8", ("conv",))
    assert "w" not in ctx.model.graph.initializers
    assert constant(ctx, "w_quantized").dtype == np.int8
    assert constant(ctx, "w_scale").shape == (32,)
    assert constant(ctx, "x_scale") == np.float32(ctx.get(Ranges).by_tensor["x"].amax / 127)
    rules = {node.metadata_props.get("trtforge.rule") for node in ctx.model.graph}
    assert rules == {None, "insert-qdq: conv"}


def test_a_residual_shares_the_pair_of_its_convolution():
    """The branch of the Add is quantized (x, once for both uses); the Conv's result is not."""
    ctx = quantized(models.RESIDUAL)
    assert lines(ctx)[-5:] == [
        "b_DequantizeLinear = DequantizeLinear(b_QuantizeLinear, b_scale, zero_int8)",
        "w2_DequantizeLinear = DequantizeLinear(w2_quantized, w2_scale)",
        "c = Conv(b_DequantizeLinear, w2_DequantizeLinear, b2)",
        "d = Add(c, x_DequantizeLinear)",
        "y = Relu(d)",
    ]
    assert sum("= QuantizeLinear" in line for line in lines(ctx)) == 2


def test_weights_of_matrix_products_have_a_scale_per_output():
    ctx = quantized(models.MLP)
    assert constant(ctx, "w1_scale").shape == (128,)  # MatMul: (in, out)
    assert constant(ctx, "w2_scale").shape == (32,)  # Gemm with transB: (out, in)
    axes = {
        node.name: node.attributes["axis"].as_int()
        for node in ctx.model.graph
        if node.name in ("w1_DequantizeLinear", "w2_DequantizeLinear")
    }
    assert axes == {"w1_DequantizeLinear": 1, "w2_DequantizeLinear": 0}


def test_a_weight_with_another_use_keeps_its_float_form():
    text = models.MLP.replace("Add (a, b1)", "Add (a, b1)\n [tied] t = MatMul (x, w1)").replace(
        "float[N,32] y)", "float[N,32] y, float[64,128] z)"
    ).replace("[act]", "z = Identity (w1)\n [act]")  # fmt: skip
    ctx = quantized(text)
    assert "z = Identity(w1)" in lines(ctx)
    assert sum("DequantizeLinear(w1_quantized" in line for line in lines(ctx)) == 1


def test_what_is_left_out_says_why():
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    m (float[N,32] x, float[32,32] v, bool c) => (float[N,8] a, float[N,32] b, float[N,32] d,
        float[32,N] e)
    <float[32,8] narrow, float[32,32] w>
    {
        [narrow] a = MatMul (x, narrow)
        [two] b = MatMul (x, v)
        [inside] d = If (c) <
            then_branch = g () => (float[N,32] p) { [hidden] p = MatMul (x, w) },
            else_branch = h () => (float[N,32] q) { q = Identity (x) }
        >
        [turned] e = Gemm <transA=1> (w, w)
        [named] f = MatMul (x, w)
        [kept] r = MatMul (x, w)
    }
    """
    model = models.parse(text.replace("float[32,N] e", "float[32,32] e"))
    feed = {
        "x": np.ones((4, 32), np.float32),
        "v": np.eye(32, dtype=np.float32),
        "c": np.array(1, bool),
    }
    ctx = calibrated(model, [feed])
    InsertQDQ(skip=("na*ed", "nothing*")).run(ctx)
    found = notes(ctx)
    assert found["narrow"] == "its weight is 32x8: a side is smaller than 16"
    assert found["two"].startswith("its second input is no constant")
    assert found["hidden"].startswith("it is inside a subgraph")
    assert found["turned"].startswith("transA is set")
    assert found["named"] == "left out by skip pattern 'na*ed'"
    assert "matches no node" in found["nothing*"]
    assert ctx.get(Quantized).nodes == ("kept",)


def test_fp8_leaves_large_kernels_out():
    """TensorRT builds them, but in float16."""
    text = models.CONV_RELU.replace("32,16,3,3", "32,16,7,7").replace("[3,3]", "[7,7]")
    wide = text.replace("pads=[1,1,1,1]", "pads=[3,3,3,3]")
    assert quantized(wide).get(Quantized).nodes == ("conv",)
    ctx = calibrated(models.parse(wide))
    with pytest.raises(StepError, match="no node"):
        InsertQDQ(dtype="float8e4m3fn").run(ctx)
    assert "larger than 32" in notes(ctx)["conv"]


def test_an_old_opset_is_refused_with_the_remedy():
    old = models.MLP.replace('"" : 21', '"" : 17')
    assert quantized(old).get(Quantized).nodes == ("up", "down")
    with pytest.raises(StepError, match="upgrade-opset"):
        quantized(old, dtype="float8e4m3fn")
    with pytest.raises(StepError, match="upgrade-opset"):
        quantized(old.replace('"" : 17', '"" : 12'))


def test_a_tensor_that_is_always_zero_has_no_scale():
    model = models.parse(models.CONV_RELU)
    ctx = calibrated(model, [{"x": np.zeros((1, 16, 8, 8), np.float32)}])
    with pytest.raises(StepError, match="none of the 1 nodes"):
        InsertQDQ().run(ctx)
    assert "no scale fits" in notes(ctx)["conv"]


# Values


@pytest.mark.parametrize("text", [models.CONV_RELU, models.RESIDUAL, models.MLP])
@pytest.mark.parametrize(("dtype", "least"), [("int8", 30.0), ("float8e4m3fn", 22.0)])
def test_the_quantized_model_computes_nearly_the_same(text, dtype, least):
    """INT8 with max ranges on normal data: a step is 1/30 sigma, noise about -40 dB a product.

    FP8 has 3 bits of mantissa: -32 dB a rounding. Two to three roundings are left room for.
    """
    model = models.parse(text)
    feed = noise(model)
    ctx = calibrated(model)
    InsertQDQ(dtype=dtype).run(ctx)
    exact, rounded = run_model(model, feed)["y"], run_model(ctx.model, feed)["y"]
    ratio = np.square(exact).sum() / np.square(exact - rounded).sum()
    assert 10 * np.log10(ratio) > least


WEIGHTS = arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def rounding_steps(weight: np.ndarray, wide: np.ndarray, dtype: str) -> np.ndarray:
    """The distance to the next number of the type: mantissas of 3 and of 1 bit, or the scale."""
    if FORMATS[dtype].dtype.is_integer():
        return wide
    mantissa, smallest = (8, 2.0**-9) if dtype == "float8e4m3fn" else (2, 0.5)
    return np.maximum(np.abs(weight) / mantissa, wide * smallest)


@given(WEIGHTS, st.sampled_from(sorted(FORMATS)), st.sampled_from([0, 1]))
def test_scales_are_positive_and_rounding_stays_within_half_a_step(weight, dtype, axis):
    target = FORMATS[dtype]
    scales = channel_scales(weight, axis, target)
    assert (scales > 0).all()
    assert (scales >= np.finfo(np.float32).tiny).all()
    codes = quantize(weight, scales, axis, target).astype(np.float64)
    wide = np.expand_dims(scales, 1 - axis).astype(np.float64)
    step = rounding_steps(weight, wide, dtype)
    # Half a step, and float32's own rounding of the quotient.
    assert (np.abs(codes * wide - weight) <= step * 0.5001 + np.abs(weight) * 1e-6).all()
    assert np.abs(codes).max() <= target.largest
