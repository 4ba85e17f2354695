"""Slices of different axes and Reshapes in a row become one node, with the same elements."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.clean import DropDeadCode, InferShapes, MergeViews

from trtforge.testing import apply, run_model

SIZES = (2, 4, 5)


def written(body: str, numbers: str, outputs: str = "float[o,p,q] y") -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[batch,4,5] x) => ({outputs}) <{numbers}> {{ {body} }}"""
    model, *_ = apply(InferShapes(), onnx.parser.parse_model(text))
    return model


def merged(model: ir.Model) -> tuple[ir.Model, int]:
    """The model after the pass, checked to give the same elements."""
    after, count, _ = apply(MergeViews(), model)
    after, *_ = apply(DropDeadCode(), after)
    feeds = {"x": np.random.default_rng(0).standard_normal(SIZES).astype(np.float32)}
    for name, expected in run_model(model, feeds).items():
        np.testing.assert_array_equal(run_model(after, feeds)[name], expected)
    return after, count


CUT = st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.sampled_from([-2, -1, 1, 2, 3]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, -1]), CUT), min_size=2, max_size=4))
def test_slices_in_a_row(cuts: list[tuple[int, tuple[int, int, int]]]) -> None:
    body, numbers = [], []
    for index, (axis, cut) in enumerate(cuts):
        names = [f"{kind}{index}" for kind in ("start", "end", "axis", "step")]
        values = (cut[0], cut[1], axis, cut[2])
        numbers += [
            f"int64[1] {name} = {{{value}}}" for name, value in zip(names, values, strict=True)
        ]
        source = f"v{index - 1}" if index else "x"
        result = "y" if index == len(cuts) - 1 else f"v{index}"
        body.append(f"{result} = Slice ({source}, {', '.join(names)})")
    after, count = merged(written(" ".join(body), ", ".join(numbers)))
    axes = [axis % 3 for axis, _ in cuts]
    assert len(after.graph) == len(cuts) - count
    assert count >= (axes[0] != axes[1])


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5)), st.sampled_from(["{-1,1,4,1,5}", "{-1,4,1,5,1}", "{-1,2,2,1,5}"]))
def test_transposes_between_reshapes(order: list[int], parts: str) -> None:
    numbers = f"int64[5] parts = {parts}, int64[2] flat = {{-1,20}}"
    body = f"cut = Reshape (x, parts) t = Transpose <perm = {order}> (cut) y = Reshape (t, flat)"
    after, _ = merged(written(body, numbers, "float[o,p] y"))
    sizes = [2, *map(int, parts.strip("{}").split(",")[1:])]
    real = [axis for axis in order if sizes[axis] != 1]
    moves = real != sorted(real)
    assert len(after.graph) == (3 if moves else 1 if order != sorted(order) else len(after.graph))


def test_an_old_opset_is_left_alone() -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]>
    g (float[2,3] x) => (float[3,2] y) { y = Transpose <perm = [1,0]> (x) }"""
    _, count, notes = apply(MergeViews(), onnx.parser.parse_model(text))
    assert count == 0
    assert "opset 13" in notes[0].text


@settings(max_examples=30, deadline=None)
@given(st.permutations(["batch", "4", "5"]), st.integers(0, 3))
def test_a_target_that_is_computed_from_sizes_becomes_a_constant(
    order: list[str], split: int
) -> None:
    """Whatever is known of the result: one size may be open, or be the same one of the source."""
    places = {"batch": 0, "4": 1, "5": 2}
    parts = [f"d{places[dim]}" for dim in order]
    parts.insert(split, "ones")
    dims = ["1" if part == "ones" else order[parts.index(part) - (parts.index(part) > split)]
            for part in parts]  # fmt: skip
    sizes = " ".join(f"d{axis} = Shape <start = {axis}, end = {axis + 1}> (x)" for axis in range(3))
    body = f"{sizes} target = Concat <axis = 0> ({', '.join(parts)}) y = Reshape (x, target)"
    after, count = merged(written(body, "int64[1] ones = {1}", f"float[{', '.join(dims)}] y"))
    assert (count, len(after.graph)) == (1, 1)
