"""How long all shipped custom ops take to compile, for each type and compute capability.

    python benchmarks/op_compile.py [--processes N] [--out FILE]

The kernels are compiled into an empty folder first, by N processes at once that share it, then
asked for once more from that folder by one process. Needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import trtforge_ops

from trtforge.kernel_source import CUDA_TYPES
from trtforge.kernels import compile_kernel
from trtforge.targets import KNOWN

TARGETS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120", "sm_121")


def jobs() -> list[tuple[str, str, str]]:
    """Return op, type and compute capability of each kernel; types that the GPU lacks are out."""
    return [
        (op.__name__, dtype, target)
        for op in trtforge_ops.OPS
        for dtype in op.dtypes
        for target in TARGETS
        if dtype in CUDA_TYPES
        and (dtype in KNOWN[target].dtypes or dtype.startswith(("int", "uint")))
    ]


def compile_one(op: str, dtype: str, target: str, store: Path) -> None:
    """Compile one kernel with its default tactic, or take it from ``store``."""
    compile_kernel(getattr(trtforge_ops, op)(), dtype, KNOWN[target], store)


def main() -> None:
    """Measure and print; write the result where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    todo = jobs()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        started = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            pool.starmap(compile_one, [(*job, store) for job in todo], chunksize=1)
        cold = time.perf_counter() - started
        started = time.perf_counter()
        for job in todo:
            compile_one(*job, store)
        kept = time.perf_counter() - started
        size = sum(path.stat().st_size for path in store.iterdir())
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, no GPU, {platform.machine()}",
        "versions": {name: version(name) for name in ("trtforge", "cupy-cuda13x")},
        "ops": len(trtforge_ops.OPS),
        "kernels": len(todo),
        "targets": list(TARGETS),
        "processes": options.processes,
        "cold_seconds": round(cold, 1),
        "kept_seconds": round(kept, 2),
        "kept_bytes": size,
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
