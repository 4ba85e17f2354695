"""Which layers of real engines are mapped to ONNX nodes and torch modules, and which are not.

    python benchmarks/layer_map.py [--only REGEX] [--work FOLDER]

Each architecture of ``benchmarks/architectures`` is exported by torch's dynamo exporter with
dynamic axes, rewritten by ``make_convertible`` and built by TensorRT-RTX (SM 89, ahead of time, no
GPU). A layer counts as mapped when the names that TensorRT gives are nodes of the model, or when
the tensors that it reads and writes place it; the others must be of a kind that does no work of
the model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import real_graph_jobs
import real_graphs
from architectures import ARCHITECTURES
from trtforge_plugins.analysis.devices import find_device
from trtforge_plugins.analysis.predict import predict
from trtforge_plugins.computing_type import Evidence, evidence
from trtforge_plugins.engine_layers import parse_layers
from trtforge_plugins.tensorrt import library
from trtforge_plugins.tensorrt.order import BuildOrder

from trtforge import EngineLayer
from trtforge.worker import Job, Worker

RESULT = Path(__file__).resolve().parent / "results" / "layer_map.json"
LIMIT = 300.0  # seconds for an export or a build


def build(name: str, folder: Path, worker: Worker) -> str:
    """Export, rewrite and build one architecture; return the exporter's refusal, or "".

    What is there already stays.
    """
    if (folder / "engine.layers").is_file():
        return ""
    payload = {"name": name, "exporter": "dynamo", "folder": str(folder)}
    log = folder.with_suffix(".log")
    exported = worker.call(Job("real_graph_jobs:export", payload, name, log, LIMIT))
    if exported["reason"]:
        return str(exported["reason"])
    model = folder / "trtforge.onnx"
    failure = real_graphs.transform(sys.executable, "trtforge", folder / "raw.onnx", model)
    assert not failure, failure
    order = BuildOrder(
        "tensorrt_rtx",
        str(model),
        "ERROR",
        engine=str(folder / "engine"),
        layers=str(folder / "engine.layers"),
        profiles=[real_graph_jobs.profile(folder)],
        targets=[89],
    )
    job = "trtforge_plugins.tensorrt.build_job:build"
    built = worker.call(Job(job, asdict(order), name, log, LIMIT))
    assert not built["refused"], built["refused"]
    (folder / "engine").unlink()
    return ""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return how the layers of one engine are mapped."""
    model = ir.load(folder / "trtforge.onnx")
    layers = parse_layers((folder / "engine.layers").read_text()).layers
    with np.load(folder / "profile.npz") as data:
        opt = {key[:-4]: tuple(data[key].tolist()) for key in data if key.endswith(":opt")}
    inputs = {value.name for value in model.graph.inputs}
    shapes = {key: shape for key, shape in opt.items() if key in inputs}
    started = time.perf_counter()
    found = predict(model, layers, find_device("L4"), shapes)
    seconds = time.perf_counter() - started
    origins = Counter(cost.origin for cost in found.layers)
    own = [layer for layer, cost in zip(layers, found.layers, strict=True) if not cost.nodes]
    mapped = [cost for cost in found.layers if cost.nodes]
    names = {node.name for node in found.nodes}
    return {
        "architecture": name,
        "layers": len(layers),
        "named": origins["named"],
        "inferred": origins["inferred"],
        "tensorrt": origins["tensorrt"],
        "own_that_multiply": sum(map(_multiplies, own)),
        "names_not_in_model": sum(n not in names for cost in mapped for n in cost.nodes),
        "with_module": sum(bool(cost.modules) for cost in mapped),
        "macs_in_layers": round(sum(cost.macs for cost in found.layers) / max(found.macs, 1), 4),
        "seconds": round(seconds, 3),
        "own_kinds": dict(Counter(layer.kind for layer in own)),
    }


def _multiplies(layer: EngineLayer) -> bool:
    return evidence(layer) in (Evidence.DEDICATED, Evidence.FUSED)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression on names")
    parser.add_argument("--work", type=Path, default=Path("layer-map"), help="keeps the engines")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    worker = Worker(environment=library.find("auto").variables())
    rows, left_out = [], {}
    for each in ARCHITECTURES:
        if not re.search(options.only, each.name):
            continue
        folder = options.work / f"{each.name}.dynamo"
        refusal = each.left_out.get("dynamo") or build(each.name, folder, worker)
        if refusal:
            left_out[each.name] = refusal
            continue
        rows.append(measure(each.name, folder))
        print(json.dumps(rows[-1]), flush=True)
    keys = ("layers", "named", "inferred", "tensorrt", "own_that_multiply", "names_not_in_model",
            "with_module")  # fmt: skip
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": "2 cores, no GPU: built, not executed",
        "versions": {name: version(name) for name in ("torch", "tensorrt-rtx")},
        "summary": {key: sum(row[key] for row in rows) for key in keys},
        "left_out": left_out,
        "rows": rows,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["summary"], indent=1))


if __name__ == "__main__":
    main()
