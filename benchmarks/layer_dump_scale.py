"""Time and memory from the layer dump of a network with 5 000 layers to its report.

    python benchmarks/layer_dump_scale.py [--layers 5000]

The dump is one of TensorRT-RTX's own of a BERT with one encoder layer, whose encoder part is
repeated with the names of further encoder layers; the model is a BERT with as many. Each round runs
in a process of its own, which tells its peak resident memory: imports, model and dump included. It
reads the dump, maps it, counts it (``predict``) and writes the report with table, roofline and
graph; the shapes of the model are known, as they are at the end of a recipe. The bars are those of
all together.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "layer_dump_scale.json"
BARS = {"seconds": 3.0, "peak_megabytes": 400.0, "page_megabytes": 6.0}
ROUNDS = 5
PART = "encoder.layer.0."
PARTS = {
    "parse and map": ("parse", "map"),
    "predict": ("predict",),
    "report": ("report", "page"),
    "all": ("parse", "map", "predict", "report", "page"),
}
MEASURED = """
import json, sys, time
from pathlib import Path
import onnx_ir as ir
from trtforge import Context, EngineLayers
from trtforge.context import Request
from trtforge.environment import environment
from trtforge.report import Verdict, make_report, summarize_model
from trtforge.report_page import render
from trtforge_plugins.analysis.devices import find_device
from trtforge_plugins.analysis.layer_map import map_layers
from trtforge_plugins.analysis.predict import predict
from trtforge_plugins.engine_layers import parse_layers
model = ir.load(sys.argv[1])
file = Path(sys.argv[2])
text = file.read_text(encoding="utf-8")
machine = environment()
spent = {}
def timed(name, job):
    cpu, wall = time.process_time(), time.perf_counter()
    result = job()
    spent[name] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return result
def peak():  # not ru_maxrss, which counts what the process was that started this one
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
def report():
    ctx = Context(model, file.parent, Request(source="deep.onnx"))
    ctx.put(EngineLayers(layers))
    ctx.put(prediction)
    return make_report(
        ctx, (), recipe="fp32", verdict=Verdict(0, ()), environment=machine,
        given=summarize_model(model),
    )
layers = timed("parse", lambda: parse_layers(text).layers)
places = timed("map", lambda: map_layers(model, layers))
mapped = peak()
prediction = timed("predict", lambda: predict(model, layers, find_device("L4")))
made = timed("report", report)
page = timed("page", lambda: render(made))
print(json.dumps({
    "layers": len(layers), "nodes": len(model.graph), "page_bytes": len(page.encode()),
    "mapped": sum(bool(place.nodes) for place in places), "seconds": spent,
    "peak_megabytes": {"parse_and_map": mapped, "all": peak()},
}))
"""


def repeated(dump: str, count: int) -> str:
    """Return ``dump`` with its encoder part ``count`` times, each under names of its own."""
    lines = dump.splitlines()
    inside = [number for number, line in enumerate(lines) if PART in line]
    first, last = inside[0], inside[-1]
    part = "\n".join(lines[first : last + 1])
    parts = [
        re.sub(r"(__my[a-z]\w*)", rf"\1_{number}", part.replace(PART, f"encoder.layer.{number}."))
        for number in range(count)
    ]
    return "\n".join((*lines[:first], *parts, *lines[last + 1 :])) + "\n"


def prepare(folder: Path, layers: int) -> tuple[Path, Path]:
    """Write model and dump; return their files."""
    sys.path.insert(0, str(ROOT.parent / "tests"))
    import layer_dumps
    import models
    import onnx_ir as ir
    from trtforge_plugins.clean.fold_constants import FoldConstants
    from trtforge_plugins.clean.infer_shapes import InferShapes

    from trtforge.testing import apply

    dump = layer_dumps.golden("bert_fp32")
    count = -(-layers // sum(PART in line for line in dump.splitlines()))
    size = models.BertSize(count, 64, 2, 128, 100, 16)
    model, text = folder / "deep.onnx", folder / "deep.layers.txt"
    deep = layer_dumps.fixed_batch(models.bert(size, sequence=16))
    for step in (InferShapes(), FoldConstants()):
        deep, *_ = apply(step, deep)
    ir.save(deep, model)
    text.write_text(repeated(dump, count), encoding="utf-8")
    return model, text


def measure(model: Path, dump: Path) -> dict[str, Any]:
    """Return what one round in a process of its own says."""
    command = [sys.executable, "-c", MEASURED, str(model), str(dump)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, dump = prepare(Path(folder), options.layers)
        rounds = [measure(model, dump) for _ in range(ROUNDS)]
        size = dump.stat().st_size
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": "2 cores, no GPU",
        "bars": BARS,
        "dump_bytes": size,
        "seconds": {
            name: {
                clock: statistics.median(
                    sum(each["seconds"][part][clock] for part in parts) for each in rounds
                )
                for clock in ("cpu", "wall")
            }
            for name, parts in PARTS.items()
        },
        "peak_megabytes": {
            name: max(each["peak_megabytes"][name] for each in rounds)
            for name in ("parse_and_map", "all")
        },
        "page_megabytes": max(each["page_bytes"] for each in rounds) / 1e6,
        "rounds": rounds,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
