"""Reads measured times that other tools wrote, whichever of the three forms a file has.

* trtexec's ``--exportTimes``: a list with one entry per query (``computeMs``, ``h2dMs``, ...);
* trtexec's ``--exportProfile``: a list of layers (``name``, ``medianMs``, ...) behind a ``count``;
* ONNX Runtime's profile: a list of trace events (``cat``, ``name``, ``dur`` in microseconds).

The forms are those of samples/common/sampleReporting.cpp in TensorRT's open-source part (11.1) and
of https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtforge.artifacts import Timings
from trtforge.errors import DataError
from trtforge.timing_statistics import layer_timings, quantile, summarize

MAX_BYTES = 256 * 2**20
"""ONNX Runtime writes about 1 kB per node and run."""
_SUFFIX = "_kernel_time"
_TRANSFERS = ("h2dMs", "d2hMs")

Entry = Mapping[str, Any]


def read_timings(path: Path, *, warmup: int | None = None) -> Timings:
    """Return what the file says.

    Args:
        path: The JSON file.
        warmup: Runs at the start that do not count; None: 1 for ONNX Runtime, whose first run
            allocates, and 0 for trtexec, which leaves its warm-up out.

    Raises:
        DataError: it is none of the three forms, too large, or leaves no run.
    """
    try:
        return _read(_document(path), warmup)
    except DataError as error:
        error.at(str(path))
        error.remedy = (
            "give what trtexec wrote with --exportTimes or --exportProfile, or a profile of ONNX "
            "Runtime"
        )
        raise


def _document(path: Path) -> object:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"it is larger than {MAX_BYTES} bytes")
        # trtexec copies the layers' names as they are: control characters may be among them.
        return json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no valid JSON: {error}") from error


def merged(runs: Timings, layers: Timings) -> Timings:
    """Return the whole runs of one measurement with the layers of another."""
    return replace(runs, layers=layers.layers, notes=(*runs.notes, *layers.notes))


def _read(document: object, warmup: int | None) -> Timings:
    listed = document if isinstance(document, list) else []
    entries = [each for each in listed if isinstance(each, dict)]
    if any("computeMs" in each for each in entries):
        return _queries(entries, warmup or 0)
    if any("medianMs" in each or "averageMs" in each for each in entries):
        return _layers(entries)
    if any("dur" in each and "cat" in each for each in entries):
        return _events(entries, 1 if warmup is None else warmup)
    raise DataError(
        "this is neither trtexec's --exportTimes, nor its --exportProfile, nor a profile of "
        "ONNX Runtime"
    )


def _queries(entries: Sequence[Entry], warmup: int) -> Timings:
    found = [each for each in entries if "computeMs" in each]
    copied = [quantile(sorted(_number(each, key) for each in found), 0.5) for key in _TRANSFERS]
    transfers = "without transfers: trtexec measured none"
    if any(copied):
        transfers = (
            f"without transfers: medians {copied[0]:.4g} ms to the GPU, {copied[1]:.4g} ms back"
        )
    return summarize(
        [_number(each, "computeMs") for each in found],
        device="trtexec, GPU compute time",
        warmup=warmup,
        notes=(
            "trtexec left its own warm-up out",
            transfers,
            "the file does not say whether a CUDA graph was used",
        ),
    )


def _layers(entries: Sequence[Entry]) -> Timings:
    counts = [each["count"] for each in entries if isinstance(each.get("count"), int)]
    named = [each for each in entries if "name" in each]
    times = [
        (str(each["name"]), _number(each, "medianMs" if "medianMs" in each else "averageMs"))
        for each in named
    ]
    return Timings(
        device="trtexec, layer by layer",
        runs=counts[0] if counts else 0,
        warmup=0,
        median_ms=sum(time for _, time in times),
        p90_ms=None,
        p99_ms=None,
        layers=layer_timings(times),
        notes=(
            "the whole is the sum of the layers' medians, each timed by itself: whole runs differ",
        ),
    )


def _events(entries: Sequence[Entry], warmup: int) -> Timings:
    runs = _spans(each for each in entries if each.get("name") == "model_run")
    if not runs:
        raise DataError("the profile has no event 'model_run'")
    nodes = [each for each in entries if each.get("cat") == "Node"]
    kernels = [each for each in nodes if str(each.get("name", "")).endswith(_SUFFIX)]
    spent: dict[str, list[float]] = {}
    start = runs[min(warmup, len(runs) - 1)][0]
    for each in kernels:
        if _number(each, "ts") >= start:
            name = str(each["name"]).removesuffix(_SUFFIX)
            spent.setdefault(name, []).append(_number(each, "dur") / 1e3)
    counted = max(1, len(runs) - warmup)
    providers = sorted({str(_arguments(each).get("provider", "")) for each in kernels} - {""})
    return summarize(
        [duration / 1e3 for _, duration in runs],
        device=f"ONNX Runtime, {' and '.join(providers) or 'unknown provider'}",
        warmup=warmup,
        layers=[(name, _per_run(times, counted)) for name, times in spent.items()],
        notes=("with ONNX Runtime's profiler on, which costs time", *_synchronous(providers)),
    )


def _per_run(times: Sequence[float], runs: int) -> float:
    """Return the median of a node; of one in a loop, its mean share of a run."""
    return quantile(sorted(times), 0.5) if len(times) <= runs else sum(times) / runs


def _synchronous(providers: Iterable[str]) -> tuple[str, ...]:
    if "CUDAExecutionProvider" not in providers:
        return ()
    return ("times of nodes on the GPU are those of their launch: kernels run on afterwards",)


def _spans(events: Iterable[Entry]) -> list[tuple[float, float]]:
    return sorted((_number(each, "ts"), _number(each, "dur")) for each in events)


def _arguments(event: Entry) -> Entry:
    found = event.get("args")
    return found if isinstance(found, dict) else {}


def _number(entry: Entry, key: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"an entry has no number {key!r}")
    return float(value)


def name_beside(dump: Path, what: str) -> Path | None:
    """Return the file of measured times beside a layer dump, if it is there.

    ``model.layers.txt`` has ``model.profile.json``, ``layers_model.json`` has
    ``profile_model.json``; ``what`` is ``profile`` or ``times``.
    """
    stem = dump.name.removesuffix(dump.suffix)
    names = []
    if stem.endswith(".layers"):
        names.append(f"{stem.removesuffix('layers')}{what}.json")
    if stem.startswith("layers"):
        names.append(f"{what}{stem.removeprefix('layers')}.json")
    found = (dump.with_name(name) for name in names)
    return next((path for path in found if path.is_file()), None)


def timings_beside(dump: Path) -> Timings | None:
    """Return the measured times in the files beside a layer dump, or None where there are none.

    Raises:
        DataError: such a file cannot be read.
    """
    found = [name_beside(dump, what) for what in ("times", "profile")]
    files = [path for path in found if path is not None]
    return timings_of(files) if files else None


def timings_of(files: Sequence[Path]) -> Timings:
    """Return the measured times of one file, or whole runs of the first and layers of the second.

    Raises:
        DataError: a file cannot be read.
    """
    runs = read_timings(files[0])
    both = merged(runs, read_timings(files[1])) if len(files) > 1 else runs
    names = ", ".join(path.name for path in files)
    return replace(both, notes=(f"read from {names}", *both.notes))
