"""The custom ops that ship with trtforge."""

from __future__ import annotations

import trtforge
from trtforge_ops.bias_gelu import BiasGelu

__all__ = ["BiasGelu", "trtforge_components"]


@trtforge.hookimpl
def trtforge_components() -> list[type[trtforge.CustomOp]]:
    """Offer the ops."""
    return [BiasGelu]
