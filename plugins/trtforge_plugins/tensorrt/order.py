"""What the step asks of the worker process, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trtforge import ShapeRange

Triple = tuple[list[int], list[int], list[int]]
Profile = dict[str, Triple]
"""Input name to its smallest, usual and largest shape."""


def triples(profile: Mapping[str, ShapeRange]) -> Profile:
    """Return a profile as plain data."""
    return {
        name: (list(shapes.min), list(shapes.opt), list(shapes.max))
        for name, shapes in profile.items()
    }


@dataclass(frozen=True)
class Order:
    """A model to parse, and how to build it."""

    flavor: str
    model: str
    """Path of the ONNX file."""
    log_level: str = "INFO"
    """The least severe kind of TensorRT's messages that goes into the log."""
    ops: list[str] = field(default_factory=list)
    """Classes of the custom ops that are plugins, as ``module:class``."""
    ahead_of_time: list[str] = field(default_factory=list)
    """Those of ``ops`` that TensorRT launches itself, where it has plugins of that kind."""
    kernel_targets: list[str] = field(default_factory=list)
    """What the plugins' kernels are compiled for: ``sm_86``."""
    kernel_store: str = ""
    """Folder that keeps compiled kernels."""
    tuning: str = ""
    """Folder that keeps which tactics were measured to be fastest."""


@dataclass(frozen=True)
class BuildOrder(Order):
    """An engine to build. Paths are files to write; the names are TensorRT's own."""

    engine: str = ""
    layers: str = ""
    profiles: list[Profile] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    """Compute capabilities for a TensorRT that builds for several; empty: this GPU."""
    optimization_level: int | None = None
    pools: dict[str, int] = field(default_factory=dict)
    """Memory pool to its limit in bytes: ``WORKSPACE``, ``TACTIC_DRAM``, …"""
    flags: dict[str, bool] = field(default_factory=dict)
    """Builder flag to its state: ``TF32``, ``WEIGHT_STREAMING``, …"""
    hardware_compatibility: str = "NONE"
    max_aux_streams: int | None = None
    timing_cache: str | None = None
    """File to read, if it exists."""
    timing_cache_out: str = ""
    """File for the cache after the build."""
