"""Run-time axes and sizes that the declared shapes settle: equal outputs, and nothing guessed."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from conversion import (
    assert_close,
    build_converted,
    case,
    check_suite_case,
    convert,
    evaluate,
    needs_tensorrt,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model

REDUCTIONS = tuple(
    f"reduce_{name}_" for name in ("l1", "l2", "log", "max", "mean", "min", "prod", "sum")
)


def model(body: str, opset: int = 22) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]> g {body}'


@pytest.mark.parametrize(
    "name",
    [*suite(*REDUCTIONS, "onehot", "compress", "nonzero", "squeeze", "unsqueeze"),
     *(name for name in suite("range_") if "bfloat16" not in name), "unique_length_1"],
)  # fmt: skip
def test_suite_case_keeps_its_outputs(name: str) -> None:
    check_suite_case(name)


def test_bfloat16_range_rounds_once() -> None:
    # ONNX Runtime and the reference have no Range of bfloat16, so that the formula is held instead.
    given = case("range_bfloat16_type_positive_delta")
    after, count, _ = convert(given.model)
    assert count > 0
    assert [node.op_type for node in after.graph.node if node.op_type == "Range"] == []


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    keep=st.booleans(),
    op=st.sampled_from(
        ["Sum", "Max", "Min", "Mean", "Prod", "L1", "L2", "LogSumExp", "SumSquare", "LogSum"]
    ),
    data=st.data(),
)
def test_a_reduction_by_run_time_axes_is_the_same(
    shape: list[int], keep: bool, op: str, data: st.DataObject
) -> None:
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    signs = data.draw(st.lists(st.booleans(), min_size=len(axes), max_size=len(axes)))
    written = [
        axis - rank if negative else axis for axis, negative in zip(axes, signs, strict=True)
    ]
    result = [1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes]
    before = model(
        f"(float{shape} x, int64[{len(axes)}] axes) => (float{result or ''} y) "
        f"{{ y = Reduce{op} <keepdims={int(keep)}> (x, axes) }}"
    )
    x = np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)
    feeds = {"x": x, "axes": np.asarray(written, np.int64)}
    after, _, notes = convert(before)
    expected = run_model(onnx.parser.parse_model(before), feeds)
    # The order of a sum's additions depends on which axes are reduced at once.
    assert_close(
        list(run_model(after, feeds).values()), list(expected.values()), rtol=1e-6, atol=1e-6
    )
    reductions = [node for node in after.graph.node if node.op_type == f"Reduce{op}"]
    settled = all(node.input[1] != "axes" for node in reductions)
    assert settled or any("do not settle" in note.text for note in notes)


def test_shapes_declared_behind_the_reduction_count() -> None:
    text = model(
        "(float[3,4] x, int64[1] a) => (float[3,1] y) { s = ReduceSumSquare (x, a) y = Sqrt (s) }"
    )
    after, count, _ = convert(text)
    assert count == 1
    x = np.ones((3, 4), np.float32)
    found = run_model(after, {"x": x, "a": np.asarray([1])})["y"]
    np.testing.assert_array_equal(found, np.full((3, 1), 2, np.float32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[2,3] x, int64[1] a) => (float[n,m] y) { y = ReduceSum (x, a) }", "freeze-inputs"),
        ("(float[2,3] x, int64[k] a) => (float[n,m] y) { y = ReduceSum (x, a) }", "no shapes"),
        ("(float[2,3] x, int64[1] a) => (float[p,q,r] y) { y = Unsqueeze (x, a) }", "no shape"),
        (
            "(float[3] x, bool[3] c) => (float[n] y) { y = Compress <axis=0> (x, c) }",
            "declares none",
        ),
        ("(int64[3] x) => (int64[n] y) { y = Unique (x) }", "declares none"),
        ("(float a, float b, float c) => (float[n] y) { y = Range (a, b, c) }", "declares none"),
        (
            "(int64[3] i, int64 d, float[2] v) => (float[3,n] y) { y = OneHot (i, d, v) }",
            "declares none",
        ),
    ],
)
def test_what_shapes_do_not_settle_is_left_with_the_reason(text: str, words: str) -> None:
    _, count, notes = convert(model(text))
    assert count == 0
    assert any(words in note.text for note in notes), notes


def test_constant_axes_are_none_of_its_business() -> None:
    _, count, notes = convert(
        model("(float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceSum (x, a) }")
    )
    assert (count, notes) == (0, [])


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=9),
    ordered=st.booleans(),
    floats=st.booleans(),
)
def test_unique_of_a_declared_number_is_the_same(
    values: list[int], ordered: bool, floats: bool
) -> None:
    n, k = len(values), len(set(values))
    kind = "float" if floats else "int64"
    before = model(
        f"({kind}[{n}] x) => ({kind}[{k}] y, int64[{k}] i, int64[{n}] r, int64[{k}] c) "
        f"{{ y, i, r, c = Unique <sorted={int(ordered)}> (x) }}"
    )
    after, count, _ = convert(before)
    assert count == 1
    feeds = {"x": np.asarray(values, np.float32 if floats else np.int64)}
    expected = run_model(onnx.parser.parse_model(before), feeds)
    assert_close(list(run_model(after, feeds).values()), list(expected.values()), 0, 0)


@settings(max_examples=40, deadline=None)
@given(flags=st.lists(st.booleans(), min_size=1, max_size=12), columns=st.integers(1, 3))
def test_compress_and_nonzero_are_the_same(flags: list[bool], columns: int) -> None:
    n, k = len(flags), sum(flags)
    if k == 0:
        return  # a declared size of 0 leaves nothing to compute
    text = (
        f"(float[{n},{columns}] x, bool[{n}] c) => (float[{k},{columns}] y, int64[1,{k}] z) "
        "{ y = Compress <axis=0> (x, c) z = NonZero (c) }"
    )
    after, count, _ = convert(model(text))
    assert count == 2
    feeds = {
        "x": np.arange(n * columns, dtype=np.float32).reshape(n, columns),
        "c": np.asarray(flags),
    }
    expected = run_model(onnx.parser.parse_model(model(text)), feeds)
    assert_close(list(evaluate(after, feeds).values()), list(expected.values()), 0, 0)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    diagonal=st.integers(-5, 5),
    dtype=st.sampled_from(["", ", dtype=7"]),
)
def test_an_identity_matrix_of_an_open_size_is_the_same(
    shape: tuple[int, int], diagonal: int, dtype: str
) -> None:
    made = "int64" if dtype else "float"
    text = model(f"(float[n,m] x) => ({made}[n,m] y) {{ y = EyeLike <k={diagonal}{dtype}> (x) }}")
    after, count, _ = convert(text)
    assert count == 1
    expected = np.eye(*shape, k=diagonal, dtype=np.int64 if dtype else np.float32)
    found = run_model(after, {"x": np.ones(shape, np.float32)})
    assert_close([found["y"]], [expected], 0, 0)


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    texts = {
        "reduce": "(float[3,2] x, int64[1] a) => (float[3,1] y) { y = ReduceSum (x, a) }",
        "chosen": "(float[2,2] x, int64[1] a) => (float[2] y) "
        "{ y = ReduceSum <keepdims=0> (x, a) }",
        "bool": "(bool[3,2] x, int64[1] a) => (bool[3,1] y) { y = ReduceMax (x, a) }",
        "unsqueeze": "(float[3,2] x, int64[1] a) => (float[3,1,2] y) { y = Unsqueeze (x, a) }",
        "range": "(float a, float b, float c) => (float[5] y) { y = Range (a, b, c) }",
        "onehot": "(int64[3] i, int64 d, float[2] v) => (float[3,4] y) { y = OneHot (i, d, v) }",
        "compress": "(float[5,2] x, bool[5] c) => (float[3,2] y) { y = Compress <axis=0> (x, c) }",
        "nonzero": "(float[5,2] x) => (int64[2,3] y) { y = NonZero (x) }",
        "eye": "(float[n,m] x) => (float[n,m] y) { e = EyeLike (x) y = Add (e, x) }",
        "unique": "(float[6] x) => (float[4] y) { y = Unique (x) }",
    }
    build_converted({name: model(text) for name, text in texts.items()})
