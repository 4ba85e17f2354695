"""Time, memory and accuracy of post-training INT8 quantization, beside other tools.

    python benchmarks/calibration.py [--models resnet50,bert,minilm,digits,digits-1347] [--rounds 3]
        [--modelopt PYTHON]     # an interpreter with nvidia-modelopt[onnx], for its cases
        [--peer-rounds 1]       # other tools, which take most of the time, in the first rounds only
        [--flat]                # memory of ResNet-50 (64 x 64 images) at 32 and at 2048 samples
        [--scratch FOLDER]
        [--page]                # only write the table of docs/calibration.md again

A case is the whole command: load the model and the data, calibrate, insert Q/DQ, save. Each runs in
a process of its own; the cases of a round follow one another and rounds repeat, so that what else
the machine does hits all alike. Time and memory are ratios to plain inference of the same data
under ONNX Runtime in the same round; imports are not counted. Memory is the peak above what the
process had before the tool started. Accuracy is the ratio of signal to quantization noise of the
first output on samples that calibration did not see. Other tools are given settings that TensorRT
takes: symmetric, per channel, Q/DQ at the inputs of Conv, Gemm and MatMul.
Writes ``benchmarks/results/calibration.json`` and the last part of ``docs/calibration.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "calibration.json"
SAMPLES = {
    "resnet50": (32, 8), "bert": (32, 8), "minilm": (64, 8), "digits": (256, 64),
    "digits-1347": (1347, 64),
}  # fmt: skip
"""Calibration samples and batch size of each model; digits also with all training images."""
EVALUATED = 64
PAGE = ROOT / "docs" / "calibration.md"
HEADING = "## Measured"
TIME_BARS = {"max": 1.5, "entropy": 1.9, "mse": 1.9}
"""Largest ratio to plain inference that was asked for, by method."""
MEMORY_BAR = 3.0

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


# Models and data


def make(name: str, folder: Path, samples: int) -> None:
    """Write ``model.onnx``, ``calibration.npz`` and ``evaluation.npz``."""
    import onnx
    import onnx_ir as ir
    from trtforge_plugins.clean import FoldBatchnorm

    from trtforge import Context, Request, demo

    sys.path.insert(0, str(ROOT / "tests"))
    import models

    size = 64 if name == "resnet50-64" else 224
    bert = models.BertSize(6, 512, 8, 2048, 8192, 128)
    if name.startswith("digits"):
        model = onnx.load(demo.MODEL)
        with np.load(demo.CALIBRATION) as seen, np.load(demo.TEST) as unseen:
            data, held_out = {"image": seen["image"]}, {"image": unseen["image"]}
        if samples > len(data["image"]):
            data = {"image": training_digits(samples)}
    elif name == "minilm":
        model = models.minilm()
        texts = ROOT / "benchmarks" / "data"
        lines = [(texts / f"{part}_sentences.txt").read_text().splitlines() for part in
                 ("calibration", "evaluation")]  # fmt: skip
        data, held_out = (models.minilm_feed(each) for each in lines)
    elif name == "bert":
        model = models.bert(bert)
        data, held_out = (models.bert_feed(n, 128, 8192, n) for n in (samples, EVALUATED))
    else:
        model = models.resnet50(size=size)
        data, held_out = images(samples, size, 1), images(EVALUATED // 2, size, 2)
    loaded = ir.from_proto(model)
    FoldBatchnorm().run(Context(loaded, folder, Request("m")))
    ir.save(loaded, folder / "model.onnx")
    np.savez(folder / "calibration.npz", **{k: v[:samples] for k, v in data.items()})
    np.savez(folder / "evaluation.npz", **{k: v[:EVALUATED] for k, v in held_out.items()})


def training_digits(count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the first ``count`` images [N,1,8,8] that ``scripts/make_demo.py`` trains on."""
    from sklearn.datasets import load_digits

    images: np.ndarray[Any, np.dtype[Any]] = load_digits().images[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order[:count]] / 16).astype(np.float32)


