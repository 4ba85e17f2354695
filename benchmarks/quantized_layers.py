"""How many engine layers quantized models have, and where TensorRT-RTX fuses a requantization.

    python benchmarks/quantized_layers.py [--pairs | --models | --recipes]

Three parts, all without a GPU:

- ``pairs``: two convolutions, or two matrix products, with a Q/DQ pair between them, in every
  combination of what could matter. Counted: how many of them have a separate layer that quantizes
  in between, and how many give 8-bit numbers right away.
- ``models``: ResNet-50 (1x3x224x224) and BERT-base (sequence of 128) by recipe-like steps: layers,
  and the share of multiply-accumulates that ``prove-precision`` shows in the type.
- ``recipes``: BERT-base by the recipes that ship, as ``trtforge run`` runs them: the same figures.

Result: ``results/quantized_layers.json``. Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from trtforge_plugins.clean import FoldBatchnorm, InferShapes
from trtforge_plugins.precision import Cast, InsertQDQ, JoinProducts, QuantizeWeights
from trtforge_plugins.precision.placement import points_to_measure
from trtforge_plugins.prove_precision import ProvePrecision
from trtforge_plugins.tensorrt import TensorRT

import trtforge
from trtforge import Context, EngineLayers, Pass, Range, Ranges, Request
from trtforge.targets import read_target

ROOT = Path(__file__).resolve().parent
QUANTIZED = ("int8", "float8e4m3fn")
# What may matter between two products; the first entry of each is the plain case.
CHOICES: Mapping[str, Sequence[Any]] = {
    "op": ("Conv", "MatMul"),
    "type": (np.int8, ml_dtypes.float8_e4m3fn),
    "weight scales": ("per channel", "one"),
    "bias": (True, False),
    "activation": ("Relu", "none"),
    "float type": (np.float16, np.float32),
}
# Tried one by one on top of the plain case with one weight scale.
FURTHER: Mapping[str, Sequence[Any]] = {
    "kernel": (1, 5, 7),
    "channels": (16, 24, 256, 1024),
    "batch": (8, 32),
    "group": (2, 64),
    "activation": ("Clip", "Sigmoid", "Max"),
    "bias": ("an Add behind",),
    "residual": (True,),
    "power of two scales": (True,),
    "opset": (23,),
    "optimization level": (0, 5),
    "target": ("sm_80", "sm_86", "sm_120", "sm_121"),
}


def pair(case: Mapping[str, Any]) -> onnx.ModelProto:
    """Return two products with a Q/DQ pair before each."""
    dtype, kind = case["type"], case["float type"]
    channels, kernel = case.get("channels", 64), case.get("kernel", 3)
    scale = kind(0.0625 if case.get("power of two scales") else 0.05)
    nodes: list[onnx.NodeProto] = []
    arrays: dict[str, Any] = {"s": scale, "z": np.zeros((), dtype)}
    conv = case["op"] == "Conv"
    shape = [case.get("batch", 1), channels, 16, 16] if conv else [64, channels]
    x = "x"
    for index in range(2):
        arrays |= {
            f"ws{index}": np.full(channels, scale, kind),
            f"b{index}": np.ones(channels, kind),
        }
        axis = {"axis": 0 if conv else 1}
        if case["weight scales"] == "one":
            arrays[f"ws{index}"], axis = scale, {}
        width = (
            [channels, channels // case.get("group", 1), kernel, kernel] if conv else [channels] * 2
        )
        arrays[f"w{index}"] = np.ones(width, dtype)
        nodes += [
            helper.make_node("QuantizeLinear", [x, "s", "z"], [f"q{index}"], f"quantize{index}"),
            helper.make_node(
                "DequantizeLinear", [f"q{index}", "s", "z"], [f"d{index}"], f"d{index}"
            ),
            helper.make_node(
                "DequantizeLinear", [f"w{index}", f"ws{index}"], [f"v{index}"], f"v{index}", **axis
            ),
        ]
        inputs = [f"d{index}", f"v{index}"]
        if conv:
            inputs += [f"b{index}"] * (case["bias"] is True)
            attributes = {"pads": [kernel // 2] * 4, "group": case.get("group", 1)}
            nodes.append(
                helper.make_node("Conv", inputs, [f"y{index}"], f"product{index}", **attributes)
            )
        else:
            nodes.append(helper.make_node("MatMul", inputs, [f"y{index}"], f"product{index}"))
        if case["bias"] == "an Add behind" or (case["bias"] and not conv):
            if conv:
                arrays[f"b{index}"] = np.ones([channels, 1, 1], kind)
            nodes.append(
                helper.make_node("Add", [f"y{index}", f"b{index}"], [f"a{index}"], f"a{index}")
            )
        x = nodes[-1].output[0]
        if case.get("residual"):
            nodes.append(helper.make_node("Add", [x, f"d{index}"], [f"r{index}"], f"r{index}"))
            x = f"r{index}"
        if case["activation"] != "none":
            ends = {"Clip": ["low", "high"], "Max": ["low"]}.get(case["activation"], [])
            arrays |= {"low": kind(0), "high": kind(6)} if ends else {}
            nodes.append(
                helper.make_node(case["activation"], [x, *ends], [f"f{index}"], f"f{index}")
            )
            x = f"f{index}"
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes[-1].output[0] = "y"
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "pair",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items() if n in read],
    )  # fmt: skip
    opset = [helper.make_opsetid("", case.get("opset", 21))]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def cases() -> Iterator[dict[str, Any]]:
    """Yield every combination of ``CHOICES``, and ``FURTHER`` one by one."""
    for values in itertools.product(*CHOICES.values()):
        yield dict(zip(CHOICES, values, strict=True))
    plain = {name: values[0] for name, values in CHOICES.items()} | {"weight scales": "one"}
    for name, values in FURTHER.items():
        for value in values:
            yield plain | {name: value}


def context(model: ir.Model, folder: Path, target: str) -> Context:
    """Return the context of a run for one target."""
    return Context(model, folder, Request("model", targets=(read_target(target),)))


def measure_pairs(folder: Path) -> dict[str, Any]:
    """Build all pairs and count what stands between the two products."""
    counts: dict[str, Counter[str]] = {}
    fused: list[str] = []
    for case in cases():
        target = case.get("target", "sm_89")
        ctx = context(ir.from_proto(pair(case)), folder, target)
        step = TensorRT(optimization_level=case.get("optimization level"))
        ctx.put(step.build(ctx.model, ctx))
        ProvePrecision().run(ctx)
        layers = ctx.get(EngineLayers).layers
        first = next(
            layer for layer in layers if "product0" in layer.nodes and layer.kind != "kgen"
        )
        low = any(tensor.dtype in QUANTIZED for tensor in first.outputs)
        name = f"{case['op']} {np.dtype(case['type']).name}"
        counts.setdefault(name, Counter())["fused" if low else "a layer of its own"] += 1
        if low:
            fused.append(", ".join(_shown(key, value) for key, value in case.items()))
    return {"counts": {name: dict(count) for name, count in counts.items()}, "fused": fused}


def _shown(key: str, value: Any) -> str:
    return f"{key}: {np.dtype(value).name if isinstance(value, type) else value}"


RECIPES = ("fp16", "int8", "fp8")
MODELS: dict[str, tuple[str, list[Pass], str, int | None]] = {
    "ResNet-50 float16": ("resnet50", [], "sm_89", None),
    "ResNet-50 int8": ("resnet50", [InsertQDQ()], "sm_89", None),
    "ResNet-50 int8, max_aux_streams 0": ("resnet50", [InsertQDQ()], "sm_89", 0),
    "BERT-base float16": ("bert", [], "sm_89", None),
    "BERT-base int8": ("bert", [InsertQDQ()], "sm_89", None),
    "BERT-base int8, attention": ("bert", [InsertQDQ(attention=True)], "sm_89", None),
    "BERT-base int8, joined": ("bert", [JoinProducts(), InsertQDQ()], "sm_89", None),
    "BERT-base int8, joined, attention": (
        "bert", [JoinProducts(), InsertQDQ(attention=True)], "sm_89", None,
    ),
    "BERT-base fp8": ("bert", [InsertQDQ(dtype="float8e4m3fn")], "sm_89", None),
    "BERT-base fp8, attention": (
        "bert", [InsertQDQ(dtype="float8e4m3fn", attention=True)], "sm_89", None,
    ),
    "BERT-base fp8, joined": (
        "bert", [JoinProducts(), InsertQDQ(dtype="float8e4m3fn")], "sm_89", None,
    ),
    "BERT-base fp8, joined, attention": (
        "bert", [JoinProducts(), InsertQDQ(dtype="float8e4m3fn", attention=True)], "sm_89", None,
    ),
    "BERT-base int4 weights": ("bert", [QuantizeWeights()], "sm_89", None),
    "BERT-base nvfp4": ("bert", [InsertQDQ(dtype="float4e2m1")], "sm_120", None),
}  # fmt: skip


def measure_models(folder: Path) -> dict[str, Any]:
    """Build each model and count its layers."""
    sys.path.insert(0, str(ROOT.parent / "tests"))
    import layer_dumps
    import models

    base = models.BertSize(12, 768, 12, 3072, 30522, 512)
    found = {}
    for name, (which, steps, target, streams) in MODELS.items():
        made = models.resnet50() if which == "resnet50" else models.bert(base, sequence=128)
        proto = layer_dumps.fixed_batch(made)
        proto.opset_import[0].version = 23 if "nvfp4" in name else 21
        ctx = context(ir.from_proto(proto), folder, target)
        for step in (FoldBatchnorm(), InferShapes(), *steps, Cast(to="float16")):
            if isinstance(step, InsertQDQ):
                names = [str(point.tensor.name) for point in points_to_measure(ctx.model)]
                ranges = dict.fromkeys(names, Range(-4.0, 4.0))  # only the structure matters here
                ctx.put(Ranges(ranges, "fixed", 1, "benchmark"))
            step.run(ctx)
        ctx.put(TensorRT(max_aux_streams=streams).build(ctx.model, ctx))
        ProvePrecision().run(ctx)
        found[name] = _summary(ctx)
        print(name, found[name], flush=True)
    return found


def measure_recipes(folder: Path) -> dict[str, Any]:
    """Run the recipes that ship on BERT-base with random weights and read their reports."""
    sys.path.insert(0, str(ROOT.parent / "tests"))
    import models

    base = models.BertSize(12, 768, 12, 3072, 30522, 512)
    onnx.save(models.bert(base, sequence=128), folder / "bert.onnx")
    feed = models.bert_feed(4, 128, 30522)
    np.savez(folder / "data.npz", **feed)
    found = {}
    for name in RECIPES:
        done = trtforge.run(
            name, folder / "bert.onnx", out=folder / name, targets=["sm_89"],
            shapes=dict.fromkeys(feed, "1x128:1x128:1x128"), use_cache=False,
            settings=[f"load-data.path={folder / 'data.npz'}"] if name != "fp16" else (),
        )  # fmt: skip
        if done.proof is None:
            raise RuntimeError(f"the recipe {name} proves nothing")
        found[f"BERT-base recipe {name}"] = {
            "layers": done.layers,
            "shares": {each.dtype: round(each.share, 4) for each in done.proof.shares},
            "as asked": done.proof.holds,
        }
        print(name, found[f"BERT-base recipe {name}"], flush=True)
    return found


def _summary(ctx: Context) -> dict[str, Any]:
    from trtforge import PrecisionProof

    layers, proof = ctx.get(EngineLayers).layers, ctx.get(PrecisionProof)
    return {
        "layers": len(layers),
        "kinds": dict(Counter(layer.kind for layer in layers)),
        "shares": {share.dtype: round(share.share, 4) for share in proof.shares},
        "as asked": proof.holds,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--models", action="store_true")
    parser.add_argument("--recipes", action="store_true")
    chosen = parser.parse_args()
    every = not (chosen.pairs or chosen.models or chosen.recipes)
    path = ROOT / "results" / "quantized_layers.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if not chosen.recipes:
        result["date"] = now
    result["tensorrt-rtx"] = version("tensorrt-rtx")
    with tempfile.TemporaryDirectory() as folder:
        if every or chosen.pairs:
            result["pairs"] = measure_pairs(Path(folder))
        if every or chosen.models:
            result["models"] = measure_models(Path(folder))
        if every or chosen.recipes:
            result["recipes"] = measure_recipes(Path(folder)) | {"date": now}
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
