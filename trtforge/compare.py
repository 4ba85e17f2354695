"""How near the outputs of two models are: one definition of each metric, for every command.

With ``a`` an entry of the expected output and ``b`` the same entry of the actual one, over all
entries of all batches in which both are finite:

=================  =============================================================================
``max_abs``        largest ``|a - b|``
``max_rel``        largest ``|a - b| / max(|a|, 1e-6)``
``cosine``         ``sum(a b) / sqrt(sum(a²) sum(b²))``; 1 where both are zero, 0 where one is
``sqnr_db``        ``10 log10(sum(a²) / sum((a - b)²))``; infinite for equal outputs
``top1_agreement``  share of rows along the last axis whose largest entry is at the same place;
                   only for floating-point outputs of rank 2 or more and a last axis longer than 1.
                   For integer and boolean outputs: the share of equal entries
=================  =============================================================================

NaN and Inf are counted and never enter a sum: ``nonfinite_mismatch`` counts the entries where the
two are not the same kind of NaN or Inf, and such a row never agrees. Sums are float64, and batches
are folded in one at a time, so memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import inf, isnan, log10, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.artifacts import Comparison, OutputComparison

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.context import Requirements

    Outputs = Mapping[str, Array]

SMALLEST = 1e-6
"""Below this magnitude a relative error is taken relative to it."""
_CHUNK = 1 << 20  # entries converted to float64 at a time: 8 MiB an array
_DIGITS = 6


def compare(expected: Iterable[Outputs], actual: Iterable[Outputs]) -> tuple[OutputComparison, ...]:
    """Compare two models' outputs, batch by batch, in the order of the expected outputs.

    Args:
        expected: For each batch a mapping of output name to array.
        actual: The same of the other model.

    Returns:
        One comparison per output name; outputs that cannot be compared carry a ``problem``.
    """
    sums: dict[str, _Sums] = {}
    for ours, theirs in zip_longest(expected, actual):
        _add_batch(sums, ours, theirs)
    return tuple(total.result(name) for name, total in sums.items())


def _add_batch(sums: dict[str, _Sums], expected: Outputs | None, actual: Outputs | None) -> None:
    if expected is None or actual is None:
        for name in expected or actual or {}:
            sums.setdefault(name, _Sums()).problem = "the numbers of batches differ"
        return
    for name in dict.fromkeys([*expected, *actual]):
        total = sums.setdefault(name, _Sums())
        if total.problem:
            continue
        if name not in actual:
            total.problem = "the output is missing"
        elif name not in expected:
            total.problem = "the output is not one of the expected model's"
        else:
            total.add(expected[name], actual[name])


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


@dataclass
class _Sums:
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
        elif expected.ndim >= 2 and expected.shape[-1] > 1:
            self._add_rows(expected, actual)

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


def meets(comparison: Comparison, require: Requirements) -> list[str]:
    """Return a sentence for each requirement on accuracy that ``comparison`` misses.

    Outputs that cannot be compared, and NaN or Inf in only one of the models, are always missed.
    """
    missed = [
        sentence for output in comparison.outputs for sentence in _output_misses(output, require)
    ]
    if require.top1_agreement is not None and not any(
        output.top1_agreement is not None or output.problem for output in comparison.outputs
    ):
        missed.append("top1_agreement is required, but no output has scores to take it from")
    if require.accuracy_drop is not None:
        missed += _accuracy_misses(comparison.accuracy, require.accuracy_drop)
    return missed


def _output_misses(output: OutputComparison, require: Requirements) -> list[str]:
    what = f"output {output.name!r}"
    if output.problem:
        return [f"{what}: {output.problem}"]
    missed = []
    if output.nonfinite_mismatch:
        missed.append(
            f"{what}: NaN or Inf in only one of the models at {output.nonfinite_mismatch} places"
        )
    figures = (
        ("cosine similarity", output.cosine, require.cosine, ""),
        ("SQNR", output.sqnr_db, require.sqnr, " dB"),
        ("top-1 agreement", output.top1_agreement, require.top1_agreement, ""),
    )
    for label, value, limit, unit in figures:
        if limit is not None and value is not None and not value >= limit:
            found, asked = f"{value:.{_DIGITS}g}{unit}", f"{limit:.{_DIGITS}g}{unit}"
            missed.append(f"{what}: {label} {found} is below the required {asked}")
    return missed


def _accuracy_misses(accuracy: Mapping[str, float], limit: float) -> list[str]:
    if "given" not in accuracy or "final" not in accuracy:
        return ["accuracy_drop is required, but the data has no labels to take the accuracy from"]
    drop = accuracy["given"] - accuracy["final"]
    # A drop of 1 in 100 samples must meet a limit of 0.01 although 0.98 - 0.97 > 0.01 in float64.
    if drop <= limit + 1e-12:
        return []
    return [f"task accuracy fell by {drop:.4g}, more than the {limit:.4g} that is allowed"]