def images(count: int, size: int, seed: int) -> Arrays:
    """Return smooth random images, standardized: noise whose spectrum falls as 1/f."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    falling = 1 / np.maximum(frequency, 1 / size)
    found = np.empty((count, 3, size, size), np.float32)
    for index in range(count):
        spectrum = random.standard_normal((3, *falling.shape, 2)) @ [1, 1j]
        image = np.fft.irfft2(falling * spectrum, s=(size, size))
        found[index] = (image - image.mean()) / image.std()
    return {"image": found}


def batches(data: Arrays, size: int) -> Iterator[Arrays]:
    """Yield slices of ``size`` samples."""
    for start in range(0, len(next(iter(data.values()))), size):
        yield {name: array[start : start + size] for name, array in data.items()}


# Tools: each reads the model and the data in `folder` and writes `out`


def plain(folder: Path, data: Arrays, size: int, out: Path) -> None:
    """Only run the model; nothing is written."""
    from onnxruntime import InferenceSession

    del out
    session = InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for feed in batches(data, size):
        session.run(None, feed)


def ours(calibrator: str, folder: Path, data: Arrays, size: int, out: Path, **options: Any) -> None:
    """Run the steps of trtforge that quantize; the data is read from its file."""
    from trtforge_plugins import precision

    from trtforge import Context, Request, model_file

    del data
    ctx = Context(model_file.load(folder / "model.onnx"), folder, Request("m"))
    precision.LoadData(path=folder / "calibration.npz", batch=size).run(ctx)
    getattr(precision, calibrator)(provider="cpu", **options).run(ctx)
    precision.InsertQDQ().run(ctx)
    model_file.save(ctx.model, out)


def onnxruntime_static(method: str, folder: Path, data: Arrays, size: int, out: Path) -> None:
    """Run ONNX Runtime's static quantization."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._feeds = batches(data, size)

        def get_next(self) -> Arrays | None:
            return next(self._feeds, None)

    heavy = ["Conv", "Gemm", "MatMul"]
    extra = {
        "ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True,
        "QuantizeBias": False, "DedicatedQDQPair": True,
        "OpTypesToExcludeOutputQuantization": heavy,
        "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}, "CalibTensorRangeSymmetric": True,
    }  # fmt: skip
    quantize_static(
        folder / "model.onnx", out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        op_types_to_quantize=heavy, activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
        extra_options=extra,
    )  # fmt: skip


def modelopt(method: str, folder: Path, data: Arrays, size: int, out: Path) -> None:
    """Run NVIDIA's Model Optimizer."""
    from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]  # optional

    shapes = ",".join(
        f"{name}:{'x'.join(map(str, (size, *array.shape[1:])))}" for name, array in data.items()
    )
    quantize(
        str(folder / "model.onnx"), quantize_mode="int8", calibration_method=method,
        calibration_data=data, calibration_shapes=shapes, output_path=str(out),
        high_precision_dtype="fp32", calibration_eps=["cpu"], log_level="ERROR",
    )  # fmt: skip


TOOLS: dict[str, Callable[[Path, Arrays, int, Path], None]] = {
    "plain": plain,
    "trtforge max": partial(ours, "CalibrateMax"),
    "trtforge max with histograms": partial(ours, "CalibrateMax", histogram=True),
    "trtforge percentile": partial(ours, "CalibratePercentile"),
    "trtforge entropy": partial(ours, "CalibrateEntropy"),
    "trtforge mse": partial(ours, "CalibrateMse"),
    "onnxruntime minmax": partial(onnxruntime_static, "MinMax"),
    "onnxruntime entropy": partial(onnxruntime_static, "Entropy"),
    "onnxruntime percentile": partial(onnxruntime_static, "Percentile"),
    "modelopt max": partial(modelopt, "max"),
    "modelopt entropy": partial(modelopt, "entropy"),
}


HEAVY = {
    "trtforge": "trtforge_plugins.precision",
    "modelopt": "modelopt.onnx.quantization",
    "onnxruntime": "onnxruntime.quantization",
}
"""What each kind of tool imports."""


