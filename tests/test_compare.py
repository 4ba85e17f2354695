"""The metrics, against figures worked out by hand and against the same sums done at once."""

from math import inf, log10

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtforge.artifacts import Comparison, OutputComparison
from trtforge.compare import compare, meets
from trtforge.context import Requirements


def one(expected, actual) -> OutputComparison:
    (result,) = compare([{"y": np.asarray(expected)}], [{"y": np.asarray(actual)}])
    return result


def test_metrics_are_those_worked_out_by_hand():
    result = one([3.0, 4.0], [3.0, 5.0])
    assert result.max_abs == 1.0
    assert result.max_rel == 1.0 / 4.0
    assert result.cosine == pytest.approx(29 / (5 * 34**0.5), rel=1e-15)
    assert result.sqnr_db == pytest.approx(10 * log10(25 / 1), rel=1e-15)
    assert result.top1_agreement is None  # a vector of rank 1 holds no scores


def test_equal_outputs_are_perfect():
    result = one(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32))
    assert (result.max_abs, result.cosine, result.sqnr_db) == (0.0, 1.0, inf)
    assert result.top1_agreement == 1.0


def test_an_output_that_became_zero_is_as_far_as_can_be():
    result = one([1.0, 2.0], [0.0, 0.0])
    assert (result.cosine, result.sqnr_db) == (0.0, 0.0)
    result = one([0.0, 0.0], [1.0, 2.0])
    assert (result.cosine, result.sqnr_db) == (0.0, -inf)


def test_top1_agreement_counts_rows():
    result = one(
        [[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [0.0, 9.0]], [[1, 3], [1, 3], [0, 1], [0, 1.0]]
    )
    assert result.top1_agreement == 0.75


def test_nan_and_inf_are_counted_and_kept_out_of_the_sums():
    expected = [1.0, np.nan, np.inf, -np.inf, np.inf, 2.0]
    actual = [1.0, np.nan, np.inf, np.inf, 7.0, np.nan]
    result = one(expected, actual)
    assert (result.nonfinite_expected, result.nonfinite_actual) == (4, 4)
    assert result.nonfinite_mismatch == 3  # -inf against inf, inf against 7, 2 against nan
    assert (result.max_abs, result.cosine) == (0.0, 1.0)
    assert meets(Comparison((result,), "", real=True, samples=1), Requirements())


def test_a_row_with_nan_in_one_model_does_not_agree():
    assert one([[1.0, 2.0]], [[np.nan, 2.0]]).top1_agreement == 0.0
    assert one([[1.0, 2.0]], [[1.0, np.nan]]).top1_agreement == 0.0


def test_integers_and_booleans_compare_exactly():
    big = np.array([2**60, 2**60 + 1])
    assert one(big, big).top1_agreement == 1.0
    assert one(big, big[::-1]).top1_agreement == 0.0  # equal in float64, and still seen
    assert one([True, False, True, True], [True, False, False, True]).top1_agreement == 0.75


@pytest.mark.parametrize(
    ("expected", "actual", "problem"),
    [
        (np.zeros(3), np.zeros((3, 1)), "shape 3x1 instead of 3"),
        (np.zeros(3, np.float32), np.zeros(3), "type float64 instead of float32"),
        (np.array(["a"]), np.array(["b"]), "only numbers are"),
    ],
)
def test_what_cannot_be_compared_is_a_problem_and_always_missed(expected, actual, problem):
    result = one(expected, actual)
    assert problem in result.problem
    assert meets(Comparison((result,), "", real=True, samples=1), Requirements())


def test_missing_and_surplus_outputs_and_batches_are_problems():
    y = {"y": np.zeros(1)}
    assert [(r.name, r.problem) for r in compare([{**y, "z": np.zeros(1)}], [y])] == [
        ("y", ""),
        ("z", "the output is missing"),
    ]
    assert compare([y], [{**y, "z": np.zeros(1)}])[1].problem.startswith("the output is not one")
    assert compare([y, y], [y])[0].problem == "the numbers of batches differ"
    assert compare([y], [y, y])[0].problem == "the numbers of batches differ"
    assert compare([{"y": [np.zeros(1)]}], [{"y": [np.zeros(1)]}])[0].problem.startswith("a list")


def test_empty_outputs_are_equal():
    result = one(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    assert (result.problem, result.cosine, result.sqnr_db) == ("", 1.0, inf)
    assert result.top1_agreement is None


def test_no_overflow_turns_into_a_perfect_figure():
    result = one(np.array([1e200, 1.0]), np.array([-1e200, 1.0]))  # squares overflow float64
    assert not result.cosine >= 0.5
    assert not result.sqnr_db >= 0.0


FLOATS = arrays(np.float32, (6, 5), elements=st.floats(-1e4, 1e4, width=32))


@settings(max_examples=50, deadline=None)
@given(FLOATS, FLOATS, st.integers(1, 6))
def test_batches_folded_one_by_one_give_what_all_at_once_gives(a, b, size):
    split = [slice(start, start + size) for start in range(0, 6, size)]
    (streamed,) = compare(({"y": a[s]} for s in split), ({"y": b[s]} for s in split))
    whole = one(a, b)
    assert (streamed.max_abs, streamed.max_rel) == (whole.max_abs, whole.max_rel)
    assert streamed.top1_agreement == whole.top1_agreement
    # float64 sums of 30 terms in two orders: 30 * 2**-53 relative to the terms' magnitudes
    assert streamed.cosine == pytest.approx(whole.cosine, abs=1e-14)


@settings(max_examples=50, deadline=None)
@given(FLOATS)
def test_a_model_always_equals_itself(a):
    result = one(a, a.copy())
    assert (result.max_abs, result.cosine, result.sqnr_db, result.top1_agreement) == (0, 1, inf, 1)


def test_large_outputs_are_taken_in_parts_with_the_same_result():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 700_001)).astype(np.float32)
    b = a + np.float32(0.01)
    result = one(a, b)
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    # two orders of summing two million float64 terms
    assert result.cosine == pytest.approx((x @ y) / np.sqrt((x @ x) * (y @ y)), abs=1e-12)


