"""Hold ONNX Runtime's CUDA provider against its CPU provider, as trtforge sets both up.

Run on a machine with an NVIDIA GPU and onnxruntime-gpu, from the repository's root::

    PYTHONPATH=.:plugins:custom_ops python benchmarks/h200_reference.py

Writes ``benchmarks/results/h200_reference.json``: per model and type the nearness of the outputs
and the median time of a run, with date, device, driver and versions. Ends with 1 when an output is
not as near as its type allows, or when a model was not run on the GPU at all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from trtforge.compare import compare
from trtforge.errors import EnvironmentLacks
from trtforge.feeds import synthesize
from trtforge.reference import CPU, CUDA, Provider, Reference

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "h200_reference.json"
HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
# What the two may differ by. float32: another order of sums, no TF32 (which gives about 60 dB).
# float16: the CPU rounds every tensor, fused GPU kernels round less. QDQ: rounding to 8 bits turns
# float32 differences into whole steps where a value lies on a boundary.
SMALLEST_SQNR_DB = {"float32": 90.0, "float16": 45.0, "qdq": 30.0}

CNN = """
cnn (float[N,3,32,32] x) => (float[N,10] y)
{
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)   r = Relu (a)
    c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r, w2, b2)   s = Add (c, r)   t = Relu (s)
    p = GlobalAveragePool (t)   f = Flatten (p)   y = Gemm <transB=1> (f, w3, b3)
}
"""
CNN_WEIGHTS = {
    "w1": (64, 3, 3, 3), "b1": (64,), "w2": (64, 64, 3, 3), "b2": (64,),
    "w3": (10, 64), "b3": (10,),
}  # fmt: skip

TRANSFORMER = """
block (float[N,64,128] x) => (float[N,64,128] y)
{
    n = LayerNormalization (x, g1, h1)
    q = MatMul (n, wq)   k = MatMul (n, wk)   v = MatMul (n, wv)
    kt = Transpose <perm=[0,2,1]> (k)
    l = MatMul (q, kt)   d = Mul (l, scale)   p = Softmax (d)   o = MatMul (p, v)
    m = MatMul (o, wo)   a = Add (m, x)
    u = LayerNormalization (a, g2, h2)
    e = MatMul (u, w1)   z = Gelu (e)   w = MatMul (z, w2)   y = Add (w, a)
}
"""
TRANSFORMER_WEIGHTS = {
    "g1": (128,), "h1": (128,), "g2": (128,), "h2": (128,), "scale": (1,), "wq": (128, 128),
    "wk": (128, 128), "wv": (128, 128), "wo": (128, 128), "w1": (128, 512), "w2": (512, 128),
}  # fmt: skip


def build(text: str, weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Return the model with seeded weights that keep the size of what flows through."""
    model = onnx.parser.parse_model(HEADER + text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        value = rng.standard_normal(shape) * (fan_in**-0.5 if len(shape) > 1 else 0.1)
        if name == "scale":
            value = np.array([128**-0.5])
        if name.startswith("g"):
            value += 1.0
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    return model


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with all of its tensors in float16."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del half.graph.value_info[:]
    return half


def to_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with int8 Q/DQ on both inputs of each Conv, Gemm and MatMul."""
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in list(graph.node):
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            for index, name in enumerate(node.input[:2]):
                if name not in done:
                    amax = float(np.abs(weights[name]).max()) if name in weights else 4.0
                    nodes += _qdq_pair(graph, name, amax)
                    done.add(name)
                node.input[index] = f"{name}_dq"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return quantized


def _qdq_pair(graph: onnx.GraphProto, name: str, amax: float) -> list[onnx.NodeProto]:
    ends: dict[str, Any] = {
        f"{name}_scale": np.array(amax / 127, np.float32),
        f"{name}_zero": np.array(0, np.int8),
    }
    for end, value in ends.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value, end))
    make = onnx.helper.make_node
    return [
        make("QuantizeLinear", [name, *ends], [f"{name}_q"]),
        make("DequantizeLinear", [f"{name}_q", *ends], [f"{name}_dq"]),
    ]


def models() -> dict[tuple[str, str], onnx.ModelProto]:
    """Return the models by name and type."""
    plain = {"cnn": build(CNN, CNN_WEIGHTS), "transformer": build(TRANSFORMER, TRANSFORMER_WEIGHTS)}
    demo = ROOT / "trtforge" / "demo" / "digits.onnx"
    if demo.exists():
        plain["demo digits"] = onnx.load(demo)
    found = {}
    for name, model in plain.items():
        found[name, "float32"] = model
        found[name, "qdq"] = to_qdq(model)
        found[name, "float16"] = to_float16(model)
    return found


def measure(model: onnx.ModelProto, samples: int, runs: int) -> dict[str, Any]:
    """Return outputs' nearness and the median time of both providers, in milliseconds."""
    loaded = ir.from_proto(model)
    feeds = synthesize(loaded, samples=samples).feeds
    outputs, times = {}, {}
    providers: tuple[Provider, ...] = ("cpu", "cuda")
    for provider in providers:
        reference = Reference(loaded, provider=provider)
        if reference.provider != (CUDA if provider == "cuda" else CPU):
            raise RuntimeError(f"asked for {provider}, runs on {reference.provider}")
        outputs[provider] = [reference.run(feed) for feed in feeds]
        times[provider] = median(_milliseconds(reference, feeds[0]) for _ in range(runs))
    compared = compare(outputs["cpu"], outputs["cuda"])
    return {"ms": times, "outputs": [_plain(asdict(output)) for output in compared]}


def _milliseconds(reference: Reference, feed: Any) -> float:
    started = time.perf_counter()
    reference.run(feed)
    return (time.perf_counter() - started) * 1e3


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """Return ``figures`` with numbers that JSON has not as text."""
    return {
        name: str(value) if isinstance(value, float) and not isfinite(value) else value
        for name, value in figures.items()
    }


def machine() -> dict[str, Any]:
    """Return date, device, driver and versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError) as error:
        gpus = [f"unknown: {error}"]
    versions = {}
    for name in ("onnxruntime-gpu", "onnxruntime", "onnx", "onnx-ir", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": [line for line in gpus if line],
        "python": sys.version.split()[0],
        "versions": versions,
    }


def main() -> int:
    """Measure all models, write the result, and say what is not as near as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows, far = [], []
    for (name, dtype), model in models().items():
        row: dict[str, Any] = {"model": name, "type": dtype, "smallest_db": SMALLEST_SQNR_DB[dtype]}
        try:
            row |= measure(model, options.samples, options.runs)
        except EnvironmentLacks as error:
            print(f"not measured: {error}")
            return int(error.exit_code)
        except Exception as error:  # noqa: BLE001  # one model's failure is its row's result
            row["error"] = f"{type(error).__name__}: {error}"
        near = not row.get("error") and all(
            float(output["sqnr_db"]) >= row["smallest_db"] and not output["nonfinite_mismatch"]
            for output in row["outputs"]
        )
        row["near"] = near
        far += [] if near else [f"{name} {dtype}"]
        print(json.dumps(row))
        rows.append(row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**machine(), "models": rows}, indent=1) + "\n")
    print(f"not near enough: {', '.join(far)}" if far else "all as near as their types allow")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
