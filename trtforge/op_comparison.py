"""Whether what a custom op computes is what its reference says, up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from trtforge.artifacts import Array

Bound: TypeAlias = "float | Callable[[Sequence[Array]], Array]"
"""How far a result may be off: a number, or what the inputs allow each element."""


def bound(atol: Bound, inputs: Sequence[Array]) -> float | Array:
    """Return the absolute tolerance for these inputs."""
    return atol(inputs) if callable(atol) else atol


def check_close(
    what: str, expected: Sequence[Any], actual: Sequence[Any], rtol: float | None,
    atol: float | Array,
) -> None:  # fmt: skip
    """Hold results to the reference.

    Args:
        what: What was computed, for the message.
        expected: Outputs of the reference.
        actual: Outputs of the same shapes and types.
        rtol: Relative tolerance; None: four roundings in the type of the output.
        atol: Absolute tolerance, for all elements or for each.

    Raises:
        AssertionError: a shape or type is another, or a value differs by more.
    """
    for want, have in zip(expected, actual, strict=True):
        if want.dtype != have.dtype or want.shape != have.shape:
            raise AssertionError(
                f"{what}: {have.dtype}{have.shape} instead of {want.dtype}{want.shape}"
            )
        wide = want.astype(np.float64), have.astype(np.float64)
        limit = (
            4 * float(ir.DataType.from_numpy(want.dtype).eps) if want.dtype.kind not in "iub" else 0
        )
        if not np.allclose(*wide, rtol=limit if rtol is None else rtol, atol=atol, equal_nan=True):
            worst = np.nanmax(np.abs(wide[0] - wide[1]))
            raise AssertionError(f"{what}: differs from the reference by up to {worst:.3g}")


def difference(what: str, expected: Sequence[Array], actual: Sequence[Array], atol: float) -> str:
    """Return how results differ from the reference by more than rounding; empty: they do not."""
    try:
        check_close(what, expected, actual, None, atol)
    except AssertionError as error:
        return str(error)
    return ""
