"""What a run costs beside a plain script that only parses and builds the same float16 model.

    python benchmarks/spine.py [--rounds 5]

Makes a ResNet-50 and a BERT-base (random weights), runs ``trtforge run fp16`` and the plain script
in turn, whole processes, and writes ``benchmarks/results/spine.json``: the median wall times, their
ratio, and where the time goes. The plain script is given the float16 model that trtforge made;
trtforge starts from float32: it cleans, casts, builds, proves and compares.
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

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "spine.json"
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
CASES = {
    "resnet50": {"image": "1x3x224x224:8x3x224x224:32x3x224x224"},
    "bert-base": {"input_ids": "1x128", "attention_mask": "1x128", "token_type_ids": "1x128"},
}

PLAIN = """
import json, sys
import tensorrt_rtx as trt

path, engine, targets, shapes = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4]
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(path)
config = builder.create_builder_config()
config.num_compute_capabilities = len(targets)
for index, target in enumerate(targets):
    capability = getattr(trt.ComputeCapability, target.replace("sm_", "SM"))
    config.set_compute_capability(capability, index)
profile = builder.create_optimization_profile()
for name, text in json.loads(shapes).items():
    parts = (text.split(":") * 3)[:3]
    profile.set_shape(name, *(tuple(map(int, part.split("x"))) for part in parts))
config.add_optimization_profile(profile)
with open(engine, "wb") as file:
    file.write(builder.build_serialized_network(network, config))
"""


def make(name: str, folder: Path) -> Path:
    """Write the float32 model ``name`` and return its path."""
    sys.path.insert(0, str(ROOT / "tests"))
    import models

    base = models.BertSize(12, 768, 12, 3072, 30522, 512)
    path = folder / f"{name}.onnx"
    onnx.save(models.resnet50() if name == "resnet50" else models.bert(base), path)
    return path


def timed(command: list[str], folder: Path) -> float:
    """Run a command and return its wall time in seconds."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment = {**os.environ, **bytecode}  # compiled once, as after an installation
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command[:4]} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def measure(name: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the medians of ``rounds`` alternating runs, after one that does not count."""
    model, shapes = make(name, folder), CASES[name]
    out = folder / "out"
    options = [word for shape in shapes.items() for word in ("--shape", "=".join(shape))]
    options += [word for target in TARGETS for word in ("--target", target)]
    code = "from trtforge.cli import main; main()"
    ours = [sys.executable, "-c", code, "run", "fp16", "--model", str(model), *options,
            "--out", str(out), "--no-cache", "--quiet"]  # fmt: skip
    plain = [sys.executable, "-c", PLAIN, str(out / "model.onnx"), str(folder / "plain.engine"),
             ",".join(TARGETS), json.dumps(shapes)]  # fmt: skip
    times: dict[str, list[float]] = {"trtforge": [], "plain": []}
    for number in range(rounds + 1):
        shutil.rmtree(out, ignore_errors=True)
        pair = timed(ours, folder), timed(plain, folder)
        if number:
            times["trtforge"].append(pair[0])
            times["plain"].append(pair[1])
    report = json.loads((out / "report.json").read_text())
    steps = [step for stage in report["stages"] for step in stage["steps"]]
    spent = {step["step"]: round(step["seconds"], 3) for step in steps if step["seconds"] > 0.02}
    return {
        "model": name,
        "trtforge_s": round(median(times["trtforge"]), 3),
        "plain_s": round(median(times["plain"]), 3),
        "ratio": round(median(times["trtforge"]) / median(times["plain"]), 2),
        "more_s": round(median(times["trtforge"]) - median(times["plain"]), 3),
        "rounds": rounds,
        "steps_s": spent,
    }


def main() -> None:
    """Measure all cases, print them and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = [measure(name, options.rounds, Path(folder)) for name in CASES]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("trtforge", "tensorrt-rtx", "onnxruntime")},
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