def comparison(**changes) -> Comparison:
    figures = {
        "max_abs": 0.1,
        "max_rel": 0.1,
        "cosine": 0.99,
        "sqnr_db": 40.0,
        "top1_agreement": 0.9,
    }
    return Comparison((OutputComparison("y", **{**figures, **changes}),), "d", real=True, samples=9)


def test_each_missed_requirement_is_one_sentence():
    assert meets(comparison(), Requirements(cosine=0.99, sqnr=40.0, top1_agreement=0.9)) == []
    missed = meets(comparison(), Requirements(cosine=0.999, sqnr=41.0, top1_agreement=0.95))
    assert missed == [
        "output 'y': cosine similarity 0.99 is below the required 0.999",
        "output 'y': SQNR 40 dB is below the required 41 dB",
        "output 'y': top-1 agreement 0.9 is below the required 0.95",
    ]


def test_a_requirement_that_cannot_be_checked_is_missed():
    assert (
        "no output has scores"
        in meets(comparison(top1_agreement=None), Requirements(top1_agreement=0.9))[0]
    )
    assert "neither labels nor a metric" in meets(comparison(), Requirements(accuracy_drop=0.01))[0]
    assert meets(comparison(cosine=float("nan")), Requirements(cosine=0.9))


@pytest.mark.parametrize(("final", "missed"), [(0.98, 0), (0.97, 0), (0.96, 1)])
def test_accuracy_may_drop_by_as_much_as_is_allowed(final, missed):
    result = Comparison((), "d", real=True, samples=9, accuracy={"given": 0.98, "final": final})
    assert len(meets(result, Requirements(accuracy_drop=0.01))) == missed
