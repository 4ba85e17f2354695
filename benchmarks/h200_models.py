"""Whole models on a GPU: as exported, after trtforge, onnxsim and OnnxSlim, and torch.compile.

    python benchmarks/h200_models.py prepare [--only REGEX] [--work FOLDER] [--jobs 2]
    python benchmarks/h200_models.py warm [--only REGEX] [--jobs 8]
    python benchmarks/h200_models.py measure [--only REGEX] [--work FOLDER]

``prepare`` needs onnxsim and onnxslim, but no GPU. Networks of ``benchmarks/architectures`` are
exported in float32; of each export trtforge makes one in float16 and one with Q/DQ (INT8). Every
tool gets the same three files. Beside trtforge's model stands one in which custom ops are used,
which ONNX Runtime computes by their function bodies. ``warm`` fills torch.compile's cache on disk,
many networks at a time.

``measure`` needs an NVIDIA GPU, torch and onnxruntime-gpu. ONNX Runtime's CUDA provider runs what
the tools made, batch 1 and 32, all on the same inputs, which lie on the GPU, as do the outputs; a
run is one CUDA graph where all models of a row can be captured. An optimization that moves biases
to the CPU is off for all. No TensorRT engine is run: what is
measured is the graph, as ONNX Runtime runs it. torch.compile runs the module itself, or its
``half()``. Networks are spread over the GPUs there are; on each GPU one process runs at a time.
Tools take turns within a round; a time is the median of the rounds, a ratio the median of the
rounds' ratios, each with its 95 % confidence interval.

Writes ``benchmarks/results/h200_models.json`` and its picture. Ends with 1 when an output is not as
near as it has to be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import exp, log
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from h200_model_files import OPS, PRECISIONS
from h200_model_picture import draw, title
from h200_model_rows import CASES, COMPILED, PEERS

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "h200_models.json"
CHOSEN = (
    "diffusion-unet", "conformer", "t5", "swin-t", "gpt-2", "densenet-121", "vit", "bert",
    "yolo-v8", "efficientnet-b0", "mobilenet-v3", "vae-decoder", "convnext-t", "resnet-50",
)  # fmt: skip
"""The slowest first, so that no GPU is left with one at the end."""
LIMIT = 300.0  # seconds for one process
BAR = 0.98


def start(script: str, *arguments: str, gpu: int | None = None, limit: float = LIMIT) -> Any:
    """Run a script of this folder; return its lines, and why it ended early, if it did."""
    variables = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *arguments], env=os.environ | variables,
            capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return said.decode().splitlines(), f"it did not end within {limit:.0f} seconds"
    words = (done.stderr.strip() or "no word").splitlines()[-1][:300]
    return done.stdout.splitlines(), f"exit {done.returncode}: {words}" if done.returncode else ""


def prepare(names: list[str], options: argparse.Namespace) -> int:
    """Make the models; return 1 if one could not be made."""

    def one(name: str) -> str:
        lines, reason = start("h200_model_files.py", name, str(options.work), limit=1800.0)
        return reason or ("" if lines[-1] == "{}" else lines[-1])

    with ThreadPoolExecutor(options.jobs) as pool:
        failed = dict(zip(names, pool.map(one, names), strict=True))
    print(json.dumps(failed, indent=1))
    return int(any(failed.values()))


def warm(names: list[str], options: argparse.Namespace) -> int:
    """Compile the modules with torch; what fails is told when it is measured."""

    def one(turn: tuple[int, tuple[str, str]]) -> None:
        index, case = turn
        _, reason = start("h200_model_rows.py", "warm", *case, gpu=index % _gpus())
        print(*case, reason or "compiled", f"{time.monotonic() - begun:.0f} s", flush=True)

    begun = time.monotonic()
    cases = [(name, precision) for name in names for precision in ("float32", "float16")]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, enumerate(cases)))
    return 0


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def measure(names: list[str], options: argparse.Namespace) -> int:
    """Time the models and write the results; return 1 if an output is not near enough."""
    waiting: Queue[str] = Queue()
    for name in names:
        waiting.put(name)
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + options.limit

    def work(gpu: int) -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except Empty:
                return
            mine = _rows(name, gpu, end, options)
            rows.extend(mine)
            print(*map(line, mine), sep="\n", flush=True)
            write(sorted(rows, key=_place), options)

    with ThreadPoolExecutor(_gpus()) as pool:
        list(pool.map(work, range(_gpus())))
    rows.sort(key=_place)
    draw(rows, options.out.with_suffix(".svg"))
    print(json.dumps(summarize(rows), indent=1))
    return int(any(row.get("differs") for row in rows))


def _rows(name: str, gpu: int, end: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of a network; where its process ends early, another one goes on.

    ONNX Runtime ends the process where it fails to capture a graph half-way: the row is measured
    again without one.
    """
    rows: list[dict[str, Any]] = []
    ended = ""
    while len(rows) < len(CASES):
        batch, precision = CASES[len(rows)]
        head = {"model": name, "precision": precision, "batch": batch}
        left = min(LIMIT, end - time.monotonic())
        if left <= 0:
            return [*rows, {**head, "reason": "not measured: the time was up"}]
        more = ["--skip", str(len(rows)), *(["--compile"] if options.compile else [])]
        lines, reason = start(
            "h200_model_rows.py", "measure", name, str(options.work), *more,
            *(["--launches"] if ended else []), gpu=gpu, limit=left,
        )  # fmt: skip
        found = [json.loads(each) for each in lines if each.startswith("{")]
        rows += found
        if not found and ended:
            rows.append({**head, "reason": ended})
        ended = reason if found or not ended else ""
    return rows


