"""The accuracy that a search aims at, and the noise that it allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log10
from types import MappingProxyType
from typing import Any

from trtforge import RequestError, Requirements

_TIGHTER: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "cosine": lambda asked, margin: asked + (1 - asked) * margin,
        "sample_cosine": lambda asked, margin: asked + (1 - asked) * margin,
        "top1_agreement": lambda asked, margin: asked + (1 - asked) * margin,
        "sqnr": lambda asked, margin: asked - 10 * log10(1 - margin),
        "accuracy": lambda asked, _: asked,
        "accuracy_drop": lambda asked, margin: asked * (1 - margin),
    }
)


def accuracy_target(require: Requirements, margin: float) -> Requirements:
    """Return what is required of accuracy, with ``margin`` of the allowed error left free.

    Raises:
        RequestError: nothing is required of accuracy.
    """
    asked = stated(require)
    if not asked:
        raise RequestError(
            "search-precision keeps the accuracy that is required, and none is",
            remedy="say how much, for example in the recipe: require: {cosine: 0.995}",
        )
    tightened: dict[str, Any] = {name: _TIGHTER[name](asked[name], margin) for name in asked}
    return replace(Requirements(), **tightened)


def stated(require: Requirements) -> dict[str, float]:
    """Return the requirements on accuracy that are stated, by name."""
    found = {name: getattr(require, name) for name in _TIGHTER}
    return {name: value for name, value in found.items() if value is not None}


def allowed_noise(require: Requirements) -> float | None:
    """Return the noise power over power that figures of similarity allow; None: there are none.

    Noise that is independent of the signal makes a cosine of ``1 / sqrt(1 + noise)``.
    """
    found = [
        1 / cosine**2 - 1
        for cosine in (require.cosine, require.sample_cosine)
        if cosine is not None and cosine > 0
    ]
    if require.sqnr is not None:
        found.append(10 ** (-require.sqnr / 10))
    return min(found, default=None)