# One case, in a process of its own


def child(tool: str, folder: Path, size: int) -> None:
    """Run one tool and print what it took."""
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    for start, module in HEAVY.items():  # imports are not counted
        if tool.startswith(start):
            import_module(module)
    data: Arrays = {}
    if not tool.startswith("trtforge"):  # the others take arrays; reading them is not counted
        with np.load(folder / "calibration.npz") as stored:
            data = dict(stored)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    wall, cpu = time.perf_counter(), time.process_time()
    TOOLS[tool](folder, data, size, folder / "quantized.onnx")
    found = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": status("VmHWM") - before,
    }
    print("\nRESULT", json.dumps(found | {"onnx": onnx.__version__}))


def status(key: str) -> float:
    """Return a figure of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def run_case(tool: str, folder: Path, size: int, python: str) -> dict[str, Any]:
    """Run one case and return its figures, or the reason why there are none."""
    command = [python, "-W", "ignore", __file__, "--child", tool, "--scratch", str(folder)]
    done = subprocess.run(
        [*command, "--batch", str(size)], capture_output=True, text=True, check=False, cwd=folder
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        tail = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1]
        return {"error": tail[:200]}
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def sqnr_db(folder: Path, size: int) -> float:
    """Return the ratio of signal to noise of the quantized model's first output."""
    from trtforge.reference import Reference

    with np.load(folder / "evaluation.npz") as stored:
        data = dict(stored)
    signal = noise = 0.0
    exact = Reference(folder / "model.onnx", provider="cpu")
    rounded = Reference(folder / "quantized.onnx", provider="cpu")
    for feed in batches(data, size):
        one, other = (next(iter(each.run(feed).values())) for each in (exact, rounded))
        signal += float(np.square(one, dtype=np.float64).sum())
        noise += float(np.square(one.astype(np.float64) - other).sum())
    return float(10 * np.log10(signal / noise))


# All cases


