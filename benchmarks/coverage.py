"""How much of the ONNX project's own backend suite becomes a TensorRT engine, with equal outputs.

    python benchmarks/coverage.py [--only REGEX] [--jobs 2]

For each model of the suite: TensorRT-RTX builds it as it is (SM 89, ahead of time, no GPU), then
what ``make_convertible`` makes of it (interface unchanged), then with adapted interface types, and
then with the inputs frozen that TensorRT needs as constants. A variant is only tried where the one
before did not build. The model handed to TensorRT must give the suite's outputs within the suite's
tolerances, under ONNX Runtime (for bfloat16 also as trtforge runs it) or the ONNX reference
evaluator; engines are built, never run. Where the suite's own output is float32 rounding noise the
model must give the float64 result within the same tolerances, and is listed. Each
model is measured in a worker process, so that a crash is a result.

Writes ``benchmarks/results/coverage.json``: the counts, and each model that does not build with the
reason.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import local
from typing import Any

import coverage_job

from trtforge.worker import Job, Worker, WorkerFailure

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "coverage.json"
LIMIT = 120.0  # seconds a model
VARIANTS = ("kept", "adapted", "frozen")


def measure(name: str, state: local) -> dict[str, Any]:
    """Return what becomes of one model in each variant that is tried."""
    rows = {"raw": ask(name, "raw", state)}
    for variant in VARIANTS:
        rows[variant] = ask(name, variant, state)
        if rows[variant]["built"] and rows[variant]["equal"]:
            break
    return {"name": name, **rows}


def ask(name: str, variant: str, state: local) -> dict[str, Any]:
    """Ask this thread's worker; it starts anew after a crash."""
    if not hasattr(state, "worker"):
        state.worker = Worker(imports=["coverage_job"])
    job = Job(
        "coverage_job:measure", {"name": name, "variant": variant}, f"{name} ({variant})",
        time_limit=LIMIT,
    )  # fmt: skip
    try:
        return dict(state.worker.call(job))
    except WorkerFailure as error:
        return {"parsed": False, "built": False, "equal": False, "reason": f"CRASH: {error.what}"}


def good(row: dict[str, Any] | None) -> bool:
    """Whether a variant was built, with equal outputs."""
    return row is not None and row["built"] and row["equal"]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts, cumulative from variant to variant, and what went wrong."""
    counts = {"models": len(rows), "raw": sum(good(row["raw"]) for row in rows)}
    for index, variant in enumerate(VARIANTS):
        tried = VARIANTS[: index + 1]
        counts[variant] = sum(any(good(row.get(each)) for each in tried) for row in rows)
    kept = [row for row in rows if "kept" in row]
    return {
        "built and equal": counts,
        "built raw, not after": [r["name"] for r in kept if good(r["raw"]) and not good(r["kept"])],
        "outputs broken": [
            row["name"] for row in kept if row["raw"]["equal"] and not row["kept"]["equal"]
        ],
        "equal by float64 only": [row["name"] for row in rows if "'by float64': True" in str(row)],
        "crashed": [row["name"] for row in rows if "CRASH" in str(row)],
        "transform raised": [row["name"] for row in rows if "RAISED" in str(row)],
    }


def main() -> None:
    """Measure, print the counts and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression on the names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    names = [name for name in coverage_job.suite() if re.search(options.only, name)]
    started, state, rows = time.monotonic(), local(), []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda name: measure(name, state), names):
            rows.append(row)
            if len(rows) % 100 == 0:
                spent = time.monotonic() - started
                print(f"[{spent:6.0f} s] {len(rows)}/{len(names)}", file=sys.stderr, flush=True)
    left = {row["name"]: why(row) for row in rows if not any(good(row.get(v)) for v in VARIANTS)}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("onnx", "onnxruntime", "tensorrt-rtx")},
        "target": "sm_89",
        **summarize(rows),
        "reasons": dict(Counter(left.values()).most_common()),
        "not built": left,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in list(result)[:9]}, indent=1))


def why(row: dict[str, Any]) -> str:
    """Return why the last variant that was tried is no engine: the rules' words or TensorRT's."""
    last = next(row[variant] for variant in reversed(VARIANTS) if variant in row)
    return " ".join((last.get("left") or last["reason"]).split())[:240]


if __name__ == "__main__":
    main()
