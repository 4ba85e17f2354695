"""What runs in the worker process: time an engine on the GPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from trtforge import EnvironmentLacks, Progress
from trtforge_plugins.tensorrt import adapter
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.execution import Execution


def measure(payload: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """Return ``times`` of whole runs and ``layers``: name and milliseconds of each.

    Args:
        payload: ``engine`` (its file), ``flavor``, ``runs``, ``warmup``, ``graph``.

    Raises:
        EnvironmentLacks: CuPy or TensorRT does not load.
        StepError: the engine does not run here.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise EnvironmentLacks(
            f"CuPy does not load: {error}", remedy="pip install 'trtforge[cu13]'"
        ) from error
    trt = adapter.load(payload["flavor"])
    logger = adapter.logger(trt, Listener(sys.stderr, "WARNING"))
    execution = Execution(trt, cupy, logger, Path(payload["engine"]).read_bytes())
    times = execution.time(payload["runs"], payload["warmup"], graph=payload["graph"])
    return {"times": times, "layers": execution.time_layers()}
