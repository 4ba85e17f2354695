"""What ``trtforge check`` costs on a large graph, and how many trials precision bisection takes.

    python benchmarks/diagnosis.py [--rounds 5]

1. ``check`` on graphs of 5 000 nodes, one that TensorRT takes and one with 500 refused nodes, as
   whole processes; beside it, TensorRT's own parse of the same file, measured inside its process.
   Wall time, and the time that processors computed, which other programs disturb less.
2. ``bisect --recipe`` on a graph of BERT-base (12 layers, small widths, random weights) in which
   some units of the feed-forward layers are outliers that INT8 cannot hold: how often the model was
   compared, against once for each node.
3. ``bisect --build`` on such a chain of 5 000 nodes in which one node, in the middle, is taken by
   TensorRT's parser and refused by its builder: how many parts were built to find it.

Writes ``benchmarks/results/diagnosis.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "diagnosis.json"
sys.path.insert(0, str(ROOT / "tests"))

PARSE = """
import sys, time
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1)
parser = trt.OnnxParser(network, logger)
started = time.perf_counter()
parser.parse_from_file(sys.argv[1])
print(time.perf_counter() - started)
"""
RECIPE = """
shapes: {input_ids: 2x16, attention_mask: 2x16, token_type_ids: 2x16}
require: {cosine: 0.999}
stages:
  - name: quantize
    steps:
      - upgrade-opset
      - load-data: {path: data.npz, batch: 2}
      - calibrate-max
      - insert-qdq
"""


def graph_of_5000_nodes(refused: bool) -> onnx.ModelProto:  # noqa: FBT001  # one of two
    """Return a chain of products, activations and sums; every tenth node may be unknown."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i in range(1250):
        array = random.standard_normal((16, 16)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{i}"))
        nodes += [
            helper.make_node("MatMul", [value, f"w{i}"], [f"a{i}"], f"product{i}"),
            helper.make_node("Relu", [f"a{i}"], [f"b{i}"], f"relu{i}"),
            helper.make_node("Add", [f"b{i}", value], [f"c{i}"], f"sum{i}"),
            helper.make_node("Tanh", [f"c{i}"], [f"d{i}"], f"tanh{i}"),
        ]
        value = f"d{i}"
    for node in nodes[1::10] if refused else ():
        node.op_type, node.domain = "Swirl", "acme"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [8, 16]) for n in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def processor_time() -> float:
    """Return the seconds that ended child processes, and theirs, have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check_row(folder: Path, rounds: int, *, refused: bool) -> dict[str, Any]:
    """Time ``check`` and TensorRT's parse in turn."""
    model = folder / "chain.onnx"
    onnx.save(graph_of_5000_nodes(refused), model)
    whole, parse, processor = [], [], []
    for _ in range(rounds):
        used, started = processor_time(), time.perf_counter()
        code = "from trtforge.cli import main; main()"
        line = [sys.executable, "-c", code, "check", str(model), "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        whole.append(time.perf_counter() - started)
        processor.append(processor_time() - used)
        out = subprocess.run(
            [sys.executable, "-c", PARSE, str(model)], capture_output=True, text=True, check=True
        ).stdout
        parse.append(float(out.splitlines()[-1]))
    findings = json.loads(done.stdout)["findings"]
    assert len(findings) == (500 if refused else 0)
    return {
        "nodes": 5000,
        "findings": len(findings),
        "check_s": round(median(whole), 3),
        "check_fastest_s": round(min(whole), 3),
        "check_processor_s": round(median(processor), 3),
        "tensorrt_parse_s": round(median(parse), 3),
        "rounds": rounds,
        "within_3_s_and_parse": median(whole) <= 3 + median(parse),
    }


def bisection_row(folder: Path, culprits: tuple[int, ...]) -> dict[str, Any]:
    """Count trials on a BERT whose layers ``culprits`` have an outlier."""
    from models import BertSize, bert, bert_feed, random_bert_weights

    from trtforge.api import bisect_accuracy

    size = BertSize(layers=12)
    weights = random_bert_weights(size)
    for layer in culprits:
        prefix = f"encoder.layer.{layer}"
        weights[f"{prefix}.intermediate.dense.bias"][0] = 5000.0
        weights[f"{prefix}.output.dense.weight"][:, 0] = 0.0
    onnx.save(bert(size, weights), folder / "bert.onnx")
    np.savez(folder / "data.npz", **bert_feed(8, 16, size.vocabulary))
    (folder / "recipe.yaml").write_text(RECIPE)
    started = time.perf_counter()
    found = bisect_accuracy(folder / "bert.onnx", folder / "recipe.yaml")
    return {
        "culprits": [f"encoder.layer.{layer}.output.dense" for layer in culprits],
        "step": found.step,
        "found": list(found.nodes),
        "nodes": found.of,
        "trials": found.trials,
        "one_by_one": found.of,
        "fewer": round(found.of / found.trials, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def reduction_row(folder: Path) -> dict[str, Any]:
    """Count the builds that find a loose Cast to float8 in a chain of 5 000 nodes."""
    from trtforge.api import RunOptions, bisect_build
    from trtforge.bisection import Search

    model = graph_of_5000_nodes(refused=False)
    middle = model.graph.node[2501]
    assert middle.op_type == "Relu"
    back = helper.make_node("Cast", ["narrow"], list(middle.output), "back", to=TensorProto.FLOAT)
    middle.CopyFrom(
        helper.make_node(
            "Cast", list(middle.input), ["narrow"], "narrow", to=TensorProto.FLOAT8E4M3FN
        )
    )
    model.graph.node.insert(2502, back)
    onnx.save(model, folder / "chain.onnx")
    started = time.perf_counter()
    options = RunOptions(targets=("sm_89",))
    found = bisect_build(folder / "chain.onnx", Search(folder / "smallest"), options=options)
    return {
        "nodes": found.of,
        "found": list(found.nodes),
        "code": found.code,
        "builds": found.builds,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as name:
        folder = Path(name)
        checks = [check_row(folder, rounds, refused=refused) for refused in (False, True)]
        reduction = reduction_row(folder)
        bisections = [bisection_row(folder, layers) for layers in ((4,), (2, 9))]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "load": f"{os.getloadavg()[0]:.1f} processes ran at the end, these included",
        "versions": {name: version(name) for name in ("trtforge", "tensorrt-rtx", "onnxruntime")},
        "check": checks,
        "bisect_recipe": bisections,
        "bisect_build": reduction,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
