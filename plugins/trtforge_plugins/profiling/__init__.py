"""Steps that measure time, or read what other tools measured."""

from __future__ import annotations

from trtforge_plugins.profiling.profile_engine import ProfileEngine
from trtforge_plugins.profiling.read_times import ReadTimes
from trtforge_plugins.profiling.time_onnxruntime import TimeOnnxruntime

__all__ = ["ProfileEngine", "ReadTimes", "TimeOnnxruntime"]
