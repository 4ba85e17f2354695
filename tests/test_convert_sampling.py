"""DeformConv and RoiAlign: they read an image between its pixels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import (
    assert_close,
    build_converted,
    check_same,
    check_suite_case,
    convert,
    evaluate,
    needs_tensorrt,
    reference,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

HEAD = '<ir_version: 10, opset_import: ["" : 22]> g'
REGIONS = f"""{HEAD.replace("22", "20")} (float[2,3,6,8] x, float[n,4] r, int64[n] b)
  => (float[n,3,2,3] y)
{{ y = RoiAlign <output_height = 2, output_width = 3, ATTRIBUTES> (x, r, b) }}"""
MASKED = f"""{HEAD} (float[N,4,5,6] x, float[6,2,3,2] w, float[N,24,3,5] o, float[6] b,
  float[N,12,3,5] m) => (float[N,6,3,5] y)
{{ y = DeformConv <group = 2, offset_group = 2, kernel_shape = [3,2]> (x, w, o, b, m) }}"""


def regions_model(attributes: str) -> str:
    return REGIONS.replace("ATTRIBUTES", attributes)


@pytest.mark.parametrize("name", suite("roialign", "basic_deform_conv", "deform_conv"))
def test_suite_case_keeps_its_outputs(name: str) -> None:
    _, count = check_suite_case(name)
    assert count == 1


@st.composite
def regions(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """Attributes of a RoiAlign, and regions inside, around and far outside of an image."""
    mode = draw(st.sampled_from(["avg", "max"]))
    half = draw(st.sampled_from(["half_pixel", "output_half_pixel"]))
    attributes = (
        f'mode = "{mode}", coordinate_transformation_mode = "{half}", '
        f"sampling_ratio = {draw(st.integers(1, 3))}, "
        f"spatial_scale = {draw(st.sampled_from(['1.0', '0.5', '0.25']))}"
    )
    # Quarters: the places of samples are then exact, so that none falls on the other side of -1.
    corners = st.integers(-12, 48).map(lambda n: n / 4)
    rows = draw(st.lists(st.tuples(*[corners] * 4), min_size=1, max_size=4))
    return attributes, np.array(rows, np.float32)


@settings(max_examples=60, deadline=None)
@given(regions(), st.integers(0, 9))
def test_any_region_is_pooled_as_onnxruntime_does(drawn: tuple[str, np.ndarray], seed: int) -> None:
    attributes, rows = drawn
    random = np.random.default_rng(seed)
    feeds = {
        "x": random.standard_normal((2, 3, 6, 8)).astype(np.float32),
        "r": rows,
        "b": random.integers(0, 2, len(rows)),
    }
    # means of at most 36 numbers up to 4, added in another order
    _, count = check_same(regions_model(attributes), feeds, rtol=1e-5, atol=1e-5)
    assert count == 1


@st.composite
def deformations(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A DeformConv of two by three pixels or more, with offsets that leave the image."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    groups, moved = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)]))
    kernel = [draw(st.integers(1, 2)) for _ in range(2)]
    strides, dilations = ([draw(st.integers(1, 2)) for _ in range(2)] for _ in range(2))
    pads = [draw(st.integers(0, 1)) for _ in range(4)]
    image = [draw(st.integers(3, 5)) for _ in range(2)]
    result = [
        (image[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(2)
    ]
    taps = kernel[0] * kernel[1]
    feeds = {
        "x": random.standard_normal((2, 4, *image)),
        "w": random.standard_normal((4, 4 // groups, *kernel)),
        "o": random.uniform(-3, 3, (2, 2 * taps * moved, *result)),
        "b": random.standard_normal(4),
        "m": random.uniform(0, 1, (2, taps * moved, *result)),
    }
    node = onnx.helper.make_node(
        "DeformConv", [*"xwobm"], ["y"], group=groups, offset_group=moved, kernel_shape=kernel,
        strides=strides, dilations=dilations, pads=pads,
    )  # fmt: skip
    absent = draw(st.sets(st.sampled_from("bm")))
    node.input[:] = ["" if name in absent else name for name in "xwobm"]
    kept = {n: array.astype(np.float32) for n, array in feeds.items() if n not in absent}
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info(n, 1, array.shape) for n, array in kept.items()],
        [onnx.helper.make_tensor_value_info("y", 1, [2, 4, *result])],
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 22)
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset]), kept


@settings(max_examples=25, deadline=None)
@given(deformations())
def test_any_deformable_convolution_follows_the_reference(
    drawn: tuple[onnx.ModelProto, dict[str, np.ndarray]],
) -> None:
    model, feeds = drawn
    after, count, _ = convert(model)
    assert count == 1
    found, expected = evaluate(after, feeds), reference(model, feeds)
    # the reference computes places in float64; in float32 they are off by up to 8 * 2**-24, times
    # a slope of up to 8, in sums of up to 16 products
    assert_close([found["y"]], [expected["y"]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (regions_model("sampling_ratio = 0"), "export the model with sampling_ratio=2"),
        (
            regions_model("sampling_ratio = 2")
            .replace("float[2,3,6,8] x", "float[2,3,h,w] x"),
            "the size of its image is open",
        ),
        (MASKED.replace("float[N,4,5,6] x", "float[N,4,h,w] x"), "the size of its image is open"),
    ],
)  # fmt: skip
def test_what_shapes_do_not_settle_is_left_with_the_reason(text: str, reason: str) -> None:
    _, count, notes = convert(text)
    assert count == 0
    assert reason in notes[0].text


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    regions = regions_model("sampling_ratio = 2").replace("[n", "[5")
    build_converted(
        {
            "average": regions,
            "largest": regions.replace("sampling_ratio", 'mode = "max", sampling_ratio'),
            "half": regions.replace("float[", "float16["),
            "deformed": MASKED.replace("N,", "2,"),
            "half deformed": MASKED.replace("N,", "2,").replace("float[", "float16["),
        }
    )
