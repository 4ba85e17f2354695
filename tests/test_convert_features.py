"""Operators of classic models and of training: features, n-grams, Dropout."""

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
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

HEAD = '<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]> g'
FEATURES = {
    "binarizer": "(float[n,3] x) => (float[n,3] y) "
    "{ y = ai.onnx.ml.Binarizer <threshold = 0.5> (x) }",
    "extractor": "(float[n,3] x) => (float[n,2] y) <int64[2] at = {2, 0}> "
    "{ y = ai.onnx.ml.ArrayFeatureExtractor (x, at) }",
    "scaler": "(float[n,3] x) => (float[n,3] y) "
    "{ y = ai.onnx.ml.Scaler <offset = [1.0, 2.0, 0.5], scale = [2.0, 0.25, 3.0]> (x) }",
    "one scale": "(float[n,3] x) => (float[n,3] y) "
    "{ y = ai.onnx.ml.Scaler <offset = [1.5], scale = [2.0]> (x) }",
    "regressor": "(float[n,3] x) => (float[n,2] y) { y = ai.onnx.ml.LinearRegressor <targets = 2, "
    "coefficients = [1.0, 2.0, 0.5, 4.0, 0.25, 3.0], intercepts = [0.5, 2.5]> (x) }",
}


@pytest.mark.parametrize(
    "name", ["ai_onnx_ml_binarizer", "ai_onnx_ml_array_feature_extractor", *suite("tfidf")]
)
def test_suite_case_keeps_its_outputs(name: str) -> None:
    _, count = check_suite_case(name)
    assert count >= 1


@pytest.mark.parametrize("name", FEATURES)
@settings(max_examples=20, deadline=None)
@given(
    x=arrays(
        np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=st.floats(-9, 9, width=32)
    )
)
def test_features_are_those_of_onnxruntime(name: str, x: np.ndarray) -> None:
    # a sum of three products below 100, in another order
    _, count = check_same(f"{HEAD} {FEATURES[name]}", {"x": x}, rtol=1e-6, atol=1e-5)
    assert count >= 1


def test_a_model_without_standard_operators_gets_their_opset() -> None:
    text = FEATURES["binarizer"]
    model = onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["ai.onnx.ml" : 1]> g {text}')
    after, _, _ = convert(model)
    assert {each.domain: each.version for each in after.opset_import} == {"ai.onnx.ml": 1, "": 9}
    x = np.array([[0, 0.5, 1]], np.float32)
    np.testing.assert_array_equal(evaluate(after, {"x": x})["y"], [[0, 0, 1]])


@st.composite
def vectorizers(draw: st.DrawFn) -> str:
    """Attributes of a TfIdfVectorizer over the numbers 0 to 3, with n-grams of up to 3."""
    grams = [
        draw(st.lists(st.tuples(*[st.integers(0, 3)] * n), max_size=3, unique=True))
        for n in (1, 2, 3)
    ]
    total = sum(map(len, grams))
    assume(total)
    starts = [sum(n * len(each) for n, each in enumerate(grams[:i], 1)) for i in range(3)]
    pool = [number for each in grams for gram in each for number in gram]
    least = draw(st.integers(1, 3))
    places = draw(st.permutations(range(total + 1)))[:total]
    weights = [draw(st.sampled_from([0.5, 2.0, 3.0])) for _ in range(total)]
    mode = draw(st.sampled_from(["TF", "IDF", "TFIDF"]))
    return (
        f'mode = "{mode}", min_gram_length = {least}, '
        f"max_gram_length = {draw(st.integers(least, 3))}, "
        f"max_skip_count = {draw(st.integers(0, 3))}, ngram_counts = {starts}, "
        f"ngram_indexes = {list(places)}, pool_int64s = {pool}, weights = {weights}"
    )


@settings(max_examples=60, deadline=None)
@given(
    attributes=vectorizers(),
    x=arrays(np.int64, st.tuples(st.integers(1, 2), st.integers(1, 6)), elements=st.integers(0, 3)),
    flat=st.booleans(),
)
def test_any_vectorizer_counts_as_onnxruntime_does(
    attributes: str, x: np.ndarray, flat: bool
) -> None:
    x = x[0] if flat else x
    shape = f"{x.shape[-1]}" if flat else f"n,{x.shape[-1]}"
    text = (
        f"{HEAD} (int64[{shape}] x) => (float[{'c' if flat else 'n,c'}] y) "
        f"{{ y = TfIdfVectorizer <{attributes}> (x) }}"
    )
    _, count = check_same(text, {"x": x})
    assert count == 1


DROPOUT = f"""{HEAD} (float[n,3] x) => (float[n,3] y, bool[n,3] m)
<float r = {{RATIO}}, bool t = {{1}}> {{ y, m = Dropout (x, r, t) }}"""
UNIGRAM = (
    'mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, '
    "ngram_counts = [0], ngram_indexes = [0], pool_int64s = [1]"
)


def test_dropout_that_drops_nothing_passes_its_input_on() -> None:
    x = np.array([[1, -2, np.nan]], np.float32)
    after, count, _ = convert(DROPOUT.replace("RATIO", "0"))
    assert count == 1
    found, expected = evaluate(after, {"x": x}), reference(after, {"x": x})
    assert_close([found["y"], expected["y"]], [x, x], 0, 0)
    assert found["m"].all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DROPOUT.replace("RATIO", "0.5"), "export for inference"),
        (
            f'{HEAD} (float[3] x, bool t) => (float[3] y) {{ y = Dropout (x, "", t) }}',
            "freeze it",
        ),
        (
            f"{HEAD} (int64[n] x) => (float[c] y) {{ y = TfIdfVectorizer <{UNIGRAM}> (x) }}",
            "the length of its input is open",
        ),
        (
            f"{HEAD} {FEATURES['regressor']}".replace(
                "targets", 'post_transform = "PROBIT", targets'
            ),
            "post_transform",
        ),
    ],
)
def test_what_no_rule_can_write_is_left_with_the_reason(text: str, reason: str) -> None:
    _, count, notes = convert(text)
    assert count == 0
    assert reason in notes[0].text


@needs_tensorrt
def test_tensorrt_builds_each_rule() -> None:
    ngrams = (
        '(int32[2,6] x) => (float[2,3] y) { y = TfIdfVectorizer <mode = "TFIDF", '
        "min_gram_length = 1, max_gram_length = 2, max_skip_count = 1, ngram_counts = [0, 1], "
        "ngram_indexes = [2, 0], pool_int64s = [1, 2, 3], weights = [2.0, 3.0]> (x) }"
    )
    texts = {**FEATURES, "n-grams": ngrams}
    models = {name: f"{HEAD} {text}".replace("[n,", "[2,") for name, text in texts.items()}
    build_converted({**models, "dropout": DROPOUT.replace("RATIO", "0").replace("[n,", "[2,")})