def _place(row: dict[str, Any]) -> tuple[int, str, int]:
    return PRECISIONS.index(row.get("precision", "float32")), row["model"], row.get("batch", 0)


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, per precision: trtforge's speed beside the others'; above 1: trtforge is faster."""
    summary: dict[str, Any] = {}
    for precision in PRECISIONS:
        timed = [r for r in rows if r.get("precision") == precision and "ratio" in r]
        if not timed:
            continue
        best = {title(row): row["ratio"][row["best"]][0] for row in timed}
        summary[precision] = {
            "rows": len(timed),
            "run as": sorted({row["run as"] for row in timed}),
            "speed beside": {
                name: _mean([row["ratio"][name][0] for row in timed if name in row["ratio"]])
                for name in (*PEERS, OPS, COMPILED)
            },
            "beside the best of the others": _mean(list(best.values())),
            "lowest": min(best.values()),
            f"below {BAR}": {name: each for name, each in best.items() if each < BAR},
            "not equal": {title(row): row["differs"] for row in timed if row["differs"]},
        }
    return summary


def _mean(ratios: list[float]) -> float | None:
    return round(exp(sum(map(log, ratios)) / len(ratios)), 4) if ratios else None


def line(row: dict[str, Any]) -> str:
    """Return what is shown of a row while measuring."""
    if "ratio" not in row:
        return f"{title(row)}: {row['reason']}"
    shown = "  ".join(f"{tool} {found[0]:.3f}" for tool, found in row["ms"].items())
    return (
        f"{title(row)}: {shown} ms; beside {row['best']} {row['ratio'][row['best']]}; "
        f"{row['run as']} {row['differs'] or ''} {row['failed'] or ''} ({row['seconds']} s)"
    )


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the result file: a line for each row."""
    question = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        gpus = "none: tried on the CPU"
    made = options.work / "made.json"
    head = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": gpus.strip().splitlines(),
        "versions": {
            "measured": _versions("torch", "onnxruntime-gpu", "onnxruntime"),
            "prepared": json.loads(made.read_text()) if made.is_file() else {},
        },
        "summary": summarize(rows),
    }
    text = json.dumps(head, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    fresh = options.out.with_suffix(".part")
    fresh.write_text(f'{text},\n "rows": [\n{lines}\n ]\n}}\n')
    fresh.replace(options.out)


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Do the job of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=("prepare", "warm", "measure"))
    parser.add_argument("--only", default="", help="a regular expression on the name")
    parser.add_argument("--work", type=Path, default=Path("h200-models"), help="keeps the models")
    parser.add_argument("--jobs", type=int, default=8, help="processes that prepare or compile")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds to measure")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    names = [name for name in CHOSEN if re.search(options.only, name)]
    return {"prepare": prepare, "warm": warm, "measure": measure}[options.job](names, options)


if __name__ == "__main__":
    sys.exit(main())
