"""Bundles of a BERT-base for six GPUs: size, speed of writing and checking, time of a preflight.

    python benchmarks/bundle.py [--rounds 7]

Builds one TensorRT-RTX engine for six compute capabilities and one for each of them alone, and
writes ``benchmarks/results/bundle.json``. Writing a bundle and plainly copying the same files take
turns; both end when the data has reached the disk (fsync). Nothing is executed on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

import trtforge
from trtforge.bundle.contents import of_runs
from trtforge.bundle.plan_header import SIZE, read_header
from trtforge.bundle.storage import Bundle
from trtforge.bundle.writer import write

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "bundle.json"
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
RECIPE = "stages: [{name: b, steps: [fold-constants, {cast: {to: float16}}, tensorrt]}]"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PREFLIGHT = """
import sys, time
from pathlib import Path
from trtforge.bundle.preflight import preflight
from trtforge.bundle.storage import Bundle
from trtforge.environment import environment
bundle = Bundle(Path(sys.argv[1]))
start = time.perf_counter()
preflight(bundle, environment())
print(time.perf_counter() - start)
assert not {"tensorrt", "tensorrt_rtx"} & set(sys.modules)
"""


def bert(folder: Path) -> Path:
    """Write a BERT-base with random weights and return its path."""
    sys.path.insert(0, str(ROOT / "tests"))
    import models

    path = folder / "bert-base.onnx"
    onnx.save(models.bert(models.BertSize(12, 768, 12, 3072, 30522, 512)), path)
    return path


def build(model: Path, folder: Path, targets: tuple[str, ...]) -> Path:
    """Build one float16 engine for ``targets`` and return the run folder."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    out = folder / "-".join(targets)
    shapes = dict.fromkeys(INPUTS, "1x128")
    trtforge.run(recipe, model, out=out, targets=targets, shapes=shapes, compare=False)
    return out


def flushed(place: Path) -> None:
    """Wait until a file or a folder has reached the disk."""
    for path in [place, *place.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def timed(job: Any) -> tuple[float, float]:
    """Return the wall time of ``job`` and the processor time of all threads, in seconds."""
    started, busy = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - started, time.process_time() - busy


def copy(bundle: Path, target: Path) -> None:
    """Copy the bundle's files as ``cp -r`` would, and wait for the disk."""
    shutil.copytree(bundle, target)
    flushed(target)


def speeds(run: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Return the medians of alternating writes and copies, and of checking."""
    contents, bundle = of_runs([run]), folder / "bundle"
    size = write(contents, bundle).stored_bytes
    times: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("copy", "folder", "zip", "check")
    }
    for number in range(rounds + 1):
        pair = {
            "copy": timed(lambda: copy(bundle, folder / "copy")),
            "folder": timed(lambda: write(contents, folder / "again")),
            "zip": timed(lambda: write(contents, folder / "again.zip")),
            "check": timed(lambda: Bundle(bundle)),
        }
        for place in ("copy", "again"):
            shutil.rmtree(folder / place)
        (folder / "again.zip").unlink()
        if number:  # the first round warms the page cache
            for name, seconds in pair.items():
                times[name].append(seconds)
    wall = {name: [seconds for seconds, _ in values] for name, values in times.items()}
    busy = {name: median(seconds for _, seconds in values) for name, values in times.items()}
    rate = {name: size / median(values) / 1e9 for name, values in wall.items()}
    ratios = [plain / ours for plain, ours in zip(wall["copy"], wall["folder"], strict=True)]
    zipped = [plain / ours for plain, ours in zip(wall["copy"], wall["zip"], strict=True)]
    return {
        "bytes": size,
        "hash": "BLAKE3",
        "gb_per_s": {name: round(value, 2) for name, value in rate.items()},
        "processor_s": {name: round(value, 3) for name, value in busy.items()},
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "folder_to_copy": round(median(ratios), 3),
        "zip_to_copy": round(median(zipped), 3),
    }


def preflight_ms(bundle: Path, rounds: int) -> dict[str, float]:
    """Return the time of a preflight in fresh processes, in milliseconds."""
    command = [sys.executable, "-c", PREFLIGHT, str(bundle)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for _ in range(rounds)]  # fmt: skip
    times = [float(text) * 1000 for text in runs]
    return {"median": round(median(times), 1), "largest": round(max(times), 1)}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="trtforge-bundle-") as scratch:
        folder = Path(scratch)
        os.environ["TRTFORGE_CACHE"] = str(folder / "cache")
        model = bert(folder)
        together = build(model, folder, TARGETS)
        engine = next((together / "engines").glob("*.engine"))
        header = read_header(engine.read_bytes()[:SIZE])
        assert header is not None
        assert header.size == engine.stat().st_size
        alone = [build(model, folder, (target,)) for target in TARGETS]
        sizes = [next((run / "engines").glob("*.engine")).stat().st_size for run in alone]
        result = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU, shared",
            "versions": {name: version(name) for name in ("trtforge", "tensorrt-rtx")},
            "model": "bert-base, float16, 1x128",
            "targets": TARGETS,
            "header": {"version": header.version_text, "size": header.size},
            "one_engine_bytes": engine.stat().st_size,
            "six_engines_bytes": sum(sizes),
            "size_ratio": round(engine.stat().st_size / sum(sizes), 4),
            "rounds": options.rounds,
            **speeds(together, folder, options.rounds),
            "preflight_ms": preflight_ms(folder / "bundle", options.rounds),
        }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
