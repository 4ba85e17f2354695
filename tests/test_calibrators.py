"""Each calibrator chooses what a plain NumPy version of its method chooses on all the values."""

from pathlib import Path

import models
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.precision import calibration_state, collect_statistics, observe
from trtforge_plugins.precision.calibrate_average import CalibrateAverage
from trtforge_plugins.precision.calibrate_entropy import CalibrateEntropy, divergences
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.calibrate_mse import CalibrateMse
from trtforge_plugins.precision.calibrate_percentile import CalibratePercentile
from trtforge_plugins.precision.collect_statistics import CollectStatistics
from trtforge_plugins.precision.magnitude_histogram import expected_error
from trtforge_plugins.precision.tally import Buffers, Tally

from trtforge import Batches, Context, Range, Ranges, Request, Statistics, StepError

ALL = [CalibrateAverage, CalibrateEntropy, CalibrateMax, CalibrateMse, CalibratePercentile]


def seen(values: np.ndarray):
    tally, buffers = Tally(-1), Buffers()
    array = values.astype(np.float32)
    tally.add(array, buffers.of(array))
    tally.end_batch(share=True)
    return tally.statistics()


def samples(kind: str) -> np.ndarray:
    random = np.random.default_rng(0)
    normal = random.standard_normal(200_000)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "laplace": random.laplace(size=200_000),
        "outliers": np.concatenate([normal, np.full(20, 40.0)]),
        "uniform": random.uniform(-1, 1, 200_000),
    }[kind].astype(np.float32)


KINDS = ["normal", "relu", "laplace", "outliers", "uniform"]


def fake_quantized(values: np.ndarray, amax: float) -> np.ndarray:
    """Symmetric INT8, the plain way."""
    scale = amax / 127
    return np.clip(np.rint(values / scale), -127, 127) * scale


def mean_error(values: np.ndarray, amax: float, power: float = 2.0) -> float:
    wide = values.astype(np.float64)
    return float(np.mean(np.abs(wide - fake_quantized(wide, amax)) ** power))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [2.0, 2.4])
def test_the_expected_error_is_the_error_of_all_values(kind, power):
    values = samples(kind)
    statistics = seen(values)
    counts = collect_counts(statistics)
    amaxes = statistics.amax * np.array([0.1, 0.3, 0.7, 1.0])
    expected = [mean_error(values, amax, power) for amax in amaxes]
    found = expected_error(counts, statistics.width, amaxes, power) / statistics.count
    # Bins are 1/16 to 1/32 of a step wide where nothing is clipped: 1 % covers their grain.
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def collect_counts(statistics):
    half = len(statistics.counts) // 2
    folded = statistics.counts[half:] + statistics.counts[:half][::-1]
    folded[0] -= statistics.zeros
    return folded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [2.0, 2.4, 3.0])
def test_mse_is_as_good_as_the_best_of_a_fine_search(kind, power):
    values = samples(kind)
    chosen = CalibrateMse(power=power).choose(seen(values)).amax
    searched = [mean_error(values, amax, power) for amax in np.abs(values).max() * GRID]
    assert mean_error(values, chosen, power) <= min(searched) * 1.01


GRID = np.linspace(0.02, 1, 99)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [90.0, 99.9, 100.0])
def test_percentile_is_numpys(kind, percentile):
    values = samples(kind)
    statistics = seen(values)
    chosen = CalibratePercentile(percentile=percentile).choose(statistics).amax
    expected = np.percentile(np.abs(values), percentile)
    assert chosen == pytest.approx(expected, abs=statistics.width)
    if percentile == 100:
        assert chosen == statistics.amax


def plain_divergence(counts: np.ndarray, cut: int) -> float:
    """Migacz's slides, one cut, level by level."""
    reference = counts[:cut].astype(np.float64)
    reference[-1] += counts[cut:].sum()
    candidate = np.zeros(cut)
    for level in range(128):
        first, end = level * cut // 128, (level + 1) * cut // 128
        part = counts[first:end]
        if part.any():
            candidate[first:end] = np.where(part > 0, part.sum() / np.count_nonzero(part), 0)
    reference /= reference.sum()
    candidate /= candidate.sum()
    used = reference > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(reference[used] * np.log(reference[used] / candidate[used])))


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32 - 1), st.integers(128, 200), st.floats(0.05, 1))
def test_divergences_are_the_plain_ones(seed, length, density):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 50, length) * (random.random(length) < density)
    counts[-1] = 3
    expected = [plain_divergence(counts, cut) for cut in range(128, length + 1)]
    np.testing.assert_allclose(divergences(counts), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_entropy_clips_tails_but_not_the_bulk(kind):
    values = samples(kind)
    chosen = CalibrateEntropy().choose(seen(values)).amax
    assert 2 * values.std() < chosen < np.abs(values).max()


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_never_worse_than_clipping_nothing(kind):
    values = samples(kind)
    chosen = CalibrateEntropy().choose(seen(values)).amax
    assert mean_error(values, chosen) <= mean_error(values, float(np.abs(values).max())) * 1.01


def test_entropy_of_few_values_clips_nothing():
    assert CalibrateEntropy().choose(seen(np.array([-2.0, 0.0, 1.0]))) == Range(-2.0, 1.0)


@settings(deadline=None)  # the machine may be busy
@given(
    st.sampled_from(ALL),
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1),
    st.booleans(),
)
def test_every_range_is_finite_and_within_what_was_seen(kind, values, power_of_two):
    statistics = seen(np.array(values))
    step = kind(power_of_two=power_of_two)
    chosen = step._range(statistics)
    assert np.isfinite([chosen.low, chosen.high]).all()
    assert (chosen.amax > 0) == (statistics.amax > 0)
    if not power_of_two:
        assert statistics.low <= chosen.low <= chosen.high <= statistics.high


