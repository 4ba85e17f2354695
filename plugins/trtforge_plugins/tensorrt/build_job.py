"""What runs in the worker process: parse a model, and build it."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from trtforge import BuildError, CustomOp, Progress
from trtforge.targets import read_target
from trtforge_plugins.tensorrt import adapter, plugin, quick_plugin
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.order import BuildOrder, Order
from trtforge_plugins.tensorrt.profiles import check_profiles

_PEAK = "VmHWM:"


def parse(payload: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """Return what the parser refuses, the inputs of a network that it takes, and the targets.

    ``payload`` is an :class:`~.order.Order`.
    """
    order = Order(**payload)
    listener = Listener(sys.stderr, order.log_level)
    session = adapter.Session(adapter.load(order.flavor), listener)
    refused = session.parse(Path(order.model))
    inputs = [] if refused else [asdict(each) for each in session.inputs()]
    found = {"refused": refused, "inputs": inputs, "targets": session.targets()}
    return {**found, "events": listener.events}


def build(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build an engine; ``payload`` is a :class:`~.order.BuildOrder`.

    Returns:
        ``refused`` alone when the parser refuses the model; ``failed``, with all errors and
        warnings, when the build fails; else the facts of the engine, whose file is then complete.

    Raises:
        RequestError: the profiles or targets do not fit.
        EnvironmentLacks: this TensorRT or machine lacks what the order needs.
    """
    order = BuildOrder(**payload)
    started = time.perf_counter()
    listener = Listener(sys.stderr, order.log_level)
    trt = adapter.load(order.flavor)
    with _plugins(trt, order):
        session = adapter.Session(trt, listener)
        refused = session.parse(Path(order.model))
        if refused:
            return {"refused": refused}
        check_profiles(session.inputs(), order.profiles)
        try:
            plan = session.build(order, progress)
        except BuildError as error:
            told = {"errors": listener.errors, "warnings": listener.warnings}
            return {"refused": [], "failed": error.what, **told}
    with Path(order.engine).open("wb") as file:
        file.write(plan)
    seconds = time.perf_counter() - started
    layers = listener.layers or session.inspect(plan)
    if layers is not None:
        Path(order.layers).write_text(layers, encoding="utf-8")
    return {
        "refused": [],
        "failed": "",
        "version": session.version,
        "size": len(plan),
        "seconds": seconds,
        "memory": {**listener.memory, "build_peak_rss": peak_resident_memory()},
        "events": listener.events,
        "has_layers": layers is not None,
    }


@contextmanager
def _plugins(trt: Any, order: Order) -> Iterator[None]:
    """Offer the custom ops to TensorRT as plugins; what failed in them counts more than all else.

    Raises:
        BuildError: a callback of a plugin failed.
    """
    if not order.ops:
        yield
        return
    workshop = plugin.Workshop(
        trt, tuple(map(read_target, order.kernel_targets)), Path(order.kernel_store),
        Path(order.tuning),
    )  # fmt: skip
    plugin.check_fields(trt)
    quick = adapter.quick_plugins(trt, order.flavor)
    early = order.ahead_of_time if quick else []
    try:
        for name in early:
            quick_plugin.register(quick, workshop, _op_class(name))
        with plugin.offered(workshop, [_op_class(name) for name in order.ops if name not in early]):
            yield
    finally:
        if workshop.failures:
            raise BuildError("; ".join(workshop.failures), remedy="mend the custom op")


def _op_class(name: str) -> type[CustomOp]:
    module, _, path = name.partition(":")
    found = attrgetter(path)(importlib.import_module(module))
    if not (isinstance(found, type) and issubclass(found, CustomOp)):
        raise BuildError(f"{name} is no custom op")
    return found


def peak_resident_memory() -> int | None:
    """Return the most memory that this process ever had resident, in bytes, where Linux tells.

    ``getrusage`` would also count the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith(_PEAK)]
    return int(found[0]) * 1024 if found else None
