"""``trtforge doctor`` on a machine with a GPU: what it finds, and its exit code as a gate.

    python benchmarks/h200_doctor.py [--out benchmarks/results/h200_doctor.json]

The result is what ``doctor --json`` prints there, so ``trtforge bundle preflight --env`` takes it,
with the date and the exit codes of some demands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "h200_doctor.json"
COMMAND = [sys.executable, "-c", "from trtforge.cli import main; main()", "doctor", "--json"]


def doctor(*options: str, **variables: str) -> Any:
    """Return what the command prints as JSON; it ends with one of its documented codes."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [*COMMAND, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1, 4), done.stderr
    data = json.loads(done.stdout)
    assert data["exit_code"] == done.returncode
    return data


def main() -> None:
    """Ask, check the answers against each other, print and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found = doctor("--gpu")
    gpus = found["environment"]["gpus"]
    assert gpus, "NVML sees no GPU here"
    capability = gpus[0]["compute_capability"].replace(".", "")
    demands = [f"sm_{capability},gpu,driver>=525", "sm_75", "driver>=9999", "gpu-memory>=16GiB"]
    required = [doctor("--require", demand)["required"] for demand in demands]
    assert all(entry["met"] for entry in required[0])
    assert not required[2][0]["met"]
    hidden = doctor(CUDA_VISIBLE_DEVICES="-1")
    codes = [finding["code"] for finding in hidden["findings"]]
    assert "gpu-hidden" in codes, codes
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **found,
        "demands": [entry for answers in required for entry in answers],
    }
    text = json.dumps(result, indent=2).replace(json.dumps(str(Path.cwd())), '"."') + "\n"
    options.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
