"""Is another TensorRT safe? The demo's INT8 recipe and ``fp16`` under two environments.

    python benchmarks/qualification.py --other ENV/bin/python

``ENV`` has trtforge and another version of TensorRT. Both directions are asked. Writes
``benchmarks/results/qualification.json``. Engines are built, not executed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trtforge import demo

RESULT = Path(__file__).resolve().parent / "results" / "qualification.json"
RECIPES = {
    "demo INT8, four targets": [str(demo.RECIPE)],
    "fp16, sm_86": ["fp16", "--shape", "image=1x1x8x8", "--target", "sm_86"],
}


def ask(words: list[str], against: str, candidate: str) -> dict[str, Any]:
    """Return the verdict of ``trtforge qualify`` without the places on this machine."""
    command = [sys.executable, "-c", "from trtforge.cli import main; main()", "qualify", *words]
    command += ["-m", str(demo.MODEL), "--against", against, "--candidate", candidate, "--json"]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(command, cwd=place, check=False, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    for side in ("before", "after"):
        found[side] = {key: found[side][key] for key in ("tensorrt", "built")}
    return {
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - started, 1),
        **found,
    }


def main() -> None:
    """Ask in both directions and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", required=True, help="Python of the other environment")
    other = parser.parse_args().other
    found = {
        name: [ask(words, *pair) for pair in ((other, sys.executable), (sys.executable, other))]
        for name, words in RECIPES.items()
    }
    head = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, no GPU; engines built, not executed",
    }
    RESULT.write_text(json.dumps({**head, "recipes": found}, indent=1) + "\n")
    for name, answers in found.items():
        for answer in answers:
            sys.stdout.write(f"{name}: {answer['exit_code']}  {answer['headline']}\n")


if __name__ == "__main__":
    main()
