"""Fourier transforms, mel filters, AffineGrid and Col2Im: equal outputs."""

from __future__ import annotations

import numpy as np
import pytest
from conversion import build_converted, check_same, check_suite_case, convert, needs_tensorrt, suite
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.testing import run_model

CASES = [
    name
    for name in suite("dft", "stft", "melweight", "affine_grid", "col2im")
    # The suite expects the rounding error of its own transform: 1.9e-7 where the exact result is
    # 0, with a tolerance of 1e-7. test_transforms_are_the_same holds the inverse.
    if not name.startswith("dft_inverse")
]


def model(body: str, opset: int = 22) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]> g {body}'


@pytest.mark.parametrize("name", CASES)
def test_suite_case_keeps_its_outputs(name: str) -> None:
    _, count = check_suite_case(name)
    assert count > 0


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12),
    complex_input=st.booleans(),
    inverse=st.booleans(),
    length=st.none() | st.integers(1, 14),
    batch=st.sampled_from(["n", "2"]),
)
def test_transforms_are_the_same(
    size: int, complex_input: bool, inverse: bool, length: int | None, batch: str
) -> None:
    parts = 1 + complex_input
    names = 'x, "", a' if length is None else "x, l, a"
    constants = (
        "<int64 a = {1}>" if length is None else f"<int64 a = {{1}}, int64 l = {{{length}}}>"
    )
    text = model(
        f"(float[{batch},{size},3,{parts}] x) => (float[{batch},m,3,2] y) {constants} "
        f"{{ y = DFT <inverse={int(inverse)}> ({names}) }}"
    )
    x = np.random.default_rng(size).normal(size=(2, size, 3, parts)).astype(np.float32)
    after, count, _ = convert(text)
    assert count == 1
    signal = x[..., 0] + (1j * x[..., 1] if complex_input else 0)
    transform = np.fft.ifft if inverse else np.fft.fft
    expected = transform(signal, n=length, axis=1)
    found = run_model(after, {"x": x})["y"]
    # NumPy in float64; up to 14 products are added in float32.
    np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 13))
