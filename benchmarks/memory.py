"""Predicted memory of engines beside what TensorRT-RTX reports of them.

    python benchmarks/memory.py [--work FOLDER] [--only NAME...] [--result FILE]

Networks at the sizes people deploy (``memory_models.py``), random weights, SM 89, no GPU: TensorRT
states its totals when it builds. Six groups:

- ``ten``: ten architectures in float32 with batches of 1, 4 and 16. The rules of the prediction
  were read off layer dumps of these very networks.
- ``held out``: other architectures, chosen before their engines were looked at; ``held out later``:
  three more, chosen after a rule had been read off one of those. TensorRT runs branches of one of
  them, DETR, on auxiliary streams, which share no memory; ``one stream`` has it without them.
- ``float16``: the ten after the step ``cast``, batch 4.
- ``profile``: the ten with an optimization profile from 1 over 4 to 16; predicted for 16.

Writes ``results/memory.json``, or FILE. ``--work`` keeps the exported networks; with ``--only`` the
rows of other networks stay as they are in the file. Takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import onnx_ir as ir
import torch
from memory_models import DEPLOYED, HELD_OUT, HELD_OUT_LATER, Deployed
from trtforge_plugins.clean import FoldConstants
from trtforge_plugins.macs import bind_shapes
from trtforge_plugins.memory.prediction import predict
from trtforge_plugins.precision import Cast
from trtforge_plugins.tensorrt import TensorRT

from trtforge import Context, Dims, Request, ShapeRange, TrtforgeError
from trtforge.targets import read_target
from trtforge.testing import apply

RESULT = Path(__file__).parent / "results" / "memory.json"
BATCHES = (1, 4, 16)
TARGET = "sm_89"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """One engine."""

    group: str
    name: str
    batch: int
    dtype: str = "float32"
    streams: int | None = None
    """Auxiliary streams; None: as many as TensorRT likes."""


def cases() -> Iterator[Case]:
    """Yield all engines, those of one network together."""
    for name in DEPLOYED:
        yield from (Case("ten", name, batch) for batch in BATCHES)
        yield Case("float16", name, 4, "float16")
        yield Case("profile", name, 16)
    for group, networks in (("held out", HELD_OUT), ("held out later", HELD_OUT_LATER)):
        for name in networks:
            yield from (Case(group, name, batch) for batch in BATCHES)
    yield from (Case("one stream", "detr", batch, streams=0) for batch in BATCHES)


def exported(name: str, network: Deployed, folder: Path) -> ir.Model:
    """Return the network as ``torch.onnx.export`` gives it, with a dynamic batch."""
    path = folder / f"{name}.onnx"
    if not path.is_file():
        torch.manual_seed(0)
        feeds = network.inputs(2)
        axes = {key: {network.batch_axis(key): "batch"} for key in feeds}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.make().eval(), (), kwargs=feeds, dynamic_shapes=axes, dynamo=True,
                input_names=list(feeds), verbose=False,
            )  # fmt: skip
        program.save(str(path), external_data=False)
    return ir.load(path)


def shapes(network: Deployed, batch: int) -> Shapes:
    """Return the input shapes at a batch size."""
    return {name: tuple(feed.shape) for name, feed in network.inputs(batch).items()}


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Return prediction and TensorRT's report of one engine."""
    network = (DEPLOYED | HELD_OUT | HELD_OUT_LATER)[case.name]
    model, _, _ = apply(FoldConstants(), exported(case.name, network, folder))
    largest = shapes(network, case.batch)
    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    if case.group == "profile":
        points = [shapes(network, batch) for batch in BATCHES]
        profiles = ({k: ShapeRange(*(Dims(p[k]) for p in points)) for k in largest},)
    else:
        model = bind_shapes(model, largest)
        if case.dtype == "float16":
            model, _, _ = apply(Cast(to="float16"), model)
    started = time.perf_counter()
    plan = predict(model, largest)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as scratch:
        request = Request("benchmark", profiles, (read_target(TARGET),))
        step = TensorRT(flavor="tensorrt_rtx", max_aux_streams=case.streams)
        built = step.build(model, Context(model, Path(scratch), request))
    activation, weights = built.memory.activation, built.memory.weights
    assert activation
    assert weights
    return {
        **vars(case),
        "activation": activation,
        "predicted_activation": plan.activation,
        "activation_ratio": round(plan.activation / activation, 3),
        "weights": weights,
        "predicted_weights": plan.weights,
        "weights_ratio": round(plan.weights / weights, 3),
        "total_ratio": round(plan.total / (activation + weights), 3),
        "prediction_s": round(seconds, 2),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the errors of each group, of activations and of the total."""
    found: dict[str, Any] = {}
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        found[group] = {"engines": len(mine)}
        for what in ("activation", "total"):
            ratios = [row[f"{what}_ratio"] for row in mine]
            found[group][what] = {
                "median_error": round(median(abs(ratio - 1) for ratio in ratios), 3),
                "worst_error": round(max(abs(ratio - 1) for ratio in ratios), 3),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
    return found


def _others(result: Path, only: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of ``result`` that are not measured again."""
    if not only or not result.is_file():
        return []
    return [row for row in json.loads(result.read_text())["rows"] if row["name"] not in only]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--result", type=Path, default=RESULT, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        rows = _others(options.result, options.only)
        failed = []
        for case in cases():
            if options.only and case.name not in options.only:
                continue
            try:
                rows.append(measure(case, folder))
                print(json.dumps(rows[-1]), flush=True)
            except TrtforgeError as error:
                failed.append({**vars(case), "error": str(error)})
                print(failed[-1], file=sys.stderr, flush=True)
    places = list(cases())
    rows.sort(key=lambda row: places.index(Case(**{key: row[key] for key in vars(places[0])})))
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "target": TARGET,
        "versions": {p: version(p) for p in ("trtforge", "tensorrt-rtx", "torch", "onnx-ir")},
        "summary": summary(rows),
        "failed": failed,
        "rows": rows,
    }
    print(json.dumps(result["summary"], indent=2))
    options.result.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
