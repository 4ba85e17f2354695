"""Many builds in one process: does memory grow, does a process, file or descriptor stay?

    python benchmarks/soak.py [--builds 200]

Good models, models that TensorRT refuses, builds that run out of time, and a model at which
TensorRT-RTX 1.7 aborts take turns in one driver process. Writes ``benchmarks/results/soak.json``;
ends with 1 when resident memory grew by more than 5 % after the first tenth, or when anything
stayed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import psutil
from trtforge_plugins.tensorrt import TensorRT

from trtforge import Context, Request, ShapeRange, TrtforgeError
from trtforge.targets import read_target
from trtforge.worker import Job, Worker

RESULT = Path(__file__).resolve().parent / "results" / "soak.json"
TESTS = Path(__file__).resolve().parents[1] / "tests"
GROWTH = 0.05
GOOD = """
<ir_version: 10, opset_import: ["" : 21]>
mlp (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}>
{ a = MatMul (x, w)  y = Relu (a) }
"""
BAD = """
<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
unknown (float[2,4] x) => (float[2,4] y) { y = acme.Swirl (x) }
"""
KINDS = ("good", "bad", "slow", "crash")


def build(kind: str, folder: Path) -> str:
    """Do one build; return how it ended."""
    request = Request(
        source="model.onnx",
        targets=(read_target("sm_89"),),
        profiles=({"x": ShapeRange.read("1x4:8x4:32x4")},) if kind != "bad" else (),
    )
    try:
        if kind == "crash":
            return _abort(folder)
        model = ir.from_onnx_text(BAD if kind == "bad" else GOOD)
        step = TensorRT(time_limit=0.01) if kind == "slow" else TensorRT()
        step.build(model, Context(model, folder, request))
    except TrtforgeError as error:
        return f"{kind}: {error.code}"
    return f"{kind}: built"


def _abort(folder: Path) -> str:
    """Parse a plugin's node without the library path that TensorRT needs for it: it aborts."""
    model = folder / "swirl.onnx"
    ir.save(ir.from_onnx_text(BAD), model)
    job = Job("tensorrt_jobs:parse_with_plugin", {"model": str(model)}, "it", folder / "log")
    path = f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with Worker(environment={"PYTHONPATH": path}) as worker:
        worker.call(job)
    return "crash: built"


def soak(count: int, scratch: Path) -> dict[str, Any]:
    """Build ``count`` times; return what grew and what stayed."""
    me, started = psutil.Process(), time.perf_counter()
    ended: Counter[str] = Counter()
    memory: list[int] = []
    first = max(len(KINDS), count // 10)
    descriptors = files = 0
    others = set(me.children(recursive=True))  # not ours to judge
    for index in range(count):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            ended[build(KINDS[index % len(KINDS)], Path(folder))] += 1
        memory.append(me.memory_info().rss)
        if index + 1 == first:
            descriptors, files = me.num_fds(), _files(scratch)
    return {
        "builds": count,
        "ended": dict(ended),
        "seconds": round(time.perf_counter() - started, 1),
        "memory after the first tenth": memory[first - 1],
        "memory at the end": memory[-1],
        "growth": round(memory[-1] / memory[first - 1] - 1, 4),
        "processes that stayed": len(set(me.children(recursive=True)) - others),
        "descriptors more": me.num_fds() - descriptors,
        "files more": _files(scratch) - files,
    }


def _files(scratch: Path) -> int:
    return sum(1 for _ in scratch.rglob("*"))


def faults(found: dict[str, Any]) -> list[str]:
    """Return what must not be."""
    stayed = ("processes that stayed", "descriptors more", "files more")
    said = [f"{name}: {found[name]}" for name in stayed if found[name] > 0]
    return [*said, *([f"growth: {found['growth']}"] if found["growth"] > GROWTH else [])]


def main() -> int:
    """Soak, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--builds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # what a build leaves in the temporary folder is seen, too
        found = soak(options.builds, Path(scratch))
        tempfile.tempdir = None
    head = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, no GPU",
        "versions": {name: version(name) for name in ("trtforge", "tensorrt-rtx")},
    }
    options.out.write_text(json.dumps({**head, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    for fault in faults(found):
        print(f"FAULT: {fault}", file=sys.stderr)
    return int(bool(faults(found)))


if __name__ == "__main__":
    sys.exit(main())