def test_the_spectrum_of_a_real_signal_and_back(size: int) -> None:
    bins = size // 2 + 1
    x = np.random.default_rng(size).normal(size=(2, size, 1)).astype(np.float32)
    forward, _, _ = convert(
        model(
            f"(float[2,{size},1] x) => (float[2,{bins},2] y) <int64 a = {{1}}> "
            '{ y = DFT <onesided=1> (x, "", a) }'
        )
    )
    spectrum = run_model(forward, {"x": x})["y"]
    back, _, _ = convert(
        model(
            f"(float[2,{bins},2] y) => (float[2,{size},1] x) "
            f"<int64 a = {{1}}, int64 l = {{{size}}}> "
            "{ x = DFT <onesided=1, inverse=1> (y, l, a) }"
        )
    )
    np.testing.assert_allclose(
        spectrum[..., 0] + 1j * spectrum[..., 1], np.fft.rfft(x[..., 0]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(run_model(back, {"y": spectrum})["x"], x, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(frame=st.integers(2, 9), step=st.integers(1, 4), windowed=st.booleans())
def test_frames_with_a_run_time_window_are_the_same(frame: int, step: int, windowed: bool) -> None:
    count, bins = 1 + (24 - frame) // step, frame // 2 + 1
    inputs = f", float[{frame}] w" if windowed else ", int64 s"
    constants = f"int64 l = {{{frame}}}"
    if windowed:
        constants += f", int64 s = {{{step}}}"
    names = "x, s, w, l" if windowed else 'x, s, "", l'
    text = model(
        f"(float[2,24,1] x{inputs}) => (float[2,{count},{bins},2] y) <{constants}> "
        f"{{ y = STFT ({names}) }}"
    )
    random = np.random.default_rng(frame)
    feeds = {"x": random.normal(size=(2, 24, 1)).astype(np.float32)}
    if windowed:
        feeds["w"] = random.normal(size=frame).astype(np.float32)
    else:
        feeds["s"] = np.asarray(step)
    _, done, notes = convert(text)
    if not done:
        assert "do not settle" in notes[0].text  # two steps give as many frames
        return
    check_same(text, feeds, rtol=1e-4, atol=1e-5)  # another order of additions


@settings(max_examples=40, deadline=None)
@given(
    block=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pad=st.integers(0, 1),
    known=st.booleans(),
)
def test_columns_become_the_same_image(
    block: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pad: int,
    known: bool,
) -> None:
    image = (6, 7)
    counts = [
        (image[i] + 2 * pad - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in (0, 1)
    ]
    columns = f"2,{3 * block[0] * block[1]},{counts[0] * counts[1]}"
    constants = f"<int64[2] i = {{6, 7}}, int64[2] b = {{{block[0]}, {block[1]}}}>" if known else ""
    inputs = "" if known else ", int64[2] i, int64[2] b"
    text = model(
        f"(float[{columns}] x{inputs}) => (float[2,3,6,7] y) {constants} "
        f"{{ y = Col2Im <strides={list(strides)}, dilations={list(dilations)}, "
        f"pads={[pad] * 4}> (x, i, b) }}"
    )
    shape = [int(each) for each in columns.split(",")]
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    if not known:
        feeds |= {"i": np.asarray(image), "b": np.asarray(block)}
    _, count = check_same(text, feeds, rtol=1e-5, atol=1e-5)  # another order of additions
    assert count == 1


@pytest.mark.parametrize("align", [0, 1])
def test_a_constant_size_needs_no_declared_shape(align: int) -> None:
    text = model(
        "(float[n,2,3] t) => (float[n,h,w,2] y) <int64[4] s = {2, 1, 4, 5}> "
        f"{{ y = AffineGrid <align_corners={align}> (t, s) }}"
    )
    theta = np.random.default_rng(0).normal(size=(2, 2, 3)).astype(np.float32)
    _, count = check_same(text, {"t": theta}, rtol=1e-5, atol=1e-6)
    assert count == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[1,n,1] x) => (float[1,n,2] y) { y = DFT (x) }", "length of its transform is open"),
        ("(float[1,9000,1] x) => (float[1,9000,2] y) { y = DFT (x) }", "too large a matrix"),
        (
            "(float[1,24,1] x, int64 s, float[4] w) => (float[1,f,3,2] y) { y = STFT(x, s, w) }",
            "do not settle",
        ),
        (
            "(float[1,6,n] x, int64[2] i, int64[2] b) => (float[1,c,h,w] y) {y = Col2Im(x, i, b)}",
            "declares none",
        ),
    ],
)
def test_what_shapes_do_not_settle_is_left_with_the_reason(text: str, words: str) -> None:
    _, count, notes = convert(model(text))
    assert count == 0
    assert any(words in note.text for note in notes), notes


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    texts = {
        "dft": '(float[n,10,1] x) => (float[n,10,2] y) <int64 a = {1}> { y = DFT (x, "", a) }',
        "stft": "(float[1,24,1] x, float[8] w) => (float[1,5,5,2] y) <int64 s = {4}> "
        "{ y = STFT (x, s, w) }",
        "mel": "(int32 n, int32 l, int32 r, float a, float b) => (float[9,8] y) "
        "{ y = MelWeightMatrix (n, l, r, a, b) }",
        "grid": "(float[2,2,3] t, int64[4] s) => (float[2,4,5,2] y) { y = AffineGrid (t, s) }",
        "col2im": "(float[1,6,20] x) => (float[1,1,6,6] y) "
        "<int64[2] i = {6, 6}, int64[2] b = {2, 3}> { y = Col2Im (x, i, b) }",
    }
    build_converted({name: model(text.replace("[n,", "[2,")) for name, text in texts.items()})
