"""Layer dumps of TensorRT-RTX for tests: golden ones from files, fresh ones from real builds.

``python tests/layer_dumps.py`` writes the golden files again; no GPU is needed.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import models
import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

GOLDEN = Path(__file__).parent / "data" / "layer_dumps"
HAVE_TENSORRT = importlib.util.find_spec("tensorrt_rtx") is not None

Job = tuple[onnx.ModelProto, tuple[str, ...]]
"""A model and the compute capabilities to build for, for example ``("SM89",)``."""


def golden(name: str) -> str:
    """Return the text of a golden dump."""
    path = GOLDEN / f"{name}.txt.gz"
    if path.exists():
        return gzip.decompress(path.read_bytes()).decode()
    return (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def build_dumps(jobs: Mapping[str, Job]) -> dict[str, str]:
    """Build every job in one other process, as TensorRT may abort its own; return the dumps."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, targets) in jobs.items():
            Path(folder, f"{name}.onnx").write_bytes(model.SerializeToString())
            Path(folder, f"{name}.json").write_text(json.dumps(targets))
        command = [sys.executable, __file__, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return {name: Path(folder, f"{name}.txt").read_text(encoding="utf-8") for name in jobs}


def _build(model: bytes, targets: list[str]) -> str:
    import tensorrt_rtx as trt

    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]  # the bindings have no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if message.startswith("Layers:") or severity == trt.ILogger.ERROR:
                messages.append(message)

    builder = trt.Builder(Logger())
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, builder.logger)
    assert parser.parse(model), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        each = network.get_input(index)
        if -1 in each.shape:  # an open dimension is 1 to 8
            profile.set_shape(
                each.name, *([n if d == -1 else d for d in each.shape] for n in (1, 4, 8))
            )
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None, messages
    return next(message for message in messages if message.startswith("Layers:"))


def fixed_batch(model: onnx.ModelProto, batch: int = 1) -> onnx.ModelProto:
    """Return ``model`` with its first axis fixed, so that no profile is needed."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def with_qdq(model: onnx.ModelProto, dtype: type) -> onnx.ModelProto:
    """Put Q/DQ around every Conv, MatMul and Gemm: one scale per output channel of a weight.

    The activations' scale is arbitrary: only what TensorRT makes of the structure matters here.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    extra = {"act_s": np.float32(0.05), "act_z": np.zeros((), dtype)}

    def quantized(name: str, *parameters: str, **attributes: int) -> str:
        if not any(node.output[0] == f"{name}_dq" for node in nodes):
            q, dq = f"{name}_q", f"{name}_dq"
            for kind, source, result in (("Quantize", name, q), ("Dequantize", q, dq)):
                nodes.append(
                    helper.make_node(
                        f"{kind}Linear", [source, *parameters], [result],
                        f"{name}_{kind[0]}", **attributes,
                    )
                )  # fmt: skip
        return f"{name}_dq"

    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            node.input[0] = quantized(node.input[0], "act_s", "act_z")
            name = node.input[1]
            if name in weights:
                out = 0 if node.op_type != "MatMul" else 1
                size = weights[name].dims[out]
                extra[f"{name}_s"] = np.full(size, 0.01, np.float32)
                extra[f"{name}_z"] = np.zeros(size, dtype)
                node.input[1] = quantized(name, f"{name}_s", f"{name}_z", axis=out)
            else:
                node.input[1] = quantized(name, "act_s", "act_z")
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in extra.items()
    )
    model.opset_import[0].version = max(19, model.opset_import[0].version)  # FP8 came with 19
    return model


QDQ_CONV = """
<ir_version: 10, opset_import: ["" : 21]>
qdq_conv (float[1,16,8,8] x) => (float[1,16,8,8] y)
<float[16,16,3,3] w, float s = {{0.05}}, float[16] ws = {{{scales}}}, int8 z = {{0}},
 int8[16] wz = {{{zeros}}}>
{{
    [q_x] xq = QuantizeLinear (x, s, z)
    [dq_x] xd = DequantizeLinear (xq, s, z)
    [q_w] wq = QuantizeLinear <axis={axis}> (w, ws, wz)
    [dq_w] wd = DequantizeLinear <axis={axis}> (wq, ws, wz)
    [conv] c = {op} <kernel_shape=[3,3], pads=[1,1,1,1]> (xd, wd)
    [relu] y = Relu (c)
}}
"""

QDQ_MATMUL = """
<ir_version: 10, opset_import: ["" : 21]>
qdq_matmul (float[8,64] x) => (float[8,64] y)
<float[64,64] w, float s = {{0.05}}, float[64] ws = {{{scales}}}, int8 z = {{0}},
 int8[64] wz = {{{zeros}}}>
{{
    [q_x] xq = QuantizeLinear (x, s, z)
    [dq_x] xd = DequantizeLinear (xq, s, z)
    [q_w] wq = QuantizeLinear <axis={axis}> (w, ws, wz)
    [dq_w] wd = DequantizeLinear <axis={axis}> (wq, ws, wz)
    [matmul] c = MatMul (xd, wd)
    [relu] y = Relu (c)
}}
"""

