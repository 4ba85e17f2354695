"""Time and memory of reading and mapping the layer dump of a network with 5 000 layers.

    python benchmarks/layer_dump_scale.py [--layers 5000]

The dump is one of TensorRT-RTX's own of a BERT with one encoder layer, whose encoder part is
repeated with the names of further encoder layers; the model is a BERT with as many. Each round runs
in a process of its own, which tells its peak resident memory: imports, model and dump included.
The bars are those of reading and mapping; counting (``predict``), which infers all shapes of the
model anew, is told beside it.
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

ROOT = Path(__file__).resolve().parent
RESULT = ROOT / "results" / "layer_dump_scale.json"
BARS = {"seconds": 3.0, "peak_megabytes": 400.0}
ROUNDS = 5
PART = "encoder.layer.0."
MEASURED = """
import json, resource, sys, time
import onnx_ir as ir
from trtforge_plugins.analysis.devices import find_device
from trtforge_plugins.analysis.layer_map import map_layers
from trtforge_plugins.analysis.predict import predict
from trtforge_plugins.engine_layers import parse_layers
model = ir.load(sys.argv[1])
text = open(sys.argv[2], encoding="utf-8").read()
spent = {}
def timed(name, job):
    cpu, wall = time.process_time(), time.perf_counter()
    result = job()
    spent[name] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return result
layers = timed("parse", lambda: parse_layers(text).layers)
places = timed("map", lambda: map_layers(model, layers))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
timed("predict", lambda: predict(model, layers, find_device("L4")))
print(json.dumps({
    "layers": len(layers), "nodes": len(model.graph),
    "mapped": sum(bool(place.nodes) for place in places), "seconds": spent,
    "peak_megabytes": {
        "parse_and_map": peak,
        "with_predict": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    },
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
    import onnx

    dump = layer_dumps.golden("bert_fp32")
    count = -(-layers // sum(PART in line for line in dump.splitlines()))
    size = models.BertSize(count, 64, 2, 128, 100, 16)
    model, text = folder / "deep.onnx", folder / "deep.layers.txt"
    onnx.save(layer_dumps.fixed_batch(models.bert(size, sequence=16)), model)
    text.write_text(repeated(dump, count), encoding="utf-8")
    return model, text


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, dump = prepare(Path(folder), options.layers)
        command = [sys.executable, "-c", MEASURED, str(model), str(dump)]
        rounds = [
            json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            for _ in range(ROUNDS)
        ]
        size = dump.stat().st_size
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": "2 cores, no GPU, busy with other work: wall times are of little use",
        "bars": BARS,
        "dump_bytes": size,
        "parse_and_map_seconds": {
            clock: statistics.median(
                each["seconds"]["parse"][clock] + each["seconds"]["map"][clock] for each in rounds
            )
            for clock in ("cpu", "wall")
        },
        "predict_seconds": {
            clock: statistics.median(each["seconds"]["predict"][clock] for each in rounds)
            for clock in ("cpu", "wall")
        },
        "peak_megabytes": {
            name: max(each["peak_megabytes"][name] for each in rounds)
            for name in ("parse_and_map", "with_predict")
        },
        "rounds": rounds,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