def measure(name: str, tools: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per tool: medians over the rounds."""
    samples, size = SAMPLES[name]
    rows: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, str] = {}
    accuracy: dict[str, float] = {}
    with TemporaryDirectory(dir=options.scratch) as place:
        folder = Path(place)
        make(name, folder, samples)
        for number in range(options.rounds):
            base: dict[str, Any] = {}
            for tool in tools:
                if number >= options.peer_rounds and not tool.startswith(("plain", "trtforge")):
                    continue
                python = options.modelopt if tool.startswith("modelopt") else sys.executable
                found = run_case(tool, folder, size, python)
                print(name, number, tool, found, flush=True)
                if "error" in found:
                    errors[tool] = found["error"]
                    continue
                base = found if tool == "plain" else base
                row = rows.setdefault(tool, {})
                for key in ("wall_s", "cpu_s", "peak_mb"):
                    row.setdefault(key, []).append(found[key])
                    row.setdefault(f"{key}_ratio", []).append(found[key] / base[key])
                if tool != "plain" and tool not in accuracy:
                    accuracy[tool] = sqnr_db(folder, size)
    common = {"model": name, "samples": samples, "batch": size}
    return [
        common | {"tool": tool, "sqnr_db": round(accuracy.get(tool, 0), 2) or None}
        | {key: round(median(values), 2) for key, values in rows.get(tool, {}).items()}
        | ({"error": errors[tool]} if tool in errors else {})
        for tool in tools
    ]  # fmt: skip


def flat(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the peak memory of plain inference and of ours at 32 and 2048 samples."""
    rows = []
    for samples in (32, 2048):
        with TemporaryDirectory(dir=options.scratch) as place:
            folder = Path(place)
            make("resnet50-64", folder, samples)
            for tool in ("plain", "trtforge max", "trtforge entropy", "trtforge mse"):
                found = run_case(tool, folder, 8, sys.executable)
                rows.append({"samples": samples, "tool": tool, **found})
                print(rows[-1], flush=True)
    return rows


# The page


def page(stored: dict[str, Any]) -> str:
    """Return the last part of the docs page: what was measured, and which bars were missed."""
    rows = [row for row in stored["rows"] if row["tool"] != "plain"]
    intro = (
        f"`benchmarks/calibration.py`, {stored['date'][:10]}, {stored['machine']}: ratios to plain "
        "ONNX Runtime inference of the same data, and accuracy on samples that calibration did not "
        f"see. {stored['load']}"
    )
    lines = [
        HEADING, "", fill(intro, 100), "",
        "| model | tool | time | extra memory | SQNR dB |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        cells = (row.get(key) or "-" for key in ("wall_s_ratio", "peak_mb_ratio", "sqnr_db"))
        lines.append(f"| {row['model']} | {row['tool']} | " + " | ".join(map(str, cells)) + " |")
    missed = misses(rows)
    verdict = f"missed by {len(missed)}: {'; '.join(missed)}" if missed else "met by all"
    asked = (
        "Asked for: at most 1.5 times the time for max, 1.9 for entropy and MSE; 3 times the memory"
    )
    stopped = "; ".join(f"{row['tool']}, {row['error']}" for row in rows if "error" in row)
    lines += ["", fill(f"`-`: stopped by an error ({stopped}).", 100)] if stopped else []
    lines += ["", fill(f"{asked}; {verdict}. {grown(stored.get('flat', []))}", 100)]
    return "\n".join(lines) + "\n"


def misses(rows: list[dict[str, Any]]) -> list[str]:
    """Return which rows of this project exceed what was asked for, and by how much."""
    found = []
    for row in rows:
        name, _, method = row["tool"].partition(" ")
        if name != "trtforge":
            continue
        if row["wall_s_ratio"] > TIME_BARS.get(method, math.inf):
            found.append(f"{row['model']} {method}, time {row['wall_s_ratio']}")
        if row["peak_mb_ratio"] > MEMORY_BAR:
            found.append(f"{row['model']} {method}, memory {row['peak_mb_ratio']}")
    return found


def grown(rows: list[dict[str, Any]]) -> str:
    """Return a sentence on memory at few and at many samples."""
    peaks = {(row["tool"], row["samples"]): row["peak_mb"] for row in rows}
    parts = [
        f"{tool.removeprefix('trtforge ')} {peaks[tool, 32]:.0f} and {peaks[tool, 2048]:.0f} MB"
        for tool in dict.fromkeys(row["tool"] for row in rows)
        if tool != "plain"
    ]
    place = "Peak memory on ResNet-50 (64 x 64 images) at 32 and at 2048 samples"
    return f"{place}: {', '.join(parts)}." if parts else ""


def main() -> None:
    """Measure all cases and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(SAMPLES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modelopt", help="an interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--peer-rounds", type=int, default=99)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.scratch, options.batch)
        return
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if options.page:
        write_page(stored)
        return
    start = os.getloadavg()[0]
    if options.flat:
        stored["flat"] = flat(options)
    else:
        tools = [tool for tool in TOOLS if options.modelopt or not tool.startswith("modelopt")]
        names = options.models.split(",")
        kept = [row for row in stored.get("rows", []) if row["model"] not in names]
        stored["rows"] = kept + [row for name in names for row in measure(name, tools, options)]
        stored["load"] = (
            f"Medians of {options.rounds} rounds. One-minute load of the machine: {start:.1f} "
            f"before, {os.getloadavg()[0]:.1f} at the end (this benchmark alone makes about 2)."
        )
    stored |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU, shared",
        "versions": {name: version(name) for name in ("trtforge", "onnxruntime", "numpy")},
    }
    RESULT.write_text(json.dumps(stored, indent=2) + "\n")
    write_page(stored)


def write_page(stored: dict[str, Any]) -> None:
    """Put what was measured at the end of the docs page."""
    kept = PAGE.read_text().partition(HEADING)[0]
    PAGE.write_text(kept + page(stored))


if __name__ == "__main__":
    main()
