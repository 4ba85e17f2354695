"""What ``h200_models.py`` asks of outputs: how near they have to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from h200_model_sessions import Outputs

Array = np.ndarray[Any, Any]

# Largest difference of an output from the raw model's, in shares of its largest value: float32
# without TF32 but in another order of sums; Q/DQ: such a difference turns into steps of 1/127,
# which later layers carry on.
NEAR = {"float32": 1e-3, "qdq": 5e-2}
# In float16 a model may be at most twice as far from torch's float32 outputs as the raw float16
# model is, or within float16's own step. A model with Q/DQ that is not near the raw one may have
# rounded otherwise, but its error must not be larger: the norm of the difference from the float32
# outputs, which for one model in two forms differs by less than 2 %.
HALF_STEP = 2.0**-10
SAME_ERROR = 1.02


def distance(found: Outputs, expected: Outputs) -> float:
    """Return the largest difference, in shares of each output's largest value."""
    return max(
        np.abs(off).max(initial=0.0) / (np.abs(right).max(initial=0.0) or 1.0)
        for off, right in _differences(found, expected)
    )


def deviation(found: Outputs, exact: Outputs) -> float:
    """Return the norm of the difference, in shares of the norm; of the worst output."""
    return max(
        float(np.linalg.norm(off)) / (float(np.linalg.norm(right)) or 1.0)
        for off, right in _differences(found, exact)
    )


def _differences(found: Outputs, expected: Outputs) -> Iterator[tuple[Array, Array]]:
    """Yield what each output is off, and what it should be; inf where they cannot be compared."""
    for name, right in expected.items():
        here, wide = found[name].astype(np.float64), right.astype(np.float64)
        if here.shape == wide.shape and np.array_equal(_wild(here), _wild(wide), equal_nan=True):
            known = np.isfinite(wide)
            yield here[known] - wide[known], wide[known]
        else:
            yield np.array([np.inf]), np.ones(1)


def _wild(values: Array) -> Array:
    """Return ``values`` with 0 in place of finite ones."""
    return np.where(np.isfinite(values), 0.0, values)


def differs(precision: str, outputs: Mapping[str, Outputs], exact: Outputs) -> dict[str, float]:
    """Return whose outputs are not as near as they have to be, and how far they are."""
    wanted = exact if precision == "float16" else outputs["raw"]
    far = {tool: distance(found, wanted) for tool, found in outputs.items()}
    allowed = NEAR.get(precision) or max(2 * far["raw"], HALF_STEP)
    too_far = {tool: each for tool, each in far.items() if not each <= allowed}
    if precision == "qdq":
        largest = SAME_ERROR * deviation(outputs["raw"], exact)
        too_far = {t: far[t] for t in too_far if not deviation(outputs[t], exact) <= largest}
    return too_far
