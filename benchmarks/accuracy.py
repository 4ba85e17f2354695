"""Accuracy of INT8: everything quantized, beside other tools, and what a required accuracy leaves.

    python benchmarks/accuracy.py [--models digits,minilm,resnet50]
        [--modelopt PYTHON]     # an interpreter with nvidia-modelopt[onnx], for its cases
        [--only TEXT]           # cases whose name holds it; the other rows stay
        [--scratch FOLDER]
        [--page]                # only write the tables of docs/quantization.md again

Models and data are those of `benchmarks/calibration.py`. Every figure is of samples that neither
calibration nor search saw: 450 digits, 64 sentences, 32 smooth random images. SQNR is the signal
over the quantization noise of the first output, in decibels; cosines are of one sample each.
All-MiniLM-L6-v2 has its trained weights, so also the order of sentence pairs by similarity is
compared (Spearman's rank correlation over all pairs); the weights of ResNet-50 are random. Nothing
here depends on how busy the machine is. Writes ``benchmarks/results/accuracy.json`` and the last
part of ``docs/quantization.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any, Literal

import calibration
import numpy as np
from trtforge_plugins.clean import UpgradeOpset
from trtforge_plugins.macs import heavy_nodes, total_macs
from trtforge_plugins.precision import (
    CalibrateEntropy,
    CalibrateMax,
    CalibrateMse,
    CalibratePercentile,
    CorrectBias,
    InsertQDQ,
    JoinProducts,
    LoadData,
    RoundWeights,
    SearchPrecision,
    SmoothQuant,
)

from trtforge import (
    Batches,
    Context,
    Quantized,
    Request,
    Requirements,
    Sensitivity,
    Step,
    demo,
    model_file,
)
from trtforge.reference import Reference

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "accuracy.json"
PAGE = ROOT / "docs" / "quantization.md"
HEADING = "## Measured"
CPU = "cpu"

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Steps between loading the data and ``insert-qdq``, and what is required."""

    name: str
    steps: tuple[Step, ...]
    attention: bool = False
    dtype: Literal["int8", "float8e4m3fn"] = "int8"
    require: Requirements | None = None


PLAIN = (CalibrateMse(provider=CPU),)
SMOOTH = (JoinProducts(), SmoothQuant(provider=CPU), CalibrateMse(provider=CPU))
REFINED: dict[str, tuple[Step, ...]] = {
    "correct-bias": (CorrectBias(provider=CPU),),
    "round-weights": (RoundWeights(provider=CPU),),
    "round-weights, correct-bias": (RoundWeights(provider=CPU), CorrectBias(provider=CPU)),
}
FP8 = tuple(
    Case(f"FP8, {step.name}", (UpgradeOpset(to=19), step), dtype="float8e4m3fn")
    for step in (CalibrateMax(provider=CPU), CalibratePercentile(provider=CPU), *PLAIN)
)
ALL: dict[str, tuple[Case, ...]] = {
    "digits": (
        Case("calibrate-mse", PLAIN),
        Case("calibrate-entropy", (CalibrateEntropy(provider=CPU),)),
        *(Case(f"calibrate-mse, {name}", (*PLAIN, *steps)) for name, steps in REFINED.items()),
        *FP8,
    ),
    "minilm": (
        Case("calibrate-mse", PLAIN),
        Case("smooth-quant, calibrate-mse", SMOOTH),
        Case("smooth-quant, calibrate-mse, attention", SMOOTH, attention=True),
        *(
            Case(f"smooth-quant, calibrate-mse, {name}", (*SMOOTH, *steps))
            for name, steps in REFINED.items()
        ),
        *FP8,
        Case(
            "FP8, join-products, calibrate-max",
            (UpgradeOpset(to=19), JoinProducts(), CalibrateMax(provider=CPU)),
            dtype="float8e4m3fn",
        ),
    ),
    "resnet50": (
        Case("calibrate-mse", PLAIN),
        *(Case(f"calibrate-mse, {name}", (*PLAIN, *steps)) for name, steps in REFINED.items()),
        *FP8,
    ),
}
"""Everything in INT8."""
BUDGETS: dict[str, tuple[Case, ...]] = {
    "minilm": (
        Case(
            "smooth-quant, calibrate-mse, search-precision",
            SMOOTH,
            require=Requirements(cosine=0.995, sample_cosine=0.98),
        ),
        Case(
            "calibrate-mse, search-precision",
            PLAIN,
            require=Requirements(cosine=0.995, sample_cosine=0.98),
        ),
    ),
    "resnet50": (
        Case("calibrate-mse, search-precision", PLAIN, require=Requirements(cosine=0.999)),
        Case("calibrate-mse, search-precision", PLAIN, require=Requirements(cosine=0.9999)),
    ),
}
"""As much in INT8 as a required accuracy allows."""
PEERS = ("onnxruntime minmax", "onnxruntime entropy", "onnxruntime percentile",
         "modelopt max", "modelopt entropy")  # fmt: skip


