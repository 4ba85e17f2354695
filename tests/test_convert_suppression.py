"""NonMaxSuppression as a Loop: the choices of ONNX Runtime, in its order."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import (
    assert_close,
    build_converted,
    check_suite_case,
    convert,
    needs_tensorrt,
    suite,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model


def model(
    shape: tuple[int, int, int],
    results: int | str,
    options: str = "center_point_box = 0",
    most: str = "",
) -> str:
    batch, classes, boxes = shape
    limit = f"<int64 k = {{{most}}}>" if most else ""
    inputs = f"float[{batch},{boxes},4] b, float[{batch},{classes},{boxes}] s, float i, float t"
    return (
        f'<ir_version: 8, opset_import: ["" : 11]> g ({inputs}{"" if most else ", int64 k"}) '
        f"=> (int64[{results},3] y) {limit} {{ y = NonMaxSuppression <{options}> (b, s, k, i, t) }}"
    )


@pytest.mark.parametrize("name", suite("nonmaxsuppression"))
def test_suite_case_keeps_its_outputs(name: str) -> None:
    _, count = check_suite_case(name)
    assert count == 1


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6)),
    most=st.integers(1, 4),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    least=st.sampled_from([-1.0, 0.25, 0.5]),
    centre=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_the_choices_are_those_of_onnxruntime(  # noqa: PLR0917  # one argument per option
    shape: tuple[int, int, int], most: int, overlap: float, least: float, centre: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    boxes = random.uniform(0, 4, (shape[0], shape[2], 4))
    feeds = {
        "b": boxes.astype(np.float32),
        # Eighths, so that scores tie; the earlier box wins a tie.
        "s": (random.integers(0, 8, shape) / 8).astype(np.float32),
        "k": np.array(most),
        "i": np.array(overlap, np.float32),
        "t": np.array(least, np.float32),
    }
    options = f"center_point_box = {centre}"
    expected = run_model(onnx.parser.parse_model(model(shape, "n", options)), feeds)["y"]
    assume(len(expected))
    after, count, _ = convert(model(shape, len(expected), options))
    assert count == 1
    assert_close([run_model(after, feeds)["y"]], [expected], 0, 0)


def test_a_constant_limit_bounds_the_turns() -> None:
    after, _, _ = convert(model((1, 2, 100), 8, most="7"))
    (loop,) = [node for node in after.graph.node if node.op_type == "Loop"]
    turns = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in after.graph.node
        if node.op_type == "Constant"
    }[loop.input[0]]
    assert turns == 7


def test_more_results_than_choices_are_refused() -> None:
    _, count, notes = convert(model((1, 1, 100), 8, most="7"))
    assert count == 0
    assert "cannot choose the 8 boxes" in notes[0].text


def test_an_open_number_of_results_is_refused_with_a_way_out() -> None:
    _, count, notes = convert(model((1, 2, 5), "n"))
    assert count == 0
    assert "end the model before it, at boxes and scores" in notes[0].text


@needs_tensorrt
def test_tensorrt_builds_it() -> None:
    build_converted(
        {
            "run-time limit": model((2, 3, 20), 12),
            "constant limit": model((1, 80, 300), 100, "center_point_box = 1", most="20"),
        }
    )