@pytest.mark.parametrize("kind", ALL)
def test_a_scale_can_be_a_power_of_two(kind):
    chosen = kind(power_of_two=True)._range(seen(samples("laplace")))
    mantissa, _ = np.frexp(chosen.amax / 127)
    assert mantissa == 0.5


# Collecting


def context(feeds, folder=Path(), text=models.MLP, source="test") -> Context:
    ctx = Context(ir.from_proto(models.parse(text)), folder, Request("m"))
    ctx.put(Batches(tuple(feeds), source))
    return ctx


def noise(count: int, batch: int = 4, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((batch, 64), dtype=np.float32)} for _ in range(count)]


def test_calibrators_share_one_pass_over_the_data(monkeypatch):
    runs = []
    original = collect_statistics.observe
    monkeypatch.setattr(
        collect_statistics, "observe", lambda *a, **o: runs.append(1) or original(*a, **o)
    )
    ctx = context(noise(3))
    CollectStatistics().run(ctx)
    for kind in ALL:
        kind().run(ctx)
        assert ctx.get(Ranges).method == kind.name.removeprefix("calibrate-")
    assert len(runs) == 1
    ctx.put(Batches(tuple(noise(2)), "other data"))
    CalibrateMax().run(ctx)
    assert len(runs) == 2
    weight = ctx.model.graph.initializers["w1"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name="w1")
    CalibrateMax().run(ctx)  # another model: what was measured does not hold
    assert len(runs) == 3


def test_max_does_without_histograms_unless_asked():
    whole, quick = context(noise(3)), context(noise(3))
    CalibrateMax(histogram=True).run(whole)
    CalibrateMax().run(quick)
    assert quick.get(Ranges) == whole.get(Ranges)
    assert quick.find(Statistics) is None  # nobody shall take them for distributions


def test_a_batch_in_parts_gives_the_same_statistics(monkeypatch):
    whole = context(noise(2, batch=9))
    CollectStatistics().run(whole)
    monkeypatch.setattr(observe, "PART_BYTES", 4000)  # about two samples
    parts = context(noise(2, batch=9))
    CollectStatistics().run(parts)
    for name, expected in whole.get(Statistics).by_tensor.items():
        found = parts.get(Statistics).by_tensor[name]
        assert found.amax == pytest.approx(expected.amax, rel=1e-5)
        assert found.count == expected.count
        assert found.average_high == pytest.approx(expected.average_high, rel=1e-5)
        assert len(found.growth) == 2


def test_a_fixed_batch_is_not_cut(monkeypatch):
    monkeypatch.setattr(observe, "PART_BYTES", 1)
    ctx = context(noise(2), text=models.MLP.replace("float[N,", "float[4,"))
    CollectStatistics().run(ctx)
    assert ctx.get(Statistics).by_tensor["x"].count == 2 * 4 * 64


def test_batches_may_differ_in_length():
    ctx = context([*noise(1, batch=3), *noise(1, batch=5)])
    CollectStatistics().run(ctx)
    assert ctx.get(Statistics).by_tensor["x"].count == 8 * 64


class StopError(Exception):
    """Somebody pulled the plug."""


def test_an_interrupted_calibration_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(calibration_state, "SECONDS", 0.0)
    feeds = noise(6)
    expected = context(feeds, tmp_path)
    CollectStatistics().run(expected)
    assert list(tmp_path.iterdir()) == []

    original = collect_statistics.observe
    started = []

    def stopping(*args, **options):
        started.append(options["start"])
        for part in original(*args, **options):
            if part.batch == 3 and len(started) == 1:
                raise StopError
            yield part

    monkeypatch.setattr(collect_statistics, "observe", stopping)
    with pytest.raises(StopError):
        CollectStatistics().run(context(feeds, tmp_path))
    other = context(noise(6, seed=1), tmp_path)
    CollectStatistics().run(other)  # other data: not what the file holds
    assert started == [0, 0]
    started.clear()
    with pytest.raises(StopError):
        CollectStatistics().run(context(feeds, tmp_path))
    again = context(feeds, tmp_path)
    CollectStatistics().run(again)
    assert started == [0, 3]
    assert [note.text for note in again.notes] == [
        "calibration goes on after 3 batches of an interrupted run"
    ]
    for name, one in expected.get(Statistics).by_tensor.items():
        found = again.get(Statistics).by_tensor[name]
        for field, value in vars(one).items():  # other parts are added up in another order
            np.testing.assert_allclose(getattr(found, field), value, rtol=1e-5, atol=1e-7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_damaged_state_is_ignored(tmp_path, content):
    (tmp_path / "calibration-state.npz").write_bytes(content)
    ctx = context(noise(2), tmp_path)
    CollectStatistics().run(ctx)
    assert ctx.get(Statistics).samples == 8


def test_a_tensor_that_is_not_finite_is_named():
    feeds = noise(2)
    feeds[1]["x"][2, 3] = np.nan
    with pytest.raises(StepError, match="tensor 'x' holds NaN on batch 1 of test"):
        CollectStatistics().run(context(feeds))
