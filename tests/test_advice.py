"""What would make an engine faster: each rule's evidence, and builds that show the effect."""

from dataclasses import replace
from pathlib import Path

import advice_pairs
import layer_dumps
import models
import onnx
import onnx_ir as ir
import pytest
from command import trtforge
from trtforge_plugins.analysis.advice_rules import (
    RULES,
    Seen,
    float32_islands,
    host_copies,
    launch_bound,
    lone_quantizers,
    many_moves,
    unaligned_products,
    wide_profile,
)
from trtforge_plugins.analysis.advise import Advise
from trtforge_plugins.analysis.devices import find_device
from trtforge_plugins.analysis.predict import predict
from trtforge_plugins.engine_layers import parse_layers

from trtforge import Context, Request, ShapeRange
from trtforge.analysis import Prediction
from trtforge.artifacts import LayerTiming, Timings

L4 = find_device("L4")


def seen_of(model, dump, **facts):
    """What the rules see of a model and its engine on an L4; four rows where that is open."""
    graph = ir.from_proto(model)
    open_ones = {v.name: (4, 64) for v in graph.graph.inputs if not v.shape.is_static()}
    layers = parse_layers(dump).layers
    return Seen(graph, predict(graph, layers, L4, open_ones), **facts)


def golden(name, **facts):
    """The same of a golden dump."""
    model, _ = layer_dumps.golden_jobs()[name]
    return seen_of(model, layer_dumps.golden(name), **facts)


def codes(seen):
    """The codes of all hints."""
    return [hint.code for rule in RULES for hint in rule(seen)]


# What a build can check: the advice is given before the change and is gone after it.


@pytest.fixture(scope="module")
def built():
    """Both engines of each pair, by the code of the advice; built, not executed."""
    found = {pair.code: pair for pair in advice_pairs.pairs()}
    jobs = {
        f"{code}.{side}": (getattr(pair, side), ("SM89",))
        for code, pair in found.items()
        for side in ("before", "after")
    }
    dumps = layer_dumps.build_dumps(jobs)
    return {
        code: tuple(
            seen_of(getattr(pair, side), dumps[f"{code}.{side}"]) for side in ("before", "after")
        )
        for code, pair in found.items()
    }


needs_tensorrt = pytest.mark.skipif(
    not layer_dumps.HAVE_TENSORRT, reason="TensorRT-RTX is not installed"
)


@needs_tensorrt
@pytest.mark.parametrize(
    "code",
    ["float32-products", "unfused-qdq", "lone-quantizers", "many-copies", "host-copies"],
)
def test_the_change_does_what_the_advice_says(built, code):
    before, after = built[code]
    hint = next(hint for rule in RULES for hint in rule(before) if hint.code == code)
    won = before.prediction.serial_ms - after.prediction.serial_ms
    if code == "many-copies":  # fewer copies are left, not none
        assert moves(after) < moves(before)
    else:
        assert code not in codes(after)
    if code == "host-copies":  # what is won is a wait, which no count of bytes can show
        assert after.prediction.launches < before.prediction.launches
    else:
        assert won > 0
    assert hint.change
    assert hint.nodes or code == "host-copies"


def moves(seen):
    """The number of layers that only move data."""
    return sum(layer.role == "moves" for layer in seen.prediction.layers)


@needs_tensorrt
def test_what_stands_to_be_won_is_an_upper_bound(built):
    for code in ("float32-products", "many-copies"):
        before, after = built[code]
        hint = next(hint for rule in RULES for hint in rule(before) if hint.code == code)
        touched = [x for x in before.prediction.layers if x.name in hint.layers]
        assert 0 < hint.milliseconds <= before.milliseconds(touched)
        left = sum(x.milliseconds for x in after.prediction.layers if x.role == "moves")
        if code == "many-copies":
            assert hint.milliseconds >= before.milliseconds(touched) - left


@needs_tensorrt
def test_a_narrower_profile_needs_less_memory(tmp_path):
    model = tmp_path / "m.onnx"
    size = models.BertSize(1, 64, 2, 128, 100, 512)
    onnx.save(layer_dumps.fixed_batch(models.bert(size)), model)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "targets: [sm_89]\nstages:\n  - name: build\n    steps: [tensorrt, read-layers, predict, "
        "advise]\n"
    )
    found = {}
    for name, largest in (("wide", 512), ("narrow", 64)):
        shapes = [
            f"--shape={each}=1x16:1x64:1x{largest}"
            for each in ("input_ids", "attention_mask", "token_type_ids")
        ]
        answer = trtforge(
            "run", recipe, "--model", model, "--out", tmp_path / name, "--no-compare", "--json",
            *shapes,
        )  # fmt: skip
        assert answer.code == 0, answer.err
        report = answer.json
        hints = [hint["code"] for hint in report["advice"]["hints"]]
        found[name] = ("wide-profile" in hints, report["engines"][0]["memory"]["activation"])
    assert (found["wide"][0], found["narrow"][0]) == (True, False)
    assert found["narrow"][1] < found["wide"][1]


# Rules by themselves


