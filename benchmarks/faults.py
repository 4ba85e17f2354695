"""Random faults: kills, full disks, wrong clocks, damaged caches, and what was true after each.

    python benchmarks/faults.py [--count 500] [--jobs 1]

Draws the cases of ``tests/test_faults.py``, only more of them, and writes
``benchmarks/results/faults.json``. A case fails where something was lost, half written, wrong,
stale or not explained; its seed tells how to have it again. Needs Linux on x86_64.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "faults.json"
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    """Try all cases, print each that fails, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cases")
    options = parser.parse_args()
    started = time.perf_counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        parts = [
            pool.submit(trials, options.count, first, options.jobs) for first in range(options.jobs)
        ]
        found = merged([part.result() for part in parts])
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.release()}, no GPU",
        "versions": {name: version(name) for name in ("trtforge", "onnxruntime", "tensorrt-rtx")},
        "seconds": round(time.perf_counter() - started),
        **found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def trials(count: int, first: int, every: int) -> dict[str, Any]:
    """Return what every ``every``-th case from the ``first`` on brought, by commands and kinds."""
    with TemporaryDirectory(prefix="trtforge-faults-") as folder:
        return _trials(Path(folder), count, first, every)


def _trials(folder: Path, count: int, first: int, every: int) -> dict[str, Any]:
    from faults import COMMANDS, Workshop

    kinds: dict[str, Counter[str]] = {name: Counter() for name in COMMANDS}
    moments: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    failures = []
    workshop = Workshop(folder)
    for name, command in COMMANDS.items():
        for seed in range(first, command.share(count), every):
            case = workshop.draw(name, seed)
            try:
                told = workshop.run(case)
            except AssertionError as error:
                failures.append({"command": name, "seed": seed, "what": str(error)[:500]})
                print(f"FAILED {case}: {error}", flush=True)
                continue
            if not told.reached:
                endings["the moment did not come"] += 1
                continue
            kinds[name][case.kind] += 1
            moments[case.call or "-"] += 1
            endings["killed" if told.code is None else f"exit code {told.code}"] += 1
        print(name, dict(kinds[name]), flush=True)
    workshop.close()
    return {
        "faults": sum(sum(each.values()) for each in kinds.values()),
        "failures": failures,
        "kinds": kinds,
        "moments": moments,
        "commands_ended": endings,
    }


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of what the processes found."""

    def total(counts: Iterable[Counter[str]]) -> dict[str, int]:
        return dict(sorted(sum(counts, Counter()).items()))

    return {
        "faults": sum(part["faults"] for part in parts),
        "failures": [failure for part in parts for failure in part["failures"]],
        "kinds": {name: total(part["kinds"][name] for part in parts) for name in parts[0]["kinds"]},
        "moments": total(part["moments"] for part in parts),
        "commands_ended": total(part["commands_ended"] for part in parts),
    }


if __name__ == "__main__":
    main()
