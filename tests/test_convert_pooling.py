"""Poolings as slices: equal values and equal indices, whatever the window."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from conversion import build_converted, check_same, check_suite_case, convert, needs_tensorrt, suite
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model


def model(op: str, shape: str, attributes: str, outputs: str = "float[a,b,c,d] y") -> str:
    names = ", ".join(each.split()[-1] for each in outputs.split(", "))
    return (
        f'<ir_version: 10, opset_import: ["" : 22]> g (float[{shape}] x) => ({outputs}) '
        f"{{ {names} = {op} <{attributes}> (x) }}"
    )


@pytest.mark.parametrize(
    "name", [name for name in suite("maxpool", "averagepool", "lppool") if "large" not in name]
)
def test_suite_case_keeps_its_outputs(name: str) -> None:
    check_suite_case(name)


@pytest.mark.parametrize("name", suite("maxunpool"))
def test_unpool_follows_the_reference(name: str) -> None:
    after, count = check_suite_case(name)
    assert count == 1
    assert "ScatterElements" in [node.op_type for node in after.graph.node]


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], str]:
    """A spatial shape of two axes, and the attributes of a window that fits it."""
    pairs: dict[str, list[int]] = {"kernel_shape": [], "strides": [], "dilations": []}
    pads: list[list[int]] = []
    shape = []
    for _ in range(2):
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        pairs["kernel_shape"].append(kernel)
        pairs["strides"].append(draw(st.integers(1, 3)))
        pairs["dilations"].append(dilation)
        pads.append([draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))])
        shape.append(draw(st.integers((kernel - 1) * dilation + 1, 9)))
    assume(pairs["dilations"] != [1, 1])
    parts = [f"{name}={numbers}" for name, numbers in pairs.items()]
    parts.append(f"pads={[pad[0] for pad in pads] + [pad[1] for pad in pads]}")
    parts.append(f"ceil_mode={draw(st.integers(0, 1))}")
    return shape, ", ".join(parts)


def values(shape: list[int], seed: int) -> np.ndarray:
    """Small whole numbers, with ties and infinities."""
    found = np.random.default_rng(seed).integers(-3, 4, [2, 3, *shape]).astype(np.float32)
    return np.where(found == -3, -np.inf, found).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(window=windows(), seed=st.integers(0, 9))
def test_dilated_max_pool_is_the_same(window: tuple[list[int], str], seed: int) -> None:
    shape, attributes = window
    text = model("MaxPool", f"2,3,{shape[0]},{shape[1]}", attributes)
    _, count = check_same(text, {"x": values(shape, seed)})
    assert count == 1


@settings(max_examples=50, deadline=None)
@given(window=windows(), seed=st.integers(0, 9), order=st.integers(0, 1))
def test_indices_are_the_same(window: tuple[list[int], str], seed: int, order: int) -> None:
    shape, attributes = window
    text = model(
        "MaxPool",
        f"2,3,{shape[0]},{shape[1]}",
        f"{attributes}, storage_order={order}",
        "float[a,b,c,d] y, int64[a,b,c,d] i",
    )
    # Ties go to the first entry; a window of nothing but -inf has no index in ONNX Runtime.
    finite = np.nan_to_num(values(shape, seed), neginf=-9)
    check_same(text, {"x": finite})


@settings(max_examples=50, deadline=None)
@given(window=windows(), seed=st.integers(0, 9), include=st.integers(0, 1))
def test_dilated_mean_is_the_same(window: tuple[list[int], str], seed: int, include: int) -> None:
    shape, attributes = window
    text = model(
        "AveragePool", f"2,3,{shape[0]},{shape[1]}", f"{attributes}, count_include_pad={include}"
    )
    finite = np.nan_to_num(values(shape, seed), neginf=-9)
    check_same(text, {"x": finite}, rtol=1e-6, atol=1e-6)  # the order of additions differs


@pytest.mark.parametrize(
    ("mode", "pads"), [("SAME_UPPER", [2, 1, 2, 2]), ("SAME_LOWER", [2, 2, 2, 1])]
)
def test_same_pads_by_the_whole_reach_of_a_window(mode: str, pads: list[int]) -> None:
    # ONNX: the result has ceil(size / stride) entries. ONNX Runtime overlooks the dilation there,
    # so that the model with the padding written out is the expected one.
    window = "kernel_shape=[3,4], strides=[2,1], dilations=[2,1]"
    x = values([5, 7], 0)
    same, _, _ = convert(model("MaxPool", "2,3,5,7", f'{window}, auto_pad="{mode}"'))
    written = onnx.parser.parse_model(model("MaxPool", "2,3,5,7", f"{window}, pads={pads}"))
    found, expected = run_model(same, {"x": x})["y"], run_model(written, {"x": x})["y"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_any_norm_is_the_same(p: int) -> None:
    text = model("LpPool", "2,3,7,8", f"kernel_shape=[3,2], strides=[2,1], dilations=[2,3], p={p}")
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 8)).astype(np.float32)
    check_same(text, {"x": x}, rtol=1e-5, atol=1e-5)  # powers and roots in float32


def test_open_sizes_stay_open() -> None:
    text = model("MaxPool", "n,3,h,w", "kernel_shape=[3,3], dilations=[2,2], pads=[1,1,1,1]")
    for size in (5, 8):
        x = np.random.default_rng(size).normal(size=(1, 3, size, size + 1)).astype(np.float32)
        _, count = check_same(text, {"x": x})
        assert count == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (model("MaxPool", "1,1,h,w", 'kernel_shape=[2,2], dilations=[2,2], strides=[2,2], '
               'auto_pad="SAME_UPPER"'), "auto_pad needs"),
        (model("AveragePool", "1,1,h,w", "kernel_shape=[2,2], dilations=[2,2], pads=[1,1,1,1]"),
         "how much padding"),
        (model("MaxPool", "1,1,h,w", "kernel_shape=[2,2]", "float[a,b,c,d] y, int64[a,b,c,d] i"),
         "whose shape is open"),
        (model("MaxPool", "1,1,400,400", "kernel_shape=[200,200], dilations=[2,2], pads=[9,9,9,9]"),
         "larger than 256"),
    ],
)  # fmt: skip
def test_what_needs_sizes_is_left_with_the_reason(text: str, words: str) -> None:
    _, count, notes = convert(text)
    assert count == 0
    assert words in notes[0].text


def test_what_tensorrt_takes_stays() -> None:
    for op, more in (("MaxPool", ""), ("AveragePool", ""), ("LpPool", ", p=1")):
        _, count, notes = convert(model(op, "1,2,6,6", f"kernel_shape=[2,2]{more}"))
        assert (count, notes) == (0, [])


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    pool: dict[str, Any] = {
        "max": model("MaxPool", "1,2,8,8", "kernel_shape=[3,3], dilations=[2,2], pads=[1,1,1,1]"),
        "indices": model(
            "MaxPool", "1,2,8,8", "kernel_shape=[2,2]", "float[a,b,c,d] y, int64[a,b,c,d] i"
        ),
        "mean": model("AveragePool", "1,2,8,8", "kernel_shape=[3,3], dilations=[2,2]"),
        "norm": model("LpPool", "1,2,8,8", "kernel_shape=[3,3], p=3"),
    }
    build_converted(pool)
