"""Whole models on a GPU: as exported, after trtforge, onnxsim and OnnxSlim, and torch.compile.

Run on a machine with an NVIDIA GPU, torch, onnxruntime-gpu, onnxsim and onnxslim::

    python benchmarks/h200_models.py [--only REGEX] [--work FOLDER] [--jobs 8]

Networks of ``benchmarks/architectures`` are exported in float32; of each export trtforge makes one
in float16 and one with Q/DQ (INT8). Every tool gets the same three files. ONNX Runtime's CUDA
provider runs what they made of them, batch 1 and 32, all on the same inputs, which lie on the GPU,
as do the outputs. No TensorRT engine is run: what is measured is the graph, as ONNX Runtime runs
it. torch.compile runs the module itself, or its ``half()``.

Models are exported and rewritten by several processes, timed by one after the other. Tools take
turns within a round; a time is the median of the rounds, a ratio the median of the rounds' ratios.
Writes ``benchmarks/results/h200_models.json`` and its picture. Ends with 1 when an output is not as
near as it has to be.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import exp, log
from pathlib import Path
from typing import Any

from h200_model_jobs import PEERS, PRECISIONS, TOOLS

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "h200_models.json"
CHOSEN = (
    "resnet-50", "densenet-121", "mobilenet-v3", "efficientnet-b0", "convnext-t", "yolo-v8", "vit",
    "swin-t", "bert", "gpt-2", "t5", "conformer", "diffusion-unet", "vae-decoder",
)  # fmt: skip
LIMIT = 540.0  # seconds for one model


def ask(job: str, name: str, precision: str, work: Path, *, compiled: bool) -> dict[str, Any]:
    """Run a job in a process of its own, and return its answer."""
    command = [sys.executable, str(HERE / "h200_model_jobs.py"), job, name, precision, str(work)]
    command += ["compiled"] if compiled else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"reason": f"{job} did not end within {LIMIT:g} seconds"}
    if done.returncode:
        lines = (done.stderr.strip() or "no word").splitlines()
        return {"reason": f"{job}: exit {done.returncode}: {lines[-1][:300]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, per precision: trtforge's speed beside the others'; above 1: trtforge is faster."""
    summary: dict[str, Any] = {}
    for precision in PRECISIONS:
        timed = [r for r in rows if r["precision"] == precision and "ratio" in r]
        if not timed:
            continue
        names = sorted({name for row in timed for name in row["ratio"]})
        summary[precision] = {
            "rows": len(timed),
            "speed beside": {
                n: _mean([r["ratio"][n] for r in timed if n in r["ratio"]]) for n in names
            },
            "lowest beside the best of the others": min(row["beside best"] for row in timed),
            "below 0.98": [_title(row) for row in timed if row["beside best"] < 0.98],
            "beside the best of the others": _mean([row["beside best"] for row in timed]),
            "not equal": [_title(row) for row in timed if row["differs"]],
        }
    return summary


def _mean(ratios: list[float]) -> float:
    return round(exp(sum(map(log, ratios)) / len(ratios)), 4) if ratios else 0.0


def _title(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['precision']} batch {row['batch']}"


def environment() -> dict[str, Any]:
    """Return date, device, driver and versions."""
    question = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    packages = ("torch", "onnxruntime-gpu", "onnx", "onnxsim", "onnxslim", "trtforge")
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": said.strip().splitlines(),
        "versions": versions,
    }


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the result file: a line for each row."""
    head = json.dumps({**environment(), "summary": summarize(rows)}, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    fresh = out.with_suffix(".part")
    fresh.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    fresh.replace(out)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw trtforge's speed beside the raw export's and torch.compile's, a bar for each row."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    timed = [row for row in rows if "ratio" in row and row["precision"] != "qdq"]
    figure, axes = plt.subplots(figsize=(9, 0.28 * len(timed) + 1.2), layout="constrained")
    places = range(len(timed))
    for index, (peer, colour) in enumerate((("raw", "#0072b2"), ("torch.compile", "#e69f00"))):
        shown = [row["ratio"].get(peer, float("nan")) for row in timed]
        axes.barh(
            [p + 0.4 * index for p in places], shown, 0.4, label=f"beside {peer}", color=colour
        )
    axes.set_yticks([place + 0.2 for place in places], [_title(row) for row in timed], fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("speed of trtforge's model under ONNX Runtime (CUDA); above 1 is faster")
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    figure.savefig(path)


def _compiling(cases: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the cases that torch.compile takes part in."""
    return [case for case in cases if case[1] != "qdq"]


def line(row: dict[str, Any]) -> str:
    """Return what is shown of a row while measuring."""
    if "ms" not in row:
        return f"{row['model']} {row['precision']}: {row['reason']}"
    times = "  ".join(f"{tool} {row['ms'][tool]:.3f}" for tool in row["ms"])
    return f"{_title(row)}: {times} ms; beside best {row['beside best']:.3f} {row['differs']}"


def main() -> int:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression on the name")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, default=[])
    parser.add_argument("--work", type=Path, default=Path("h200-models"), help="keeps the models")
    parser.add_argument("--jobs", type=int, default=8, help="processes that prepare models")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    names = [name for name in CHOSEN if re.search(options.only, name)]
    cases = [(n, p) for p in options.precision or PRECISIONS for n in names]
    with ThreadPoolExecutor(options.jobs) as pool:
        prepared = list(
            pool.map(lambda case: ask("prepare", *case, options.work, compiled=False), cases)
        )
        if options.compile:
            list(
                pool.map(
                    lambda case: ask("warm", *case, options.work, compiled=True), _compiling(cases)
                )
            )
    kept = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    rows = [row for row in kept if (row["model"], row["precision"]) not in cases]
    for (name, precision), ready in zip(cases, prepared, strict=True):
        head = {"model": name, "precision": precision}
        compiled = options.compile and precision != "qdq"
        found = (
            ready
            if ready.get("reason")
            else ask("measure", name, precision, options.work, compiled=compiled)
        )
        more = [{**head, **each} for each in found.get("rows", [found])]
        print(*map(line, more), sep="\n", flush=True)
        rows += more
        write(rows, options.out)
    picture(rows, options.out.with_suffix(".svg"))
    print(json.dumps(summarize(rows), indent=1))
    print(f"tools: {', '.join(TOOLS)}; best of the others: {', '.join(PEERS)}")
    return int(any(row.get("differs") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
