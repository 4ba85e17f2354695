"""Models that each piece of advice applies to, and what the recipe's change makes of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import layer_dumps
import numpy as np
import onnx
import onnx_ir as ir
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.join_products import JoinProducts

from trtforge import Batches, Context, Request, Step

HALF_QUANTIZED = """
<ir_version: 10, opset_import: ["" : 21]>
half_quantized (float[64,256] x) => (float[64,256] y)
<float[256,256] w, float[256,256] v, float s = {0.05}, int8 z = {0}>
{
    [first] a = MatMul (x, w)
    [q] aq = QuantizeLinear (a, s, z)
    [dq] ad = DequantizeLinear (aq, s, z)
    [second] y = MatMul (ad, v)
}
"""
NOT_QUANTIZED = """
<ir_version: 10, opset_import: ["" : 21]>
not_quantized (float[64,256] x) => (float[64,256] y) <float[256,256] w, float[256,256] v>
{
    [first] a = MatMul (x, w)
    [second] y = MatMul (a, v)
}
"""
LONE_DEQUANTIZER = """
<ir_version: 10, opset_import: ["" : 21]>
lone_dequantizer (float[64,256] x) => (float[64,256] y)
<float[256,256] w, float[16,256] v, float s = {0.05}, int8 z = {0}, int64[1] k = {16}>
{
    [first] a = MatMul (x, w)
    [q] aq = QuantizeLinear (a, s, z)
    [dq] ad = DequantizeLinear (aq, s, z)
    [top] b, places = TopK (ad, k)
    [second] y = MatMul (b, v)
}
"""
NO_LONE_DEQUANTIZER = """
<ir_version: 10, opset_import: ["" : 21]>
no_lone_dequantizer (float[64,256] x) => (float[64,256] y)
<float[256,256] w, float[16,256] v, int64[1] k = {16}>
{
    [first] a = MatMul (x, w)
    [top] b, places = TopK (a, k)
    [second] y = MatMul (b, v)
}
"""
COUNTS_ROWS = """
<ir_version: 10, opset_import: ["" : 21]>
counts_rows (float[N,64] x) => (float[N,64] y) <float[64,64] w, int64[1] zero = {0}>
{
    [first] a = MatMul (x, w)
    [shape] s = Shape (x)
    [rows] n = Gather <axis=0> (s, zero)
    [number] f = Cast <to=1> (n)
    [mean] y = Div (a, f)
}
"""


@dataclass(frozen=True)
class Pair:
    """A model before and after what the advice ``code`` says."""

    code: str
    before: onnx.ModelProto
    after: onnx.ModelProto


def pairs() -> tuple[Pair, ...]:
    """Return a pair for each advice that a build can check."""
    attention = layer_dumps.half(layer_dumps.parse(layer_dumps.ATTENTION))
    rows = layer_dumps.parse(COUNTS_ROWS)
    fixed = layer_dumps.fixed_batch(layer_dumps.parse(COUNTS_ROWS), 4)
    bert = layer_dumps.small_bert()
    plain = layer_dumps.parse(NOT_QUANTIZED)
    return (
        Pair("float32-products", bert, after(bert, Cast(to="float16"))),
        Pair(
            "unfused-qdq",
            layer_dumps.parse(HALF_QUANTIZED),
            after(plain, CalibrateMax(), InsertQDQ()),
        ),
        Pair(
            "lone-quantizers",
            layer_dumps.parse(LONE_DEQUANTIZER),
            layer_dumps.parse(NO_LONE_DEQUANTIZER),
        ),
        Pair("many-copies", attention, after(attention, JoinProducts())),
        Pair("host-copies", rows, fixed),
    )


def after(model: onnx.ModelProto, *steps: Step) -> onnx.ModelProto:
    """Return what ``steps`` make of ``model``, which stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(ir.from_proto(copy), Path(folder), Request(source="m"))
        data = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
        ctx.put(Batches(({"x": data},), "made up", real=False))
        for step in steps:
            step.run(ctx)
        return ir.to_proto(ctx.model)
