"""Where Q/DQ pairs stand, for which targets, and what is left alone: rules beyond one node."""

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.precision import placement
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.join_products import JoinProducts
from trtforge_plugins.precision.placement import Wanted, place, points_to_measure
from trtforge_plugins.precision.quantize_weights import QuantizeWeights
from trtforge_plugins.precision.quantized_weights import FORMATS, block_scales, quantize_blocks

from trtforge import (
    Context,
    HighPrecision,
    Pass,
    Quantized,
    Range,
    Ranges,
    Request,
    RequestError,
    StepError,
)
from trtforge.targets import read_target
from trtforge.testing import check_pass, run_model


def context(text: str, *targets: str) -> Context:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(models.parse(text)))
    request = Request("m", targets=tuple(map(read_target, targets)))
    ctx = Context(model, Path(), request)
    names = [str(point.tensor.name) for point in points_to_measure(model)]
    ctx.put(Ranges(dict.fromkeys(names, Range(-4.0, 4.0)), "fixed", 1, "test"))
    return ctx


def notes(ctx: Context) -> dict[str, str]:
    return {note.node: note.text for note in ctx.notes}


# What is left alone


def test_nodes_kept_in_high_precision_stay_with_their_reason():
    ctx = context(models.MLP)
    ctx.put(HighPrecision({"up": "it costs 3 dB"}))
    InsertQDQ().run(ctx)
    assert ctx.get(Quantized).nodes == ("down",)
    assert notes(ctx)["up"] == "kept in high precision: it costs 3 dB"
    assert "w1_quantized" not in ctx.model.graph.initializers


def test_a_residual_add_can_be_kept_as_well():
    ctx = context(models.RESIDUAL)
    add = next(node for node in ctx.model.graph if node.op_type == "Add")
    for wanted in (Wanted(keep={add.name: "why"}), Wanted(skip=("Add",))):
        assert "residual" not in {point.rule for point in place(ctx.model, wanted).points}
    assert "residual" in {point.rule for point in place(ctx.model).points}


def test_both_operands_of_a_product_are_quantized_or_none():
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    m (float[2,16,16] x, float[2,16,16] z) => (float[2,16,16] y) { [scores] y = MatMul (x, z) }
    """
    ctx = context(text)
    ranges = ctx.get(Ranges)
    ctx.put(Ranges({"x": ranges.by_tensor["x"]}, "fixed", 1, "test"))
    with pytest.raises(StepError, match="none of the 1 nodes"):
        InsertQDQ(attention=True).run(ctx)
    assert notes(ctx)["scores"] == "its input 'z' has no range"
    assert [node.op_type for node in ctx.model.graph] == ["MatMul"]


def test_softmax_needs_no_measured_range():
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    m (float[2,16,16] x, float[2,16,16] z) => (float[2,16,16] y)
    { p = Softmax (x) [mix] y = MatMul (p, z) }
    """
    ctx = context(text)
    assert set(ctx.get(Ranges).by_tensor) == {"z"}
    InsertQDQ(attention=True).run(ctx)
    scale = ctx.model.graph.initializers["p_scale"].const_value.numpy()
    assert scale == np.float32(1 / 127)


# Targets


@pytest.mark.parametrize(
    ("step", "target"),
    [
        (InsertQDQ(dtype="float8e4m3fn"), "sm_86"),
        (InsertQDQ(dtype="float4e2m1"), "sm_89"),
        (QuantizeWeights(), "sm_75"),
    ],
)
def test_a_target_that_lacks_the_type_is_refused_before_the_build(step: Pass, target: str):
    ctx = context(models.MLP.replace('"" : 21', '"" : 23'), target, "sm_120")
    with pytest.raises(RequestError, match=f"{target} cannot compute in {step.dtype}") as caught:
        step.run(ctx)
    assert caught.value.remedy.startswith("build for sm_120 alone")


def test_convolutions_stay_in_float_where_turing_is_a_target():
    """TensorRT-RTX would run them in float on every target then."""
    ctx = context(models.CONV_RELU, "sm_75", "sm_86")
    with pytest.raises(StepError, match="no node to quantize"):
        InsertQDQ().run(ctx)
    assert "sm_75" in notes(ctx)["conv"]
    InsertQDQ().run(context(models.MLP, "sm_75"))