ATTENTION = """
<ir_version: 10, opset_import: ["" : 21]>
attention (float[2,64,64] x) => (float[2,64,64] y)
<float[64,64] wq, float[64,64] wk, float[64,64] wv, float[64,64] wo>
{
    [query] q = MatMul (x, wq)
    [key] k = MatMul (x, wk)
    [value] v = MatMul (x, wv)
    [turn] kt = Transpose <perm=[0,2,1]> (k)
    [scores] s = MatMul (q, kt)
    [softmax] p = Softmax <axis=-1> (s)
    [mix] m = MatMul (p, v)
    [out] y = MatMul (m, wo)
}
"""

ODD_NAMES = """
<ir_version: 10, opset_import: ["" : 21]>
odd_names (float[4,16] x) => (float[4,16] y) <float[16,16] w>
{
    a = MatMul (x, w)
    b = MatMul (a, w)
    c = MatMul (b, w)
    d = MatMul (c, w)
    y = MatMul (d, w)
}
"""
NAMES = (
    "a]b[c, LayerType: gemm, Inputs: [ { Name: z, Dimensions: [3], Datatype: Int8 }]",
    "two\nName: lines, LayerType: gemm",
    "[ONNX Layer: nested]",
    "q'uote\\ \t é 漢",
    "",
)


def parse(text: str) -> onnx.ModelProto:
    """Return the model of an ONNX text; declared values that no node makes become float weights."""
    model = onnx.parser.parse_model(text)
    made = {name for node in model.graph.node for name in node.output}
    random = np.random.default_rng(0)
    for value in model.graph.value_info:
        if value.name not in made:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            array = random.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    onnx.checker.check_model(model)
    return model


def qdq(text: str, axis: int, op: str = "Conv") -> onnx.ModelProto:
    """Return one of the Q/DQ models above with the weight's scales along ``axis``."""
    count = 16 if text is QDQ_CONV else 64
    scales, zeros = ", ".join(["0.01"] * count), ", ".join(["0"] * count)
    return parse(text.format(axis=axis, op=op, scales=scales, zeros=zeros))


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with float16 in place of float32 everywhere."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    del model.graph.value_info[:]
    return model


def odd_names() -> onnx.ModelProto:
    """Return a chain of MatMul nodes with names that look like parts of a dump."""
    model = parse(ODD_NAMES)
    for node, name in zip(model.graph.node, NAMES, strict=True):
        node.name = name
    return model


def small_bert() -> onnx.ModelProto:
    """Return one encoder layer of BERT over 16 tokens, with embeddings and pooling."""
    return fixed_batch(models.bert(models.BertSize(1, 64, 2, 128, 100, 16), sequence=16))


def golden_jobs() -> dict[str, Job]:
    """Return what the golden files were built from."""
    fp8 = ml_dtypes.float8_e4m3fn
    return {
        "conv_int8": (qdq(QDQ_CONV, axis=0), ("SM89",)),
        "conv_int8_axis1": (qdq(QDQ_CONV, axis=1), ("SM89",)),
        "conv_transpose_int8": (qdq(QDQ_CONV, axis=1, op="ConvTranspose"), ("SM89",)),
        "matmul_int8": (qdq(QDQ_MATMUL, axis=1), ("SM89",)),
        "matmul_int8_axis0": (qdq(QDQ_MATMUL, axis=0), ("SM89",)),
        "odd_names": (odd_names(), ("SM89",)),
        "attention_fp16": (half(parse(ATTENTION)), ("SM89",)),
        "resnet50_int8": (with_qdq(fixed_batch(models.resnet50()), np.int8), ("SM89",)),
        "conv_int8_sm75": (half(qdq(QDQ_CONV, axis=0)), ("SM75", "SM89")),
        "bert_fp32": (small_bert(), ("SM89",)),
        "bert_int8": (with_qdq(small_bert(), np.int8), ("SM89",)),
        "resnet50_fp8": (with_qdq(fixed_batch(models.resnet50()), fp8), ("SM89",)),
    }


def _main(folder: str | None) -> None:
    if folder is not None:
        for path in Path(folder).glob("*.onnx"):
            targets = json.loads(path.with_suffix(".json").read_text())
            dump = _build(path.read_bytes(), targets)
            path.with_suffix(".txt").write_text(dump, encoding="utf-8")
        return
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, dump in build_dumps(golden_jobs()).items():
        if len(dump) < 8000:
            (GOLDEN / f"{name}.txt").write_text(dump, encoding="utf-8")
        else:
            (GOLDEN / f"{name}.txt.gz").write_bytes(gzip.compress(dump.encode(), mtime=0))


if __name__ == "__main__":
    _main(sys.argv[1] if len(sys.argv) > 1 else None)
