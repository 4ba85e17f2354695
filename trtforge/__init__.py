"""trtforge: a trained model goes in, a recipe says what to do, proven TensorRT engines come out.

Importing this package is cheap: every name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtforge.api import check, make_convertible, run
    from trtforge.artifacts import (
        Artifact,
        Batches,
        CastTo,
        Comparison,
        Engine,
        EngineLayer,
        EngineLayers,
        Figures,
        LayerTiming,
        Memory,
        OutputComparison,
        PrecisionProof,
        PrecisionShare,
        Quantized,
        Range,
        Ranges,
        Timings,
    )
    from trtforge.context import Context, Note, Request, Requirements
    from trtforge.errors import (
        BuildError,
        DataError,
        EnvironmentLacks,
        ExitCode,
        ModelError,
        PluginError,
        RecipeError,
        RequestError,
        StepError,
        TrtforgeError,
        WorkerError,
    )
    from trtforge.hooks import hookimpl
    from trtforge.ops import CustomOp, Launch, ceil_div
    from trtforge.quantities import ByteSize, Dims, ShapeRange
    from trtforge.steps import Backend, Calibrator, Importer, Pass, Profiler, Step
    from trtforge.surgeon import SurgeonPass
    from trtforge.targets import Target

__version__ = "0.1.0"

_HOMES = {
    "api": ("run", "check", "make_convertible"),
    "artifacts": (
        "Artifact", "Batches", "CastTo", "Comparison", "Engine", "EngineLayer", "EngineLayers",
        "Figures", "LayerTiming", "Memory", "OutputComparison", "PrecisionProof", "PrecisionShare",
        "Quantized", "Range", "Ranges", "Timings",
    ),
    "context": ("Context", "Note", "Request", "Requirements"),
    "errors": (
        "BuildError", "DataError", "EnvironmentLacks", "ExitCode", "ModelError", "PluginError",
        "RecipeError", "RequestError", "StepError", "TrtforgeError", "WorkerError",
    ),
    "hooks": ("hookimpl",),
    "ops": ("CustomOp", "Launch", "ceil_div"),
    "quantities": ("ByteSize", "Dims", "ShapeRange"),
    "steps": ("Backend", "Calibrator", "Importer", "Pass", "Profiler", "Step"),
    "surgeon": ("SurgeonPass",),
    "targets": ("Target",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604  # the names are literals, kept once in _HOMES
    "__version__",
    *_HOME_OF,
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"trtforge.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
