"""The custom ops that ship with trtforge."""

from __future__ import annotations

import trtforge
from trtforge_ops.bias_gelu import BiasGelu
from trtforge_ops.rms_norm import RMSNorm

__all__ = ["BiasGelu", "RMSNorm", "trtforge_components"]


@trtforge.hookimpl
def trtforge_components() -> list[type[trtforge.CustomOp]]:
    """Offer the ops."""
    return [BiasGelu, RMSNorm]
