"""What the recipe's change makes of models that a piece of advice applies to; no GPU is needed.

    python benchmarks/advice.py

Each pair of ``tests/advice_pairs.py`` is built by TensorRT-RTX (SM 89, ahead of time), before and
after the change. Launches, copies and memory are TensorRT's own; times are floors on an L4 by
counting, nothing is executed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tests"))

import advice_pairs  # noqa: E402  # it lies with the tests
import layer_dumps  # noqa: E402
import models  # noqa: E402
from trtforge_plugins.analysis.devices import find_device  # noqa: E402
from trtforge_plugins.analysis.predict import predict  # noqa: E402
from trtforge_plugins.engine_layers import parse_layers  # noqa: E402

import trtforge  # noqa: E402

RESULT = ROOT / "results" / "advice.json"


def counted(model: onnx.ModelProto, dump: str) -> dict[str, Any]:
    """Return what one engine costs by counting."""
    graph = ir.from_proto(model)
    shapes = {v.name: (4, 64) for v in graph.graph.inputs if not v.shape.is_static()}
    found = predict(graph, parse_layers(dump).layers, find_device("L4"), shapes)
    work: dict[str, int] = {}
    for layer in found.layers:
        if layer.macs:
            work[layer.dtype] = work.get(layer.dtype, 0) + layer.macs
    return {
        "launches": found.launches,
        "copies": sum(layer.role == "moves" for layer in found.layers),
        "floors_us": round(found.serial_ms * 1e3, 4),
        "macs": work,
    }


def memory() -> dict[str, dict[str, int | None]]:
    """Return the activation memory of one model with a wide and with a narrow profile."""
    found = {}
    recipe = "targets: [sm_89]\nstages:\n  - name: build\n    steps: [tensorrt]\n"
    with tempfile.TemporaryDirectory() as folder:
        model, file = Path(folder, "m.onnx"), Path(folder, "r.yaml")
        size = models.BertSize(1, 64, 2, 128, 100, 512)
        onnx.save(layer_dumps.fixed_batch(models.bert(size)), model)
        file.write_text(recipe)
        for side, largest in (("before", 512), ("after", 64)):
            profile = {
                name: {"min": (1, 16), "opt": (1, 64), "max": (1, largest)}
                for name in ("input_ids", "attention_mask", "token_type_ids")
            }
            run = trtforge.run(
                file, model=str(model), out=Path(folder, side), shapes=profile, compare=False
            )
            found[side] = {"activation_memory_bytes": run.report.engines[0].memory.activation}
    return found


def main() -> None:
    """Build, count, and write the results."""
    pairs = advice_pairs.pairs()
    jobs = {
        f"{pair.code}.{side}": (getattr(pair, side), ("SM89",))
        for pair in pairs
        for side in ("before", "after")
    }
    dumps = layer_dumps.build_dumps(jobs)
    rows = {
        pair.code: {
            side: counted(getattr(pair, side), dumps[f"{pair.code}.{side}"])
            for side in ("before", "after")
        }
        for pair in pairs
    }
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": "2 cores, no GPU: built, not executed",
        "versions": {"tensorrt-rtx": version("tensorrt-rtx")},
        "rows": {**rows, "wide-profile": memory()},
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["rows"], indent=1))


if __name__ == "__main__":
    main()
