"""correct-bias and round-weights: no layer's results are further off on the data than before."""

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.precision import (
    CalibrateMse,
    CorrectBias,
    InsertQDQ,
    RoundWeights,
    layer_rows,
)
from trtforge_plugins.precision.layer_errors import Layer, layers_to_quantize, measure
from trtforge_plugins.precision.layer_rows import moments
from trtforge_plugins.precision.placement import Wanted
from trtforge_plugins.precision.weight_rounding import Moments, choose_codes

from trtforge import Batches, Context, HighPrecision, Ranges, Request
from trtforge.graph import label
from trtforge.testing import run_model

LAYERS = """
<ir_version: 10, opset_import: ["" : 21]>
layers (float[N,3,9,9] x) => (float[N,20] y)
<float[24,3,3,3] w0, float[24] b0, float[16,24,2,2] w1, float[128,32] w2, float[32] b2,
 float[20,32] w3, float[20] b3>
{
    [stem] a = Conv <pads=[1,0,2,1], strides=[2,2]> (x, w0, b0)
    [relu] b = Relu (a)
    [conv] c = Conv <dilations=[1,2], pads=[0,1,0,1], strides=[2,1]> (b, w1)
    [relu1] d = Relu (c)
    [flatten] e = Flatten (d)
    [dense] f = MatMul (e, w2)
    [dense_bias] g = Add (f, b2)
    [relu2] h = Relu (g)
    [head] y = Gemm <transB=1, beta=0.5> (h, w3, b3)
}
"""
NAMES = ["stem", "conv", "dense", "head"]


def data(seed: int, samples: int = 24) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((samples, 3, 9, 9)).astype(np.float32) + 0.3}


def calibrated(text: str = LAYERS, seed: int = 0) -> Context:
    ctx = Context(ir.from_proto(models.parse(text, seed=seed)), Path(), Request("m"))
    ctx.put(Batches((data(seed), data(seed + 1)), "test"))
    CalibrateMse(provider="cpu").run(ctx)
    return ctx


def form_value(
    codes: np.ndarray, weight: np.ndarray, scales: np.ndarray, moments: Moments
) -> float:
    """Return ``sum |codes * scale @ q - weight @ x|²``, less a part that no code changes."""
    rounded = codes * np.broadcast_to(scales.reshape(-1, 1), (len(codes), 1))
    wide = rounded.astype(np.float64)
    return float(
        np.einsum("nk,kl,nl->", wide, moments.quantized.astype(np.float64), wide, optimize=True)
        - 2 * np.einsum("nk,kl,nl->", wide, moments.mixed.astype(np.float64), weight, optimize=True)
    )


def errors(ctx: Context) -> dict[str, float]:
    """Each layer's summed squared error when it alone is quantized, computed the plain way."""
    found = {}
    for layer in layers_to_quantize(ctx, Wanted()):
        node = layer.point.node
        exact, quantized = ctx.model.clone(), ctx.model.clone()
        keep = {each: "" for each in NAMES if each != label(node)}
        alone = Context(quantized, Path(), Request("m"))
        for artifact in (ctx.get(Batches), HighPrecision(keep)):
            alone.put(artifact)
        alone.put(ctx.get(Ranges))
        InsertQDQ().run(alone)
        outputs = [with_output(each, str(node.outputs[0].name)) for each in (exact, quantized)]
        total = 0.0
        for feed in ctx.get(Batches).feeds:
            one, other = (run_model(each, feed)["probe"].astype(np.float64) for each in outputs)
            total += float(np.square(one - other).sum())
        found[label(node)] = total
    return found


def with_output(model: ir.Model, name: str) -> ir.Model:
    value = next(v for node in model.graph for v in node.outputs if v.name == name)
    probe = ir.node("Identity", (value,), name="probe")
    probe.outputs[0].name = "probe"
    probe.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(probe)
    model.graph.outputs.append(probe.outputs[0])
    return model


def lines(ctx: Context) -> list[str]:
    return [
        f"{node.outputs[0].name} = {node.op_type}({', '.join(v.name for v in node.inputs)})"
        for node in ctx.model.graph
    ]


def final_error(ctx: Context, exact: ir.Model) -> float:
    InsertQDQ().run(ctx)
    return sum(
        float(np.square(run_model(exact, feed)["y"] - run_model(ctx.model, feed)["y"]).sum())
        for feed in ctx.get(Batches).feeds
    )


# What is measured


