"""Resize as gathers and weighted sums: equal to ONNX Runtime in every mode."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from conversion import (
    assert_close,
    build_converted,
    check_suite_case,
    convert,
    needs_tensorrt,
    reference,
    suite,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")


def model(attributes: str, inputs: str, names: str, result: str = "a,b,c,d") -> str:
    return (
        '<ir_version: 10, opset_import: ["" : 22]> '
        f"g (float[1,2,5,6] x, {inputs}) => (float[{result}] y) "
        f"{{ y = Resize <{attributes}> (x, {names}) }}"
    )


@pytest.mark.parametrize("name", suite("resize", "upsample"))
def test_suite_case_keeps_its_outputs(name: str) -> None:
    check_suite_case(name)


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["linear", "cubic", "nearest"]),
    place=st.sampled_from(COORDINATES),
    scales=st.tuples(st.floats(0.4, 2.5), st.floats(0.4, 2.5)),
    exclude=st.integers(0, 1),
)
def test_run_time_scales_are_the_same(
    mode: str, place: str, scales: tuple[float, float], exclude: int
) -> None:
    assume(mode == "cubic" or not exclude)  # ONNX Runtime takes it for cubic only
    sizes = [int(np.float32(5 * scales[0])), int(np.float32(6 * scales[1]))]
    assume(min(sizes) > 1)
    attributes = (
        f'mode="{mode}", coordinate_transformation_mode="{place}", exclude_outside={exclude}'
    )
    result = f"1,2,{sizes[0]},{sizes[1]}"
    text = model(attributes, "float[4] s", '"", s', result)
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 6)).astype(np.float32)
    feeds = {"x": x, "s": np.asarray([1, 1, *scales], np.float32)}
    assume([int(n * s) for n, s in zip((5, 6), feeds["s"][2:], strict=True)] == sizes)
    # The reference floors in float64, ONNX Runtime in float32: 5 * 1.4 gives 6 entries or 7.
    assume([int(n * float(s)) for n, s in zip((5, 6), feeds["s"][2:], strict=True)] == sizes)
    after, count, _ = convert(text)
    assert count == 1
    # ONNX's reference: ONNX Runtime aligns corners by the rounded size. A coordinate that lies
    # half way between two entries may go to either in float32, hence no nearest corners there.
    expected = reference(onnx.parser.parse_model(text), feeds)
    assume(mode != "nearest" or off_the_middle(place, feeds["s"][2:], sizes))
    assert_close(list(run_model(after, feeds).values()), list(expected.values()), 1e-4, 1e-4)


def test_a_size_that_float32_rounds_up_is_the_one_that_onnxruntime_gives() -> None:
    """1.4 is a little less in float32; times 5 it rounds to 7, which the model declares."""
    text = model('mode="linear"', "float[4] s", '"", s', "1,2,7,6")
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 6)).astype(np.float32)
    feeds = {"x": x, "s": np.asarray([1, 1, 1.4, 1], np.float32)}
    after, count, _ = convert(text)
    assert count == 1
    expected = run_model(onnx.parser.parse_model(text), feeds)["y"]
    assert expected.shape == (1, 2, 7, 6)
    assert_close([run_model(after, feeds)["y"]], [expected], 1e-4, 1e-4)


def off_the_middle(place: str, scales: np.ndarray, sizes: list[int]) -> bool:
    """Whether no coordinate is so near a half that float32 may round it to the other side."""
    for size, scale, n in zip(sizes, scales.astype(float), (5, 6), strict=True):
        at = np.arange(size)
        x = {"asymmetric": at / scale, "align_corners": at * (n - 1) / (scale * n - 1)}.get(
            place, (at + 0.5) / scale - 0.5
        )
        if np.any(np.abs(x % 1 - 0.5) < 1e-4):
            return False
    return True


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(3, 4), (2, 6), (5, 3), (9, 2)])
def test_antialias_is_the_same(mode: str, size: tuple[int, int]) -> None:
    text = model(
        f'mode="{mode}", antialias=1', "int64[4] n", '"", "", n', f"1,2,{size[0]},{size[1]}"
    )
    feeds = {
        "x": np.random.default_rng(0).normal(size=(1, 2, 5, 6)).astype(np.float32),
        "n": np.asarray([1, 2, *size]),
    }
    after, count, _ = convert(text)
    assert count == 1
    expected = reference(onnx.parser.parse_model(text), feeds)
    assert_close(list(run_model(after, feeds).values()), list(expected.values()), 1e-4, 1e-5)


def test_a_region_outside_the_image_has_the_extrapolation_value() -> None:
    text = model(
        'mode="linear", coordinate_transformation_mode="tf_crop_and_resize", '
        "extrapolation_value=7.0, axes=[2,3]",
        "float[4] r, int64[2] n", 'r, "", n', "1,2,4,4",
    )  # fmt: skip
    feeds = {
        "x": np.random.default_rng(0).normal(size=(1, 2, 5, 6)).astype(np.float32),
        "r": np.asarray([0.2, -0.4, 1.3, 0.8], np.float32),
        "n": np.asarray([4, 4]),
    }
    after, _, _ = convert(text)
    expected = run_model(onnx.parser.parse_model(text), feeds)["y"]
    assert (expected == 7).any()
    assert_close([run_model(after, feeds)["y"]], [expected], 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (model('mode="linear"', "float[4] s", '"", s'), "declares no sizes"),
        (
            model('mode="linear", antialias=1', "int64[4] n", '"", "", n').replace(
                "float[", "int32["
            ),
            "rounded",
        ),
    ],
)
def test_what_it_cannot_know_is_left_with_the_reason(text: str, words: str) -> None:
    _, count, notes = convert(text)
    assert count == 0
    assert words in notes[0].text


def test_what_tensorrt_takes_stays() -> None:
    text = model('mode="linear"', "float z", '"", s').replace(
        "(float[a,b,c,d] y)", "(float[a,b,c,d] y) <float[4] s = {1, 1, 2, 2}>"
    )
    _, count, notes = convert(text)
    assert (count, notes) == (0, [])


@needs_tensorrt
def test_tensorrt_builds_each_form() -> None:
    texts = {
        "nearest": model('mode="nearest"', "float[4] s", '"", s', "1,2,10,9"),
        "cubic": model('mode="cubic", exclude_outside=1', "float[4] s", '"", s', "1,2,10,9"),
        "antialias": model('mode="linear", antialias=1', "int64[4] n", '"", "", n', "1,2,2,3"),
        "aspect": model(
            'mode="nearest", keep_aspect_ratio_policy="not_larger", axes=[2,3]',
            "int64[2] n", '"", "", n', "1,2,3,4",
        ),
    }  # fmt: skip
    build_converted(texts)
