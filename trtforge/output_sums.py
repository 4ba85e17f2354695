"""What is known of one output of two models so far: the sums that all figures come from."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan, log10, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.artifacts import OutputComparison

if TYPE_CHECKING:
    from trtforge.artifacts import Array

SMALLEST = 1e-6
"""Below this magnitude a relative error is taken relative to it."""
_CHUNK = 1 << 20  # entries converted to float64 at a time: 8 MiB an array


@dataclass
class OutputSums:
    """What is known of one output so far."""

    max_abs: float = 0.0
    max_rel: float = 0.0
    dot: float = 0.0
    expected_energy: float = 0.0
    actual_energy: float = 0.0
    noise_energy: float = 0.0
    agreeing: int = 0
    rows: int = 0
    nonfinite_expected: int = 0
    nonfinite_actual: int = 0
    nonfinite_mismatch: int = 0
    sample_cosine: float | None = None
    problem: str = ""

    def add(self, expected: Array, actual: Array) -> None:
        """Fold one batch in."""
        self.problem = _why_incomparable(expected, actual)
        if self.problem:
            return
        flat, other = expected.reshape(-1), actual.reshape(-1)
        with np.errstate(over="ignore"):  # energies beyond float64 end as a NaN cosine, never met
            for start in range(0, flat.size, _CHUNK):
                self._add_chunk(flat[start : start + _CHUNK], other[start : start + _CHUNK])
        if expected.dtype.kind in "iub":
            self.rows += expected.size
            self.agreeing += int(np.count_nonzero(expected == actual))
            return
        if expected.ndim >= 2 and expected.shape[-1] > 1:
            self._add_rows(expected, actual)
        if expected.ndim >= 2 and expected.size:
            self._add_samples(expected, actual)

    def _add_chunk(self, expected: Array, actual: Array) -> None:
        a, b = _as_float64(expected), _as_float64(actual)
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        both = finite_a & finite_b
        if not both.all():
            self.nonfinite_expected += int(np.count_nonzero(~finite_a))
            self.nonfinite_actual += int(np.count_nonzero(~finite_b))
            same = both | (a == b) | (np.isnan(a) & np.isnan(b))
            self.nonfinite_mismatch += int(np.count_nonzero(~same))
            a, b = a[both], b[both]
        if not a.size:
            return
        error = np.abs(a - b)
        self.max_abs = max(self.max_abs, float(error.max()))
        self.max_rel = max(self.max_rel, float((error / np.maximum(np.abs(a), SMALLEST)).max()))
        self.dot += float(a @ b)
        self.expected_energy += float(a @ a)
        self.actual_energy += float(b @ b)
        self.noise_energy += float(error @ error)

    def _add_rows(self, expected: Array, actual: Array) -> None:
        a = expected.reshape(-1, expected.shape[-1])
        b = actual.reshape(-1, actual.shape[-1])
        self.rows += len(a)
        step = max(1, _CHUNK // a.shape[1])
        for start in range(0, len(a), step):
            ours, theirs = (
                _as_float64(a[start : start + step]),
                _as_float64(b[start : start + step]),
            )
            agree = ours.argmax(axis=1) == theirs.argmax(axis=1)
            kind = np.isfinite(ours) == np.isfinite(theirs)
            self.agreeing += int(np.count_nonzero(agree & kind.all(axis=1)))

    def _add_samples(self, expected: Array, actual: Array) -> None:
        a, b = expected.reshape(len(expected), -1), actual.reshape(len(actual), -1)
        step = max(1, _CHUNK // a.shape[1])
        for start in range(0, len(a), step):
            ours, theirs = (
                _as_float64(a[start : start + step]),
                _as_float64(b[start : start + step]),
            )
            both = np.isfinite(ours) & np.isfinite(theirs)
            ours, theirs = np.where(both, ours, 0), np.where(both, theirs, 0)
            dot, own, other = (
                np.einsum("ij,ij->i", x, y)
                for x, y in ((ours, theirs), (ours, ours), (theirs, theirs))
            )
            norms = np.sqrt(own) * np.sqrt(other)
            same = (own == other) & (own == dot)  # equal rows, and rows of zeros
            cosines = np.where(same, 1.0, dot / np.where(norms > 0, norms, 1.0))
            lowest = float(np.clip(cosines, -1.0, 1.0).min())
            self.sample_cosine = min(
                lowest, 1.0 if self.sample_cosine is None else self.sample_cosine
            )

    def result(self, name: str) -> OutputComparison:
        """Return the metrics over everything folded in."""
        if self.problem:
            return OutputComparison(name, inf, inf, 0.0, -inf, None, problem=self.problem)
        return OutputComparison(
            name=name,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            cosine=self._cosine(),
            sqnr_db=self._sqnr_db(),
            top1_agreement=self.agreeing / self.rows if self.rows else None,
            nonfinite_expected=self.nonfinite_expected,
            nonfinite_actual=self.nonfinite_actual,
            nonfinite_mismatch=self.nonfinite_mismatch,
            sample_cosine=self.sample_cosine,
        )

    def _cosine(self) -> float:
        if self.max_abs == 0.0:
            return 1.0
        norms = sqrt(self.expected_energy) * sqrt(self.actual_energy)
        if norms == 0.0:
            return 0.0
        cosine = self.dot / norms
        return cosine if isnan(cosine) else max(-1.0, min(1.0, cosine))

    def _sqnr_db(self) -> float:
        if self.max_abs == 0.0:
            return inf
        if self.expected_energy == 0.0 or self.noise_energy == 0.0:
            return -inf
        return 10.0 * log10(self.expected_energy / self.noise_energy)


def _as_float64(array: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    return array.astype(np.float64)


def _why_incomparable(expected: Array, actual: Array) -> str:
    for value in (expected, actual):
        if not isinstance(value, np.ndarray):
            return f"a {type(value).__name__} is not compared, only tensors are"
        if value.dtype.kind in "OSUTMm":
            return f"{value.dtype} entries are not compared, only numbers are"
    if expected.dtype != actual.dtype:
        return f"type {actual.dtype} instead of {expected.dtype}"
    if expected.shape != actual.shape:
        return f"shape {_shape(actual)} instead of {_shape(expected)}"
    return ""


def _shape(array: Array) -> str:
    return "x".join(map(str, array.shape)) or "scalar"
