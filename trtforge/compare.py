"""How near the outputs of two models are: one definition of each metric, for every command.

With ``a`` an entry of the expected output and ``b`` the same entry of the actual one, over all
entries of all batches in which both are finite:

=================  =============================================================================
``max_abs``        largest ``|a - b|``
``max_rel``        largest ``|a - b| / max(|a|, 1e-6)``
``cosine``         ``sum(a b) / sqrt(sum(a²) sum(b²))``; 1 where both are zero, 0 where one is
``sample_cosine``  the smallest cosine of one sample, that is, of one entry of the first axis; only
                   for floating-point outputs of rank 2 or more
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
from itertools import zip_longest
from typing import TYPE_CHECKING

from trtforge.artifacts import Comparison, OutputComparison
from trtforge.output_sums import OutputSums

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.context import Requirements

    Outputs = Mapping[str, Array]

_DIGITS = 6


def compare(expected: Iterable[Outputs], actual: Iterable[Outputs]) -> tuple[OutputComparison, ...]:
    """Compare two models' outputs, batch by batch, in the order of the expected outputs.

    Args:
        expected: For each batch a mapping of output name to array.
        actual: The same of the other model.

    Returns:
        One comparison per output name; outputs that cannot be compared carry a ``problem``.
    """
    sums: dict[str, OutputSums] = {}
    for ours, theirs in zip_longest(expected, actual):
        _add_batch(sums, ours, theirs)
    return tuple(total.result(name) for name, total in sums.items())


def _add_batch(
    sums: dict[str, OutputSums], expected: Outputs | None, actual: Outputs | None
) -> None:
    if expected is None or actual is None:
        for name in expected or actual or {}:
            sums.setdefault(name, OutputSums()).problem = "the numbers of batches differ"
        return
    for name in dict.fromkeys([*expected, *actual]):
        total = sums.setdefault(name, OutputSums())
        if total.problem:
            continue
        if name not in actual:
            total.problem = "the output is missing"
        elif name not in expected:
            total.problem = "the output is not one of the expected model's"
        else:
            total.add(expected[name], actual[name])


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
    return [*missed, *_accuracy_misses(comparison.accuracy, require)]


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
        ("cosine similarity of a sample", output.sample_cosine, require.sample_cosine, ""),
        ("SQNR", output.sqnr_db, require.sqnr, " dB"),
        ("top-1 agreement", output.top1_agreement, require.top1_agreement, ""),
    )
    for label, value, limit, unit in figures:
        if limit is not None and value is not None and not value >= limit:
            found, asked = f"{value:.{_DIGITS}g}{unit}", f"{limit:.{_DIGITS}g}{unit}"
            missed.append(f"{what}: {label} {found} is below the required {asked}")
    return missed


def _accuracy_misses(accuracy: Mapping[str, float], require: Requirements) -> list[str]:
    asked = [name for name in ("accuracy", "accuracy_drop") if getattr(require, name) is not None]
    if not asked:
        return []
    if "given" not in accuracy or "final" not in accuracy:
        return [f"{' and '.join(asked)} is required, but the data has neither labels nor a metric"]
    missed = []
    given, final = accuracy["given"], accuracy["final"]
    if require.accuracy is not None and not final >= require.accuracy:
        missed.append(f"task accuracy {final:.4g} is below the required {require.accuracy:.4g}")
    # A drop of 1 in 100 samples must meet a limit of 0.01 although 0.98 - 0.97 > 0.01 in float64.
    limit = require.accuracy_drop
    if limit is not None and not given - final <= limit + 1e-12:
        drop = given - final
        missed.append(
            f"task accuracy fell by {drop:.4g}, more than the {limit:.4g} that is allowed"
        )
    return missed
