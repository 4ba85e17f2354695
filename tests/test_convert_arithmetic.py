"""Arithmetic and scatters with reductions: equal outputs."""

from __future__ import annotations

import numpy as np
import pytest
from conversion import build_converted, check_same, check_suite_case, convert, needs_tensorrt, suite
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model

CASES = suite("mod_", "celu", "cumprod", "det_", "matmul_1d", "scatternd", "scatter_elements")


def model(body: str, opset: int = 26) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]> g {body}'


@pytest.mark.parametrize("name", CASES)
def test_suite_case_keeps_its_outputs(name: str) -> None:
    check_suite_case(name)


FLOATS = st.floats(-100, 100, width=32) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, -0.0])


@settings(max_examples=80, deadline=None)
@given(pairs=st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=9))
def test_the_remainder_has_the_sign_of_the_divisor(pairs: list[tuple[float, float]]) -> None:
    text = model("(float[n] x, float[n] y) => (float[n] z) { z = Mod (x, y) }")
    x, y = np.asarray(pairs, np.float32).T
    after, count, _ = convert(text)
    assert count == 1
    with np.errstate(invalid="ignore"):
        expected = np.mod(x, y)
    np.testing.assert_array_equal(run_model(after, {"x": x, "y": y})["z"], expected)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    axis=st.integers(-3, 2),
    exclusive=st.integers(0, 1),
    reverse=st.integers(0, 1),
    known=st.booleans(),
)
def test_running_products_are_the_same(
    shape: list[int], axis: int, exclusive: int, reverse: int, known: bool
) -> None:
    rank = len(shape)
    axis = axis % rank - rank if axis < 0 else axis % rank
    given_as = f"<int64 a = {{{axis}}}>" if known else ""
    inputs = "" if known else ", int64 a"
    text = model(
        f"(float{shape} x{inputs}) => (float{shape} y) {given_as} "
        f"{{ y = CumProd <exclusive={exclusive}, reverse={reverse}> (x, a) }}"
    )
    x = np.random.default_rng(1).uniform(-2, 2, shape).astype(np.float32)
    after, count, _ = convert(text)
    assert count == 1
    ordered = np.flip(x, axis) if reverse else x
    product = np.cumprod(ordered, axis)
    if exclusive:
        ones = np.ones_like(np.take(product, [0], axis))
        rest = np.take(product, range(shape[axis] - 1), axis)
        product = np.concatenate([ones, rest], axis)
    expected = np.flip(product, axis) if reverse else product
    feeds = {"x": x} if known else {"x": x, "a": np.asarray(axis)}
    # The products are grouped in another way.
    np.testing.assert_allclose(run_model(after, feeds)["y"], expected, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(order=st.integers(1, 6), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_determinants_are_the_same(order: int, batch: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-2, 3, [batch, order, order]).astype(np.float32)
    text = model(f"(float[n,{order},{order}] x) => (float[n] y) {{ y = Det (x) }}", 22)
    _, count = check_same(text, {"x": x}, rtol=1e-4, atol=1e-4)  # entries up to 2, 6 rows
    assert count == 1


@settings(max_examples=60, deadline=None)
@given(
    reduction=st.sampled_from(["add", "mul", "max", "min"]),
    places=st.lists(st.integers(-4, 3), min_size=1, max_size=6),
    inner=st.integers(1, 3),
    floats=st.booleans(),
)
def test_scatter_nd_takes_in_every_update(
    reduction: str, places: list[int], inner: int, floats: bool
) -> None:
    kind, numpy_type = ("float", np.float32) if floats else ("int32", np.int32)
    count = len(places)
    text = model(
        f"({kind}[n,{inner}] x, int64[{count},1] i, {kind}[{count},{inner}] u) "
        f'=> ({kind}[n,{inner}] y) {{ y = ScatterND <reduction="{reduction}"> (x, i, u) }}'
    )
    random = np.random.default_rng(count)
    feeds = {
        "x": random.integers(-3, 4, [4, inner]).astype(numpy_type),
        "i": np.asarray(places)[:, None] % 4,  # ONNX Runtime takes no negative places here
        "u": random.integers(-3, 4, [count, inner]).astype(numpy_type),
    }
    _, done = check_same(text.replace('" : 26', '" : 22'), feeds)
    assert done == 1


@settings(max_examples=60, deadline=None)
@given(
    reduction=st.sampled_from(["add", "mul", "max", "min"]),
    axis=st.integers(-2, 1),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_scatter_elements_takes_in_every_update(
    reduction: str, axis: int, shape: tuple[int, int]
) -> None:
    text = model(
        f"(float[4,4] x, int64[{shape[0]},{shape[1]}] i, float[{shape[0]},{shape[1]}] u) "
        "=> (float[4,4] y) "
        f'{{ y = ScatterElements <reduction="{reduction}", axis={axis}> (x, i, u) }}',
        22,
    )
    random = np.random.default_rng(sum(shape))
    feeds = {
        "x": random.integers(-3, 4, [4, 4]).astype(np.float32),
        "i": random.integers(-4, 4, shape),
        "u": random.integers(-3, 4, shape).astype(np.float32),
    }
    _, done = check_same(text, feeds)
    assert done == 1


@settings(max_examples=60, deadline=None)
@given(
    reduction=st.sampled_from(["add", "mul", "max", "min"]),
    axis=st.integers(-2, 1),
    updates=st.integers(1, 5),
    places=st.integers(1, 4),
    floats=st.booleans(),
)
def test_scatter_elements_takes_in_an_open_number_of_updates(
    reduction: str, axis: int, updates: int, places: int, *, floats: bool
) -> None:
    kind, numpy_type = ("float", np.float32) if floats else ("int32", np.int32)
    there, given = ("[3,p]", "[3,k]") if axis in (1, -1) else ("[p,3]", "[k,3]")
    text = model(
        f"({kind}{there} x, int64{given} i, {kind}{given} u) => ({kind}{there} y) "
        f'{{ y = ScatterElements <reduction="{reduction}", axis={axis}> (x, i, u) }}',
        22,
    )
    random = np.random.default_rng(updates)
    along = 1 if axis in (1, -1) else 0
    sizes = [(3, n) if along else (n, 3) for n in (places, updates)]
    feeds = {
        "x": random.integers(-3, 4, sizes[0]).astype(numpy_type),
        "i": random.integers(-places, places, sizes[1]),
        "u": random.integers(-3, 4, sizes[1]).astype(numpy_type),
    }
    after, done = check_same(text, feeds)
    assert done == 1
    assert all(node.op_type != "ScatterElements" for node in after.graph.node)


def test_half_precision_sums_are_rounded_once() -> None:
    text = model(
        "(float16[1] x, int64[64,1] i, float16[64] u) => (float16[1] y) "
        '{ y = ScatterND <reduction="add"> (x, i, u) }',
        22,
    )
    after, _, _ = convert(text)
    feeds = {
        "x": np.asarray([2048], np.float16),
        "i": np.zeros([64, 1], np.int64),
        "u": np.ones(64, np.float16),
    }
    # One after the other in float16, 2048 + 1 stays 2048.
    assert run_model(after, feeds)["y"] == np.float16(2112)


ADDED_TO_OPEN_PLACES = (
    "(float[4] x, int64[n,1] i, float[n] u) => (float[4] y) "
    '{ y = ScatterND <reduction="add"> (x, i, u) }'
)


ADDED_TO_SOME_COLUMNS = (
    "(float[4,m] x, int64[n,2] i, float[n,2] u) => (float[4,m] y) "
    '{ y = ScatterElements <reduction="add"> (x, i, u) }'
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            ADDED_TO_OPEN_PLACES,
            "number of updates is open",
        ),
        (ADDED_TO_SOME_COLUMNS, "not all of the data gets updates"),
        ("(float[n,m,m] x) => (float[n] y) { y = Det (x) }", "order of its matrix is open"),
        ("(float[99,99] x) => (float y) { y = Det (x) }", "more than 16 rows"),
        ("(float[n] x, int64 a) => (float[n] y) { y = CumProd (x, a) }", "size that is open"),
    ],
)
def test_what_cannot_be_written_out_is_left_with_the_reason(text: str, words: str) -> None:
    _, count, notes = convert(model(text))
    assert count == 0
    assert words in notes[0].text


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    texts = {
        "mod": "(float[4] x, float[4] y) => (float[4] z) { z = Mod (x, y) }",
        "celu": "(float16[4] x) => (float16[4] z) { z = Celu <alpha=2.0> (x) }",
        "matmul": "(float[4] x, float[2,4,3] y) => (float[2,3] z) { z = MatMul (x, y) }",
        "cumprod": "(float[4,5] x, int64 a) => (float[4,5] z) { z = CumProd (x, a) }",
        "det": "(float[2,4,4] x) => (float[2] z) { z = Det (x) }",
        "scatter_open": "(float[n,2] x, int64[k,2] i, float[k,2] u) => (float[n,2] z) "
        '{ z = ScatterElements <reduction="add"> (x, i, u) }',
        "scatternd": "(float[4,2] x, int64[3,1] i, float[3,2] u) => (float[4,2] z) "
        '{ z = ScatterND <reduction="max"> (x, i, u) }',
        "scatter": "(float[4,2] x, int64[3,1] i, float[3,1] u) => (float[4,2] z) "
        '{ z = ScatterElements <reduction="add"> (x, i, u) }',
    }
    build_converted({name: model(text) for name, text in texts.items()})
