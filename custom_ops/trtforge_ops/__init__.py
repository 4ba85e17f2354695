"""The custom ops that ship with trtforge."""

from __future__ import annotations

import trtforge
from trtforge_ops.bias_gelu import BiasGelu


@trtforge.hookimpl
def trtforge_components() -> list[type[trtforge.CustomOp]]:
    """Offer the ops."""
    return [BiasGelu]