def test_the_errors_of_layers_are_those_of_insert_qdq() -> None:
    ctx = calibrated()
    layers = layers_to_quantize(ctx, Wanted())
    assert [layer.name for layer in layers] == NAMES
    found = measure(ctx, layers, [layer.rounded() for layer in layers], "cpu")
    for (name, expected), seen in zip(errors(ctx).items(), found, strict=True):
        assert seen.error == pytest.approx(expected, rel=1e-3), name  # sums of float32
        assert seen.error_without_mean <= seen.error
    assert [seen.count for seen in found] == [48 * 5 * 4, 48 * 2 * 4, 48, 48]


def test_the_rows_of_a_convolution_times_its_weight_are_its_results(monkeypatch) -> None:
    ctx = calibrated()
    layers = layers_to_quantize(ctx, Wanted())
    monkeypatch.setattr(layer_rows, "LEAST_ROWS", 10**6)  # all of them
    monkeypatch.setattr(layer_rows, "PASS_BYTES", 1)  # one layer a pass
    for layer, sums in zip(layers, moments(ctx, layers, "cpu"), strict=True):
        weight = np.moveaxis(layer.weight, layer.channel_axis, 0)
        weight = weight.reshape(len(weight), -1)
        codes = np.rint(weight / layer.scales.reshape(-1, 1))
        lost = squares_of_products(ctx, layer)
        value = form_value(codes, weight, layer.scales, sums) + lost
        expected = measure(ctx, [layer], [layer.rounded()], "cpu")[0].error
        assert value == pytest.approx(expected, rel=1e-2, abs=1e-4 * lost), layer.name


def squares_of_products(ctx: Context, layer: Layer) -> float:
    """What a layer with no weight is off: the summed squares of its results without the bias."""
    return measure(ctx, [layer], [np.zeros_like(layer.weight)], "cpu")[0].error


# correct-bias


def test_a_corrected_bias_stands_where_the_old_one_did() -> None:
    ctx = calibrated()
    assert CorrectBias(provider="cpu").run(ctx) == 4
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=True)
    assert lines(ctx) == [
        "a = Conv(x, w0, stem_corrected_bias)",
        "b = Relu(a)",
        "c = Conv(b, w1, conv_corrected_bias)",  # it had none
        "d = Relu(c)",
        "e = Flatten(d)",
        "f = MatMul(e, w2)",
        "g = Add(f, dense_corrected_bias)",
        "h = Relu(g)",
        "y = Gemm(h, w3, head_corrected_bias)",
    ]
    assert not {"b0", "b2", "b3"} & set(ctx.model.graph.initializers)


def test_a_layer_without_a_place_for_a_bias_is_named() -> None:
    ctx = calibrated(LAYERS.replace("Add (f, b2)", "Sub (f, b2)"))
    assert CorrectBias(provider="cpu").run(ctx) == 3
    assert {(note.node, note.text) for note in ctx.notes} >= {
        ("dense", "no Add of a constant follows it: there is no bias")
    }


def test_nodes_that_stay_in_high_precision_keep_their_bias() -> None:
    ctx = calibrated()
    ctx.put(HighPrecision({"conv": "test"}))
    assert CorrectBias(provider="cpu", skip=("Gemm",)).run(ctx) == 2
    assert "b3" in ctx.model.graph.initializers


@settings(deadline=None, max_examples=3)  # each runs the model some 20 times
@given(st.integers(0, 1000))
def test_a_channel_is_right_on_average_and_no_layer_further_off(seed: int) -> None:
    ctx = calibrated(seed=seed)
    layers = layers_to_quantize(ctx, Wanted())
    before = measure(ctx, layers, [layer.rounded() for layer in layers], "cpu")
    exact = {layer.name: bias_of(ctx, layer.name) for layer in layers}
    CorrectBias(provider="cpu").run(ctx)
    for layer, seen in zip(layers, before, strict=True):
        shift = bias_of(ctx, layer.name) - exact[layer.name]
        after = seen.squares + 2 * shift * seen.sums + seen.count * shift**2
        assert after.sum() <= seen.error * (1 + 1e-6), layer.name  # the bias is float32
        # What is left of the mean is float32 rounding of the bias.
        np.testing.assert_allclose(shift, -seen.mean, atol=1e-6)


