"""What the report says of activations: numbers held against NumPy, words against made-up cases."""

import math
from dataclasses import replace
from xml.etree import ElementTree as ET

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtforge import Range, TensorStatistics
from trtforge.pictures import CurvePoint, curve, histogram
from trtforge.statistics_report import BARS, summarize_tensor

RANDOM = np.random.default_rng(0)
BINS = 2048


def seen(values, shares=8):
    """The statistics of ``values``, float32[samples, channels], as a calibrator collects them."""
    values = np.asarray(values, np.float32)
    amax = float(np.abs(values).max()) or 1.0
    width = 2.0 ** max(math.floor(math.log2(amax)) + 1, -100) / BINS
    counts = np.bincount(
        np.floor(values.ravel().astype(float) / width).astype(int) + BINS, minlength=2 * BINS
    )
    parts = [np.abs(part).max() for part in np.array_split(values, shares) if part.size]
    return TensorStatistics(
        low=float(values.min()), high=float(values.max()), mean=float(values.mean()),
        deviation=float(values.std()), count=values.size, zeros=int((values == 0).sum()),
        counts=counts.astype(np.int64), width=width, channel_amax=np.abs(values).max(axis=0),
        channel_axis=-1, growth=np.maximum.accumulate(parts).astype(np.float32),
        **EXTRA,
    )  # fmt: skip


EXTRA = {
    name: 0.0 for name in ("average_low", "average_high")
    if name in TensorStatistics.__dataclass_fields__
}  # fmt: skip
NORMAL = RANDOM.standard_normal((800, 16)).astype(np.float32)


def read(svg):
    return ET.fromstring(svg)  # noqa: S314  # our own text


def sqnr(values, amax, dtype):
    values = values.astype(np.float64)
    if dtype == "int8":
        found = np.clip(np.rint(values / amax * 127), -127, 127) * amax / 127
    else:
        scaled = np.clip(values / amax * 448, -448, 448).astype(np.float32)
        found = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * amax / 448
    return 10 * math.log10((values**2).sum() / ((values - found) ** 2).sum())


@pytest.mark.parametrize("dtype", ["int8", "float8e4m3fn"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_the_expected_sqnr_is_that_of_rounding_every_value(dtype, share):
    amax = float(np.abs(NORMAL).max()) * share
    found = summarize_tensor("a", seen(NORMAL), Range(-amax, amax), dtype)
    # The histogram has 16 bins or more in a step of INT8: what it leaves out is well below 0.1 dB.
    assert found.sqnr_db == pytest.approx(sqnr(NORMAL, amax, dtype), abs=0.1)
    assert found.saturated == pytest.approx((np.abs(NORMAL) > amax).mean(), abs=1e-3)


@given(arrays(np.float32, (16, 3), elements=st.floats(-1e3, 1e3, width=32)))
def test_no_statistics_break_the_report(values):
    facts = summarize_tensor("a", seen(values), None)
    assert sum(facts.histogram) == values.size
    assert len(facts.histogram) in (1, BARS)
    assert facts.outliers >= 1
    assert (facts.sqnr_db is None) == (not values.any())
    assert facts.dead_channels == int((~values.any(axis=0)).sum())
    read(histogram(facts.histogram, facts.low, facts.high, None))


def with_value(value, row):
    values = NORMAL.copy()
    values[row, 3] = value
    return values


def scaled(column, factor):
    values = NORMAL.copy()
    values[:, column] *= factor
    return values


@pytest.mark.parametrize(
    ("values", "chosen", "words"),
    [
        (NORMAL, None, []),
        (np.zeros((8, 4)), None, ["always 0: no scale fits"]),
        (with_value(60.0, 799), None, ["range still grew at the end of the data"]),
        (with_value(60.0, 799), Range(-4, 4), []),
        (with_value(60.0, 150), None, ["the first share of the data reached"]),
        (with_value(60.0, 0), None, ["outliers: 19 times the 99.9th percentile"]),
        (NORMAL, Range(-2, 2), ["% of the values are clipped"]),
        (scaled(2, 40), None, ["largest channel 41 times the median one"]),
        (scaled(2, 0), None, ["1 of 16 channels are always 0"]),
    ],
)
def test_risks_are_named(values, chosen, words):
    risks = summarize_tensor("a", seen(values), chosen).risks
    for word in words:
        assert any(word in risk for risk in risks), risks
    assert bool(risks) == bool(words), risks


@pytest.mark.parametrize(
    ("growth", "limit", "answer"),
    [
        ([1.0], math.inf, None),
        ([], math.inf, None),
        ([1, 1, 1, 1], math.inf, True),
        ([1, 2, 3, 3.1], math.inf, True),
        ([1, 2, 3, 4], math.inf, False),
        ([1, 2, 3, 4], 2.5, True),
        ([1, 2], math.inf, False),
        ([0, 0, 0, 1], math.inf, False),
        ([0, 0], math.inf, True),
    ],
)
def test_a_range_has_converged_when_the_end_of_the_data_adds_nothing(growth, limit, answer):
    assert replace(seen(NORMAL), growth=np.float32(growth)).converged(limit) is answer


# Pictures


def shapes(svg, kind):
    root = read(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    return [each for each in root.iter() if each.attrib.get("class") == kind]


def test_bars_beyond_the_range_are_of_another_kind():
    svg = histogram([1, 5, 9, 5, 1], -5.0, 5.0, 2.9)
    assert shapes(svg, "inside")[0].attrib["d"].count("M") == 3
    assert shapes(svg, "outside")[0].attrib["d"].count("M") == 2
    assert len(shapes(svg, "limit")) == 2
    assert "clipped at 2.9" in svg
    assert not shapes(histogram([1, 2], 0.0, 1.0, 1.0), "limit")


def test_the_curve_tells_met_from_missed_by_shape():
    points = [CurvePoint(1.0, 0.98, False), CurvePoint(0.8, 0.9995, True, chosen=True)]
    svg = curve([*points, CurvePoint(0.5, math.nan, False)], 0.999, "<cosine>")
    assert len(shapes(svg, "meets")) == len(shapes(svg, "misses")) == len(shapes(svg, "ring")) == 1
    assert len(shapes(svg, "limit")) == 1
    assert "required 0.999" in svg
    assert curve([CurvePoint(0.5, math.nan, False)], None, "cosine") == ""
    read(curve(points[:1], None, "cosine"))  # one point, no room between