# One case


def quantize(case: Case, folder: Path, size: int) -> tuple[Context, float]:
    """Run a case; return its context and the share of multiply-accumulates in INT8."""
    model = model_file.load(folder / "model.onnx")
    ctx = Context(model, folder, Request("m", require=case.require or Requirements()))
    LoadData(path=folder / "calibration.npz", batch=size).run(ctx)
    for step in case.steps:
        step.run(ctx)
    if case.require is not None:
        SearchPrecision(attention=case.attention, provider=CPU).run(ctx)
    shapes = {name: array.shape for name, array in ctx.get(Batches).feeds[0].items()}
    heavy = heavy_nodes(ctx.model, shapes)
    InsertQDQ(dtype=case.dtype, attention=case.attention).run(ctx)
    done = set(ctx.get(Quantized).nodes)
    share = sum(node.macs or 0 for node in heavy if node.name in done) / total_macs(heavy)
    model_file.save(ctx.model, folder / "quantized.onnx")
    return ctx, share


def accuracy(name: str, folder: Path, size: int) -> Row:
    """Return how the quantized model of ``folder`` does on data that it has not seen."""
    with np.load(folder / "evaluation.npz") as stored:
        data = dict(stored)
    labels = data.pop("labels", None)
    exact, rounded = (
        outputs(folder / f"{each}.onnx", data, size) for each in ("model", "quantized")
    )
    noise = np.square(exact - rounded).sum()
    cosines = (exact * rounded).sum(axis=1)
    cosines /= np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    found: Row = {
        "sqnr_db": round(float(10 * np.log10(np.square(exact).sum() / noise)), 2),
        "cosine_mean": round(float(cosines.mean()), 5),
        "cosine_min": round(float(cosines.min()), 5),
    }
    if labels is not None:
        before, after = (float((each.argmax(axis=1) == labels).mean()) for each in (exact, rounded))
        found |= {"accuracy_given": round(before, 4), "accuracy": round(after, 4)}
    if name == "minilm":
        found["rank_correlation"] = round(rank_correlation(exact, rounded), 4)
    return found


def outputs(model: Path, data: calibration.Arrays, size: int) -> np.ndarray[Any, Any]:
    """Return the first output, float64[samples, values]."""
    reference = Reference(model, provider=CPU)
    parts = [next(iter(reference.run(feed).values())) for feed in calibration.batches(data, size)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float64)


def rank_correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return Spearman's correlation of the cosines of all pairs of rows."""
    ranks = []
    for rows in (one, other):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        ranks.append(pairs.argsort().argsort())
    return float(np.corrcoef(*ranks)[0, 1])


# The page


def page(stored: dict[str, Any]) -> str:
    """Return the last part of the docs page."""
    intro = (
        f"`benchmarks/accuracy.py`, {stored['date'][:10]}, {stored['machine']}; on samples that "
        "neither calibration nor search saw. Digits and MiniLM are trained; the weights of "
        "ResNet-50 are random, so its rows compare methods and say nothing of a trained "
        "one. Everything that `insert-qdq` places in INT8, or FP8 where the row says so "
        "(other tools: what they place with settings that TensorRT takes):"
    )
    lines = [HEADING, "", fill(intro, 100), "", *header(
        "model", "steps or tool", "SQNR dB", "cosine mean", "smallest", "other"
    )]  # fmt: skip
    for row in stored["all"]:
        figures = (row.get(key, "") for key in ("sqnr_db", "cosine_mean", "cosine_min"))
        lines.append(line(row["model"], row["tool"], *figures, others(row)))
    lines += [
        "", "With an accuracy to keep: what the search aimed at (a tenth of the allowed error is",
        "left free), the passes over the data that it took, and the choices that it measured:", "",
        *header("model", "steps", "aimed at", "in INT8", "passes", "choices", "cosine mean",
                "smallest", "SQNR dB"),
    ]  # fmt: skip
    for row in stored["budget"]:
        required = ", ".join(f"{name} {value:g}" for name, value in row["required"].items())
        keys = ("passes", "choices", "cosine_mean", "cosine_min", "sqnr_db")
        figures = (row[key] for key in keys)
        asked = required.replace("_", " ")
        lines.append(line(row["model"], row["steps"], asked, f"{row['share']:.1%}", *figures))
    return "\n".join(lines) + "\n"