def test_nvfp4_says_what_it_cannot_take():
    text = """
    <ir_version: 10, opset_import: ["" : 23]>
    m (float[2,2,16,40] x, float[4,40] z, float[4,32] u, float[1,16,4,4] i)
        => (float[2,2,16,16] a, float[4,16] b, float[4,16] c, float[1,16,4,4] d)
    <float[40,16] w, float[32,16] v, float[16,16,1,1] k>
    {
        [odd] b = MatMul (z, w)
        [fits] c = MatMul (u, v)
        [conv] d = Conv (i, k)
        xr = Slice (x, begin, end, axis)
        [deep] a = MatMul (xr, v)
    }
    """.replace("<float[40,16] w", "<int64[1] begin = {0}, int64[1] end = {32}, "
                "int64[1] axis = {3}, float[40,16] w")  # fmt: skip
    ctx = context(text)
    InsertQDQ(dtype="float4e2m1").run(ctx)
    assert ctx.get(Quantized).nodes == ("fits",)
    found = notes(ctx)
    assert found["odd"] == "it adds up 40 products: no multiple of 16"
    assert found["deep"].startswith("its input has 4 dimensions")
    assert found["conv"] == "TensorRT has no NVFP4 convolution"


def test_an_old_opset_is_refused_with_the_remedy():
    with pytest.raises(StepError, match="needs opset 23; the model has 21") as caught:
        InsertQDQ(dtype="float4e2m1").run(context(models.MLP))
    assert "upgrade-opset" in caught.value.remedy
    with pytest.raises(StepError, match="upgrade-opset"):
        JoinProducts().run(context(models.MLP.replace('"" : 21', '"" : 12')))


# Quantizing commutes with moving data

MOVES = ["Transpose <perm=[0,2,1]> ({})", "Reshape ({}, flat)", "Reshape ({}, cube)",
         "Transpose <perm=[1,0,2]> ({})"]  # fmt: skip


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from(MOVES), max_size=4), st.integers(0, 3), st.booleans())
def test_a_pair_before_the_moves_gives_the_same_bits(
    moves: list[str], seed: int, read_in_float: bool
):
    """``moves`` lie between the tensor and its product; another node may read what they give."""
    lines, last = [], "x"
    for index, move in enumerate([*moves, MOVES[2]]):
        lines.append(f"m{index} = {move.format(last)}")
        last = f"m{index}"
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    m (float[16,16,16] x) => (float[16,16,16] y, float[16,16,16] z)
    <int64[3] flat = {{1, 256, 16}}, int64[3] cube = {{16, 16, 16}}, float[16,16] w>
    {{ {" ".join(lines)} y = MatMul ({last}, w) z = Relu ({last if read_in_float else "x"}) }}
    """
    feed = {"x": np.random.default_rng(seed).standard_normal((16, 16, 16)).astype(np.float32)}
    results = []
    for slot in (placement.highest_slot, lambda own, _: own):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(placement, "highest_slot", slot)
            ctx = context(text)
            InsertQDQ().run(ctx)
        results.append(run_model(ctx.model, feed))
        first = next(n for n in ctx.model.graph if n.op_type == "QuantizeLinear").inputs[0].name
        if slot is not placement.highest_slot or read_in_float:
            assert first == last
        else:
            assert first == "x"
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])


# join-products


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 9))
def test_joined_products_compute_the_same(columns: list[int], seed: int):
    outputs = ", ".join(f"float[3,{n}] y{i}" for i, n in enumerate(columns))
    weights = ", ".join(f"float[4,{n}] w{i}" for i, n in enumerate(columns))
    nodes = "\n".join(f"[p{i}] y{i} = MatMul (x, w{i})" for i in range(len(columns)))
    model = models.parse(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        m (float[3,4] x) => ({outputs}) <{weights}> {{ {nodes} }}"""
    )
    feed = {"x": np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)}
    # A wider matrix may add its terms in another order.
    after = check_pass(JoinProducts(), model, feed, changes=len(columns) - 1, rtol=1e-5, atol=1e-6)
    assert sum(node.op_type == "MatMul" for node in after.graph) == 1


