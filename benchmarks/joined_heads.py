"""Queries, keys and values as one product: layers and accuracy where products are quantized.

    python benchmarks/joined_heads.py [--minilm] [--models]

Two parts, for SM 89 and without a GPU:

- ``minilm``: all-MiniLM-L6-v2 with its trained weights, sequence of 64, quantized in INT8 and FP8,
  with and without its attention, after ``join-products``, after ``join-heads`` and after neither:
  layers of the engine, and SQNR beside the given model on the 48 texts of the calibration.
- ``models``: a BERT and a ViT (``architectures``) that come with Q/DQ: layers as they are, and
  after ``join-heads``, which joins the stored matrices; outputs beside the given model.

Result: ``results/joined_heads.json``. Takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import trtforge
from trtforge.session import RunOptions

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "joined_heads.json"
STEPS = {"neither": "", "join-products": "join-products, ", "join-heads": "join-heads, "}
CASES = {
    "INT8": "calibrate-mse, {insert-qdq: {dtype: int8}}",
    "INT8 with attention": "calibrate-mse, {insert-qdq: {dtype: int8, attention: true}}",
    "FP8": "calibrate-max, {insert-qdq: {dtype: float8e4m3fn}}",
    "FP8 with attention": "calibrate-max, {insert-qdq: {dtype: float8e4m3fn, attention: true}}",
}
QUANTIZE = """
stages:
  - name: prepare
    repeat: 4
    steps: [tidy-initializers, infer-shapes, fold-constants, drop-identity, fold-batchnorm,
            merge-duplicates, dedupe-weights, drop-dead-code]
  - name: convert
    steps: [{upgrade-opset: {to: 19}}, infer-shapes, make-convertible, widen-types]
  - name: quantize
    steps: [STEPS{load-data: {path: texts.npz}}, CASE, {cast: {to: float16}}]
  - name: build
    steps: [tensorrt, read-layers, prove-precision, verify]
"""
BUILD = (
    "stages: [{name: build, steps: [infer-shapes, STEPSfold-constants, drop-dead-code,"
    " tensorrt, read-layers, prove-precision, verify]}]"
)
SENTENCES = (
    "a quick brown fox jumps over the lazy dog",
    "the weather is nice today and we go for a walk",
    "machine learning models are trained on data",
    "how do i bake bread at home",
    "stock markets fell sharply on monday",
    "the movie was great but too long",
)


def built(recipe: str, model: Path, shapes: Mapping[str, str]) -> dict[str, Any]:
    """Run a recipe beside ``model``; return what became of it."""
    file = model.with_name("recipe.yaml")
    file.write_text(recipe)
    out = Path(tempfile.mkdtemp(dir=model.parent)) / "run"
    options = RunOptions(out=out, shapes=shapes, targets=("sm_89",), use_cache=False)
    done = trtforge.run(file, model, options=options)
    report = done.report
    assert report.layers is not None
    assert report.precision is not None
    sqnr = min(output.sqnr_db for output in done.comparison.outputs)
    return {
        "layers": report.layers.total,
        "activation_bytes": report.engines[0].memory.activation,
        "shares": {share.dtype: round(share.share, 4) for share in report.precision.shares},
        "cosine": min(round(output.cosine, 6) for output in done.comparison.outputs),
        "sqnr_db": None if sqnr == float("inf") else round(sqnr, 2),
    }


def minilm(folder: Path) -> dict[str, Any]:
    """Quantize MiniLM in each way and return what became of it."""
    sys.path.insert(0, str(ROOT.parent / "tests"))
    import models

    model = folder / "minilm.onnx"
    onnx.save(models.minilm(), model)
    texts = [f"{one} {two}" for two in SENTENCES for one in SENTENCES] + [*SENTENCES] * 2
    feed = models.minilm_feed(texts, 64)
    np.savez(folder / "texts.npz", **feed)
    found: dict[str, Any] = {}
    for case, quantization in CASES.items():
        for name, steps in STEPS.items():
            recipe = QUANTIZE.replace("STEPS", steps).replace("CASE", quantization)
            found[f"{case}, {name}"] = built(recipe, model, dict.fromkeys(feed, "8x64"))
            print(case, name, found[f"{case}, {name}"], flush=True)
    return found


def with_qdq(folder: Path) -> dict[str, Any]:
    """Build quantized networks as they are and converted."""
    import h200_model_files as files

    found: dict[str, Any] = {}
    for name in ("bert", "vit"):
        place = folder / name
        place.mkdir()
        wanted = files.architecture(name)
        files.export(wanted, place / "float32.onnx")
        files.lower(wanted, "qdq", place / "float32.onnx", place / "raw.onnx")
        feeds = [wanted.feeds(size) for size in ("min", "opt", "max")]
        shapes = {
            key: ":".join("x".join(map(str, feed[key].shape)) for feed in feeds) for key in feeds[0]
        }
        for kind in ("neither", "join-heads"):
            recipe = BUILD.replace("STEPS", STEPS[kind])
            found[f"{name}, {kind}"] = built(recipe, place / "raw.onnx", shapes)
            print(name, kind, found[f"{name}, {kind}"], flush=True)
    return found


def main() -> None:
    """Measure what the command line names, or all, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--models", action="store_true")
    chosen = parser.parse_args()
    every = not (chosen.minilm or chosen.models)
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    result |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tensorrt-rtx": version("tensorrt-rtx"),
    }
    with tempfile.TemporaryDirectory() as folder:
        if every or chosen.minilm:
            result["minilm"] = minilm(Path(folder))
        if every or chosen.models:
            result["models"] = with_qdq(Path(folder))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
