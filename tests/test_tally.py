"""The on-line statistics of a tensor equal those of all its values at once, in any order."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trtforge_plugins.precision import tally as tally_module
from trtforge_plugins.precision.tally import BINS, Buffers, NonFiniteError, Tally


def tallied(parts: list[np.ndarray], axis: int = -1) -> Tally:
    made, buffers = Tally(axis), Buffers()
    for part in parts:
        made.add(part, buffers.of(part))
        made.end_batch(share=True)
    return made


FINITE = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
PARTS = st.lists(arrays(np.float32, st.tuples(st.integers(0, 4), st.just(3)), elements=FINITE))


@settings(deadline=None)  # the machine may be busy
@given(PARTS)
def test_it_equals_numpy_on_all_values_at_once(parts):
    values = np.concatenate([np.zeros((0, 3), np.float32), *parts]).astype(np.float64)
    seen = tallied(parts).statistics()
    if not values.size:
        assert seen is None
        return
    assert (seen.low, seen.high) == (values.min(), values.max())
    assert (seen.count, seen.zeros) == (values.size, np.sum(values == 0))
    largest = float(np.abs(values).max())
    # Sums of float32 over at most a block; the tolerance is relative to the largest value.
    assert seen.mean == pytest.approx(values.mean(), abs=largest * 1e-6)
    assert seen.deviation == pytest.approx(values.std(), abs=largest * 1e-3)
    edges = np.arange(-BINS, BINS + 1) * seen.width
    tiny = np.abs(values) / seen.width < 2.0**-149  # may count as 0 in float32
    np.testing.assert_array_equal(seen.counts, np.histogram(np.where(tiny, 0, values), edges)[0])
    np.testing.assert_array_equal(seen.channel_amax, np.abs(values).max(axis=0))
    running = [np.abs(part).max(initial=0) for part in parts]
    np.testing.assert_array_equal(seen.growth, np.maximum.accumulate(running))


def sides_joined(counts: np.ndarray) -> np.ndarray:
    """Join the bins beside 0: a negative number too small for float32 when scaled counts as 0."""
    middle = counts[BINS - 1 : BINS + 1].sum()
    return np.concatenate([counts[: BINS - 1], [middle], counts[BINS + 1 :]])


@settings(deadline=None)  # the machine may be busy
@given(PARTS, st.randoms())
def test_the_order_of_the_data_makes_no_difference_to_the_histogram(parts, random):
    shuffled = random.sample(parts, len(parts))
    one, other = tallied(parts), tallied(shuffled)
    np.testing.assert_array_equal(sides_joined(one.counts), sides_joined(other.counts))
    assert one.totals.exponent == other.totals.exponent


@settings(deadline=None)  # the machine may be busy
@given(PARTS)
def test_the_largest_magnitude_lies_in_the_upper_half_of_the_bins(parts):
    seen = tallied(parts).statistics()
    if seen is not None and seen.amax > 2.0**-99:
        assert BINS / 2 <= seen.amax / seen.width < BINS


@pytest.mark.parametrize(
    ("shape", "axis", "others"),
    [
        ((2, 5, 3, 3), 1, (0, 2, 3)),
        ((2, 5, 300, 300), 1, (0, 2, 3)),  # one channel is more than a block
        ((4, 7), 1, (0,)),
        ((2, 3, 7), -1, (0, 1)),
        ((2, 9, 9), 1, (0, 2)),  # as many channels as values in each
        ((70_000, 2), -1, (0,)),
        ((6, 1, 1), 1, (0, 2)),
        ((3, 5, 7, 7), 1, (0, 2, 3)),
        ((700, 5, 11, 11), 1, (0, 2, 3)),
    ],
)
def test_channels_are_found_on_each_axis(shape, axis, others):
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    seen = tallied([values], axis).statistics()
    np.testing.assert_array_equal(seen.channel_amax, np.abs(values).max(axis=others))
    assert seen.counts.sum() == seen.count == values.size


def test_an_axis_of_changing_length_has_no_channels():
    parts = [np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), np.ones((2, 4), np.float32)]
    assert tallied(parts).statistics().channel_amax.size == 0
    assert tallied([np.array(3.0, np.float32)]).statistics().channel_amax.tolist() == [3.0]


def test_averages_are_over_batches_not_over_parts_of_one():
    tally, buffers = Tally(-1), Buffers()
    for batch in ([[1.0, -2.0], [5.0, 0.0]], [[3.0, -4.0]]):
        for part in batch:
            array = np.array([part], np.float32)
            tally.add(array, buffers.of(array))
        tally.end_batch(share=False)
    seen = tally.statistics()
    assert (seen.average_low, seen.average_high) == (-3.0, 4.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_float16_is_counted_in_float32(dtype):
    values = np.array([0.1, 0.2, -60000.0], dtype)
    seen = tallied([values]).statistics()
    assert seen.mean == pytest.approx(values.astype(np.float64).mean(), rel=1e-5)
    assert seen.low == float(values[2])


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_what_is_not_finite_is_refused_by_name(value, name):
    values = np.ones(10, np.float32)
    values[7] = value
    with pytest.raises(NonFiniteError, match=name):
        tallied([values])


def test_a_state_goes_on_where_it_was():
    random = np.random.default_rng(1)
    parts = [random.standard_normal((4, 3), dtype=np.float32) * 2**i for i in range(4)]
    first = tallied(parts[:2])
    second = Tally(-1)
    second.restore({name: array.copy() for name, array in first.state().items()})
    buffers = Buffers()
    for part in parts[2:]:
        second.add(part, buffers.of(part))
        second.end_batch(share=True)
    whole, resumed = tallied(parts).statistics(), second.statistics()
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_without_a_histogram_the_extremes_are_the_same():
    values = np.random.default_rng(0).standard_normal((3, 5, 20, 20), dtype=np.float32)
    short, whole, buffers = Tally(1, histogram=False), Tally(1), Buffers()
    for tally in (short, whole):
        tally.add(values, buffers.of(values))
        tally.end_batch(share=True)
    seen, expected = short.statistics(), whole.statistics()
    assert (seen.low, seen.high, seen.count) == (expected.low, expected.high, expected.count)
    np.testing.assert_array_equal(seen.channel_amax, expected.channel_amax)
    assert not seen.counts.any()


class OnGpu(np.ndarray):
    """Stands in for CuPy's arrays, which have ``get`` and must not meet NumPy's unasked."""

    def get(self):
        return self.view(np.ndarray)


def test_arrays_of_a_gpu_are_counted_there(monkeypatch):
    """The same code runs with CuPy's functions; here NumPy's, that return arrays with ``get``."""
    names = ("arange", "multiply", "equal", "floor", "dot", "copyto", "count_nonzero", "maximum")
    module = {name: getattr(np, name) for name in names}

    def made(function):
        return lambda *args, **options: function(*args, **options).view(OnGpu)

    for name in ("empty", "zeros", "bincount", "ascontiguousarray"):
        module[name] = made(getattr(np, name))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(**module))
    monkeypatch.setattr(tally_module, "_ON_GPU", 1000)
    values = np.random.default_rng(0).standard_normal((2, 8, 20, 20), dtype=np.float32)
    theirs, ours = tallied([values.view(OnGpu)], 1).statistics(), tallied([values], 1).statistics()
    assert type(theirs.counts) is np.ndarray
    assert type(theirs.channel_amax) is np.ndarray
    np.testing.assert_array_equal(theirs.counts, ours.counts)
    np.testing.assert_array_equal(theirs.channel_amax, ours.channel_amax)
    assert theirs.mean == pytest.approx(ours.mean, abs=1e-7)