# Weights in blocks


@pytest.mark.parametrize("dtype", ["int4", "float4e2m1"])
@settings(deadline=None)  # the machine may be busy
@given(seed=st.integers(0, 99), axis=st.sampled_from([0, 1]), block=st.sampled_from([16, 32]))
def test_blocks_are_within_half_a_step(dtype: str, seed: int, axis: int, block: int):
    weight = np.random.default_rng(seed).standard_normal((64, 32)).astype(np.float32)
    target = FORMATS[dtype]
    scales = block_scales(weight, axis, block, target)
    assert scales.shape == tuple(n // block if i == axis else n for i, n in enumerate((64, 32)))
    codes = quantize_blocks(weight, scales, axis, block, target).astype(np.float32)
    wide = np.repeat(scales, block, axis)
    step = wide * (1 if dtype == "int4" else np.maximum(0.5, np.abs(weight / wide) / 2))
    assert (np.abs(codes * wide - weight) <= step * 0.5001).all()


def test_int4_weights_that_do_not_fit_say_why():
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    m (float[4,96] x, float[1,16,4,4] i, float[4,64] u)
        => (float[4,32] a, float[1,16,4,4] b, float[4,32] c)
    <float[96,32] w, float[16,16,1,1] k, float[32,64] v>
    {
        [odd] a = MatMul (x, w)
        [conv] b = Conv (i, k)
        [fits] c = Gemm <transB=1> (u, v)
    }
    """
    ctx = context(text)
    assert QuantizeWeights().run(ctx) == 1
    assert ctx.get(Quantized) == Quantized("int4", ("fits",), only_stored=True)
    found = notes(ctx)
    assert found["odd"] == "it adds up 96 products: no multiple of block_size 64"
    assert found["conv"] == "weights alone are quantized in matrix products only"
    stored = ctx.model.graph.initializers["v_scale"]
    assert tuple(stored.shape) == (32, 1)
    with pytest.raises(StepError, match="no weight to quantize"):
        QuantizeWeights().run(ctx)


@pytest.mark.parametrize("block", [16, 64])
def test_int4_weights_compute_nearly_the_same(block: int):
    """A step is a seventh of the block's largest: about -20 dB a product on normal weights."""
    ctx = context(models.MLP)
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    exact = run_model(ctx.model, {"x": x})["y"]
    QuantizeWeights(block_size=block).run(ctx)
    error = run_model(ctx.model, {"x": x})["y"] - exact
    assert 10 * np.log10(np.square(exact).sum() / np.square(error).sum()) > 13


def test_int8_weights_have_a_scale_for_each_output_and_any_length():
    ctx = context(
        """
    <ir_version: 10, opset_import: ["" : 21]>
    m (float[4,33] x, float[4,64] u) => (float[4,32] a, float[4,32] c)
    <float[33,32] w, float[32,64] v>
    {
        [odd] a = MatMul (x, w)
        [turned] c = Gemm <transB=1> (u, v)
    }
    """
    )
    assert QuantizeWeights(dtype="int8").run(ctx) == 2
    assert ctx.get(Quantized) == Quantized("int8", ("odd", "turned"), only_stored=True)
    scales = {name: ctx.model.graph.initializers[f"{name}_scale"] for name in "wv"}
    assert {name: tuple(each.shape) for name, each in scales.items()} == {"w": (32,), "v": (32,)}
    axes = [node.attributes["axis"].value for node in ctx.model.graph if node.op_type[0] == "D"]
    assert axes == [1, 0]


def test_int8_weights_compute_nearly_the_same():
    """A step is half of a 127th of the column's largest: about -45 dB a product."""
    ctx = context(models.MLP)
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    exact = run_model(ctx.model, {"x": x})["y"]
    QuantizeWeights(dtype="int8").run(ctx)
    error = run_model(ctx.model, {"x": x})["y"] - exact
    assert 10 * np.log10(np.square(exact).sum() / np.square(error).sum()) > 38