def bias_of(ctx: Context, name: str) -> np.ndarray:
    """What is added to the layer's products."""
    nodes = {label(node): node for node in ctx.model.graph}
    inputs = nodes["dense_bias"].inputs[1:] if name == "dense" else nodes[name].inputs[2:]
    factor = 0.5 if name == "head" else 1.0
    return factor * inputs[0].const_value.numpy().astype(np.float64) if inputs else np.zeros(16)


# round-weights


def test_rounded_weights_pass_insert_qdq_unchanged() -> None:
    ctx = calibrated()
    assert RoundWeights(provider="cpu").run(ctx) > 0
    rounded = {
        layer.name: (layer.weight, layer.rounded()) for layer in layers_to_quantize(ctx, Wanted())
    }
    done = [node.inputs[1].name for node in ctx.model.graph if label(node) in NAMES]
    assert any(name.endswith("_rounded") for name in done)
    for name, (weight, meant) in rounded.items():
        node = next(node for node in ctx.model.graph if label(node) == name)
        if str(node.inputs[1].name).endswith("_rounded"):
            np.testing.assert_allclose(meant, weight, rtol=1e-6)  # the scale is float32


@settings(deadline=None, max_examples=3)  # each runs the model some 20 times
@given(st.integers(0, 1000))
def test_no_layer_is_further_off_on_the_data(seed: int) -> None:
    ctx = calibrated(seed=seed)
    layers = layers_to_quantize(ctx, Wanted())
    before = measure(ctx, layers, [layer.rounded() for layer in layers], "cpu")
    exact = ctx.model.clone()
    RoundWeights(provider="cpu").run(ctx)
    new = layers_to_quantize(ctx, Wanted())
    plain = Context(exact, Path(), Request("m"))
    plain.put(ctx.get(Batches))
    after = measure(plain, layers, [layer.rounded() for layer in new], "cpu")
    for layer, old, found in zip(layers, before, after, strict=True):
        assert found.error <= old.error * (1 + 1e-6), layer.name  # the scale is float32


def test_a_rounding_that_is_worse_on_all_data_is_refused(monkeypatch) -> None:
    ctx = calibrated()
    before = lines(ctx)
    monkeypatch.setattr(
        RoundWeights, "_rounded", lambda _, layer, sums: np.zeros_like(layer.weight)
    )
    assert RoundWeights(provider="cpu").run(ctx) == 0
    assert lines(ctx) == before
    refused = [note.node for note in ctx.notes if "better on all data" in note.text]
    assert refused == NAMES


def test_both_make_the_whole_model_better_on_its_data() -> None:
    exact = ir.from_proto(models.parse(LAYERS))
    plain = final_error(calibrated(), exact)
    for steps in ((CorrectBias(provider="cpu"),), (RoundWeights(provider="cpu"),)):
        ctx = calibrated()
        for step in steps:
            step.run(ctx)
        assert final_error(ctx, exact) < plain


def test_layers_that_cannot_be_looked_at_are_named(monkeypatch) -> None:
    grouped = LAYERS.replace("strides=[2,1]>", "strides=[2,1], group=2>").replace(
        "float[16,24,2,2] w1", "float[16,12,2,2] w1"
    )
    ctx = calibrated(grouped)
    monkeypatch.setattr(layer_rows, "MOST_PRODUCTS", 100)
    RoundWeights(provider="cpu").run(ctx)
    notes = {note.node: note.text for note in ctx.notes}
    assert notes["conv"].startswith("it is a grouped convolution")
    assert notes["dense"].startswith("it adds up 128 products; more than 100")


@settings(deadline=None, max_examples=30)  # the machine may be busy
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 200), st.booleans())
def test_codes_are_neighbours_and_never_worse_than_the_nearest(seed, outputs, length, few) -> None:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, length)).astype(np.float32)
    scales = np.abs(weight).max(axis=1) / np.float32(127)
    exact = random.standard_normal((5 if few else 2 * length, length)).astype(np.float32)
    sums = Moments.of(length)
    sums.add(exact, np.rint(exact * 20) / 20)
    codes = choose_codes(weight, scales, sums, damping=0.0, sweeps=4)
    ideal = weight / scales[:, None]
    assert np.all(
        (codes == np.floor(ideal)) | (codes == np.ceil(ideal)) | (codes == np.rint(ideal))
    )
    assert np.abs(codes).max(axis=1) == pytest.approx(127)  # what the scale was made from stays
    nearest = form_value(np.rint(ideal), weight, scales, sums)
    found = form_value(codes, weight, scales, sums)
    assert found <= nearest + 1e-5 * abs(nearest)  # sums of float32
