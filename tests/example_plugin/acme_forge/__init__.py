"""All that a third party may add to trtforge: one of each kind, one file each."""

from __future__ import annotations

import trtforge as tf
from acme_forge.drop_dropout import DropDropout
from acme_forge.fuse_clip import FuseClip
from acme_forge.percentile import CalibratePercentile
from acme_forge.swish import Swish
from acme_forge.wall_clock import WallClock

__all__ = ["CalibratePercentile", "DropDropout", "FuseClip", "Swish", "WallClock"]


@tf.hookimpl
def trtforge_components() -> list[type]:
    """Offer everything."""
    return [DropDropout, FuseClip, CalibratePercentile, WallClock, Swish]
