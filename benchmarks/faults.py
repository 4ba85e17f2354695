"""Random faults: kills, full disks, wrong clocks, damaged caches, and what was true after each.

    python benchmarks/faults.py [--count 500]

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
    options = parser.parse_args()
    started = time.perf_counter()
    with TemporaryDirectory(prefix="trtforge-faults-") as folder:
        found = trials(Path(folder), options.count)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.release()}, no GPU",
        "versions": {name: version(name) for name in ("trtforge", "onnxruntime", "tensorrt-rtx")},
        "seconds": round(time.perf_counter() - started),
        **found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def trials(folder: Path, count: int) -> dict[str, Any]:
    """Return how many faults of each kind came over each command, and what the commands said."""
    from faults import COMMANDS, Workshop

    kinds: dict[str, Counter[str]] = {name: Counter() for name in COMMANDS}
    moments: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    failures = []
    workshop = Workshop(folder)
    for name, command in COMMANDS.items():
        for seed in range(command.share(count)):
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
        "kinds": {name: dict(sorted(each.items())) for name, each in kinds.items()},
        "moments": dict(sorted(moments.items())),
        "commands_ended": dict(sorted(endings.items())),
    }


if __name__ == "__main__":
    main()