def header(*names: str) -> list[str]:
    """Return the first two lines of a table."""
    return [line(*names), "|" + "---|" * len(names)]


def line(*cells: object) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def others(row: Row) -> str:
    """Return what only some models have, in words."""
    found = [row["error"]] if "error" in row else []
    if "accuracy" in row:
        found.append(f"accuracy {row['accuracy']} (given {row['accuracy_given']})")
    if "rank_correlation" in row:
        found.append(f"rank correlation {row['rank_correlation']}")
    if "share" in row:
        found.append(f"{row['share']:.1%} of the work")
    return ", ".join(found)


# All cases


def measure(name: str, options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Return one row per case and tool: all in INT8, and with a required accuracy."""
    samples, size = calibration.SAMPLES[name]
    everything, budgets = [], []
    with TemporaryDirectory(dir=options.scratch) as place:
        folder = Path(place)
        calibration.make(name, folder, samples)
        if name == "digits":
            with np.load(demo.TEST) as test:
                np.savez(folder / "evaluation.npz", image=test["image"], labels=test["labels"])
        for case in chosen(ALL[name], options.only):
            _, share = quantize(case, folder, size)
            everything.append({"tool": f"trtforge {case.name}", "share": round(share, 4)}
                              | accuracy(name, folder, size))  # fmt: skip
            print(name, everything[-1], flush=True)
        for tool in PEERS:
            python = options.modelopt if tool.startswith("modelopt") else sys.executable
            if python is not None and options.only in tool:
                found = calibration.run_case(tool, folder, size, python)
                row = (
                    {"error": found["error"]} if "error" in found else accuracy(name, folder, size)
                )
                everything.append({"tool": tool} | row)
                print(name, everything[-1], flush=True)
        for case in chosen(BUDGETS.get(name, ()), options.only):
            ctx, share = quantize(case, folder, size)
            found = ctx.get(Sensitivity)
            budgets.append({
                "steps": case.name, "required": found.required, "share": round(share, 4),
                "choices": len(found.curve), "passes": found.evaluations, "missed": found.missed,
            } | accuracy(name, folder, size))  # fmt: skip
            print(name, budgets[-1], flush=True)
    common = {"model": name, "samples": samples}
    return [common | row for row in everything], [common | row for row in budgets]


def chosen(cases: tuple[Case, ...], text: str) -> list[Case]:
    """Return the cases whose name holds ``text``."""
    return [case for case in cases if text in case.name]


def identity(row: Row) -> tuple[object, ...]:
    """Return what tells a row from others of its table."""
    return row["model"], row.get("tool", row.get("steps")), str(row.get("required"))


def place(row: Row) -> tuple[int, bool]:
    """Return where a row stands: by model, other tools last."""
    return list(ALL).index(row["model"]), row.get("tool") in PEERS


def main() -> None:
    """Measure all cases and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(ALL))
    parser.add_argument("--modelopt", help="an interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in [] if options.page else options.models.split(","):
        for key, rows in zip(("all", "budget"), measure(name, options), strict=True):
            new = {identity(row): row for row in rows}
            kept = {identity(row): row for row in stored.get(key, [])}
            stored[key] = sorted((kept | new).values(), key=place)
        stored |= {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
            "versions": {each: version(each) for each in ("trtforge", "onnxruntime", "numpy")},
        }
        RESULT.write_text(json.dumps(stored, indent=2) + "\n")
    PAGE.write_text(PAGE.read_text().partition(HEADING)[0] + page(stored))


if __name__ == "__main__":
    main()