def test_small_networks_are_bound_by_their_launches():
    (hint,) = launch_bound(golden("bert_fp32"))
    assert hint.evidence == "17 of 17 launches have a floor below 2 us"
    large = golden("bert_fp32")
    slow = tuple(replace(layer, milliseconds=0.1) for layer in large.prediction.layers)
    assert not list(launch_bound(replace(large, prediction=replace(large.prediction, layers=slow))))


def test_a_network_in_float32_has_a_faster_type():
    (hint,) = float32_islands(golden("bert_fp32"))
    assert hint.evidence.startswith("100.00% of the multiply-accumulates in 6 layers")
    assert "2.02 times" in hint.evidence  # 121 / 60 of the table
    assert not list(float32_islands(golden("bert_int8")))


def test_measured_times_decide_what_is_much():
    seen = golden("attention_fp16")
    assert codes(seen).count("many-copies") == 1
    times = {
        layer.name: 0.001 if layer.role == "moves" else 1.0 for layer in seen.prediction.layers
    }
    assert "many-copies" not in codes(replace(seen, times=times))
    slow = {name: 10.0 if value < 1 else value for name, value in times.items()}
    (hint,) = many_moves(replace(seen, times=slow))
    assert hint.milliseconds == 50.0  # five layers


def test_quantizers_inside_the_model_are_told_those_at_its_ends_are_not():
    seen = golden("conv_int8")
    assert not list(lone_quantizers(seen))  # x has to be quantized somewhere
    first = seen.prediction.layers[0]
    assert first.role == "quantizes"
    inside = replace(first, nodes=("elsewhere",))
    layers = (inside, *seen.prediction.layers[1:])
    (hint,) = lone_quantizers(replace(seen, prediction=replace(seen.prediction, layers=layers)))
    assert hint.layers == (first.name,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1x64:8x64:16x64", []),
        ("1x64:1x64:4x64", []),  # not wide
        ("1x64:1x64:32x64", ["opt-at-the-edge", "wide-profile"]),
        ("1x64:4x64:32x64", ["wide-profile"]),
        ("1x64:32x64:32x64", ["opt-at-the-edge"]),
        ("8x64:8x64:8x64", []),
    ],
)
def test_profiles(text, expected):
    seen = Seen(None, Prediction(L4, (), (), 0, 0.0, 0.0, 0), ({"x": ShapeRange.read(text)},))
    assert [hint.code for hint in wide_profile(seen)] == expected


def test_products_that_tensor_cores_must_pad():
    odd = layer_dumps.half(
        layer_dumps.parse(
            """
            <ir_version: 10, opset_import: ["" : 21]>
            odd (float[64,50] x) => (float[64,64] y) <float[50,64] w> { [fc] y = MatMul (x, w) }
            """
        )
    )
    model = ir.from_proto(odd)
    found = predict(model, parse_layers(layer_dumps.golden("odd_names")).layers, L4)
    layer = replace(found.layers[0], nodes=("fc",), dtype="float16", macs=1)
    seen = Seen(model, replace(found, layers=(layer,)))
    (hint,) = unaligned_products(seen)
    assert hint.evidence == "1 product, the first is fc: 50 is no multiple of 8"
    assert not list(unaligned_products(golden("attention_fp16")))


def test_copies_between_cpu_and_gpu_are_told():
    seen = golden("bert_fp32")
    copy = replace(seen.prediction.layers[0], kind="ShapeHostToDevice", name="[Copy 0]")
    (hint,) = host_copies(replace(seen, prediction=replace(seen.prediction, layers=(copy,))))
    assert hint.layers == ("[Copy 0]",)


# The step and the command


def test_the_step_reads_measured_times():
    seen = golden("attention_fp16")
    ctx = Context(seen.model, Path("unused"), Request(source="m"))
    ctx.put(seen.prediction)
    advice = step(ctx)
    assert advice.basis == "predicted"
    gains = [hint.milliseconds for hint in advice.hints]
    assert gains == sorted(gains, reverse=True)
    moving = [layer.name for layer in seen.prediction.layers if layer.role == "moves"]
    rows = tuple(LayerTiming(name, 2.0, 0.2) for name in moving)
    ctx.put(Timings("a GPU", 10, 1, 10.0, None, None, rows))
    measured = step(ctx)
    assert measured.basis == "measured"
    assert measured.hints[0].milliseconds == 10.0


def step(ctx):
    """The advice of the step."""
    from trtforge.analysis import Advice

    assert Advise().run(ctx) == 0
    return ctx.get(Advice)


def test_profile_gives_advice(tmp_path):
    (tmp_path / "bert.layers.txt").write_text(layer_dumps.golden("bert_fp32"))
    onnx.save(layer_dumps.small_bert(), tmp_path / "bert.onnx")
    command = ("profile", tmp_path / "bert.layers.txt", "-m", tmp_path / "bert.onnx")
    answer = trtforge(*command)
    assert answer.code == 0, answer.err
    assert "float32-products  at most" in answer.out
    assert "    Recipe: - cast: {to: float16}" in answer.out
    facts = trtforge(*command, "--json").json["advice"]
    assert facts["basis"] == "predicted"
    assert {hint["code"] for hint in facts["hints"]} == {"float32-products", "launch-bound"}
