"""Each quantized type, for each target that takes it: it builds, runs in the type, stays close."""

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from layer_dumps import HAVE_TENSORRT, build_dumps
from trtforge_plugins.engine_layers import parse_layers
from trtforge_plugins.macs import heavy_nodes
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.join_products import JoinProducts
from trtforge_plugins.precision.placement import points_to_measure
from trtforge_plugins.precision.quantize_weights import QuantizeWeights
from trtforge_plugins.prove_precision import asked_types, prove

from trtforge import CastTo, Context, Pass, PrecisionProof, Quantized, Range, Ranges, Request
from trtforge.compare import compare
from trtforge.reference import Reference

pytestmark = pytest.mark.skipif(
    not HAVE_TENSORRT, reason="not run: no TensorRT-RTX here (pip install tensorrt-rtx)"
)
CONVOLUTIONS = """
<ir_version: 10, opset_import: ["" : 23]>
convolutions (float[2,3,16,16] x) => (float[2,32] y)
<float[16,3,3,3] a, float[32,16,3,3] b, float[32,16,1,1] c, float[32,1,3,3] d, float[32,64,1,1] e,
 float[32,32] f, float[32] bias>
{
    [stem] x1 = Conv <pads=[1,1,1,1]> (x, a)
    [stem_relu] x2 = Relu (x1)
    [pool] x3 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x2)
    [main] x4 = Conv <pads=[1,1,1,1]> (x3, b, bias)
    [short] x5 = Conv (x3, c)
    [add] x6 = Add (x4, x5)
    [add_relu] x7 = Relu (x6)
    [depthwise] x8 = Conv <group=32, pads=[1,1,1,1]> (x7, d, bias)
    [join] x9 = Concat <axis=1> (x7, x8)
    [last] x10 = Conv (x9, e)
    [mean] x11 = GlobalAveragePool (x10)
    [flat] x12 = Flatten (x11)
    [fc] y = Gemm <transB=1> (x12, f, bias)
}
"""
ATTENTION = """
<ir_version: 10, opset_import: ["" : 23]>
attention (float[2,16,64] x) => (float[2,16,64] y)
<float[64,64] wq, float[64,64] wk, float[64,64] wv, float[64] b, float[64,64] wo,
 float[64,128] up, float[128,64] down, int64[4] heads = {0, 0, 4, 16}, int64[3] merged = {0, 0, 64},
 float root = {0.25}>
{
    [query] q0 = MatMul (x, wq)
    [query_bias] q = Add (q0, b)
    [key] k0 = MatMul (x, wk)
    [key_bias] k = Add (k0, b)
    [value] v0 = MatMul (x, wv)
    [value_bias] v = Add (v0, b)
    [q_heads] q1 = Reshape (q, heads)
    [q_turn] q2 = Transpose <perm=[0,2,1,3]> (q1)
    [k_heads] k1 = Reshape (k, heads)
    [k_turn] k2 = Transpose <perm=[0,2,3,1]> (k1)
    [v_heads] v1 = Reshape (v, heads)
    [v_turn] v2 = Transpose <perm=[0,2,1,3]> (v1)
    [scores] s = MatMul (q2, k2)
    [scale] s1 = Mul (s, root)
    [softmax] p = Softmax <axis=-1> (s1)
    [mix] o = MatMul (p, v2)
    [unturn] o1 = Transpose <perm=[0,2,1,3]> (o)
    [merge] o2 = Reshape (o1, merged)
    [out] o3 = MatMul (o2, wo)
    [residual] r = Add (o3, x)
    [up] h = MatMul (r, up)
    [gelu] h1 = Gelu (h)
    [down] y = MatMul (h1, down)
}
"""
AMPERE = ["SM80", "SM86", "SM89", "SM120", "SM121"]
ADA = ["SM89", "SM120", "SM121"]
BLACKWELL = ["SM120", "SM121"]
INT8, FP8, FP4 = ({"dtype": dtype} for dtype in ("int8", "float8e4m3fn", "float4e2m1"))
# Least cosine: each type's own rounding, times some for the depth. INT4 and NVFP4 have 3 bits of
# magnitude at most (a step is a seventh of the largest): about -18 dB each rounding.
CASES: dict[str, tuple[str, list[Pass], list[str], float]] = {
    "int8-convolutions": (CONVOLUTIONS, [InsertQDQ()], AMPERE, 0.995),
    "fp8-convolutions": (CONVOLUTIONS, [InsertQDQ(**FP8)], ADA, 0.99),
    "int8": (ATTENTION, [InsertQDQ()], ["SM75", *AMPERE], 0.995),
    "fp8": (ATTENTION, [InsertQDQ(**FP8)], ADA, 0.99),
    "int8-attention": (ATTENTION, [InsertQDQ(attention=True)], AMPERE, 0.99),
    "int8-joined": (ATTENTION, [JoinProducts(), InsertQDQ()], AMPERE, 0.99),
    "int8-joined-attention": (ATTENTION, [JoinProducts(), InsertQDQ(attention=True)], AMPERE, 0.99),
    "fp8-joined-attention": (
        ATTENTION, [JoinProducts(), InsertQDQ(attention=True, **FP8)], ADA, 0.99,
    ),
    "nvfp4": (ATTENTION, [InsertQDQ(**FP4)], BLACKWELL, 0.97),
    "nvfp4-joined": (ATTENTION, [JoinProducts(), InsertQDQ(**FP4)], BLACKWELL, 0.97),
    "int4": (ATTENTION, [QuantizeWeights(block_size=32)], AMPERE, 0.98),
    "int8-weights": (ATTENTION, [QuantizeWeights(dtype="int8")], AMPERE, 0.999),
    "int4-joined": (ATTENTION, [JoinProducts(), QuantizeWeights(block_size=16)], AMPERE, 0.98),
}  # fmt: skip


def feed_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def measured(model: ir.Model, feed: dict[str, np.ndarray]) -> Ranges:
    """The extremes of every tensor that a placement may ask for."""
    seen = model.clone()
    names = {str(point.tensor.name) for point in points_to_measure(seen)}
    for node in seen.graph:
        seen.graph.outputs.extend(value for value in node.outputs if value.name in names)
    arrays = {**feed, **Reference(seen, provider="cpu").run(feed)}
    found = {name: arrays[name] for name in names}
    ranges = {name: Range(float(a.min()), float(a.max())) for name, a in found.items()}
    return Ranges(ranges, "max", 1, "test")


def quantized(text: str, steps: list[Pass], feed: dict[str, np.ndarray]) -> Context:
    proto = onnx.shape_inference.infer_shapes(models.parse(text))
    ctx = Context(ir.from_proto(proto), Path(), Request("m"))
    for step in steps:
        if isinstance(step, InsertQDQ):
            ctx.put(measured(ctx.model, feed))
        step.run(ctx)
    Cast(to="float16").run(ctx)
    return ctx


def proofs(ctx: Context, targets: list[str]) -> dict[str, PrecisionProof]:
    proto = ir.to_proto(ctx.model)
    heavy = heavy_nodes(ctx.model)
    asked = asked_types([each.node for each in heavy], ctx.find(Quantized), ctx.find(CastTo))
    dumps = build_dumps({target: (proto, (target,)) for target in targets})
    return {target: prove(heavy, parse_layers(dump), asked) for target, dump in dumps.items()}


@pytest.mark.parametrize("case", CASES)
def test_it_builds_runs_in_the_type_and_stays_close(case: str):
    text, steps, targets, least = CASES[case]
    feed = feed_of(models.parse(text))
    ctx = quantized(text, steps, feed)
    asked = ctx.get(Quantized)
    for target, proof in proofs(ctx, targets).items():
        assert proof.holds, (target, proof.deviations, proof.unknown)
        stored = " weights" if asked.only_stored and asked.dtype == "int8" else ""
        assert proof.asked[asked.nodes[0]] == asked.dtype + stored
    before, after = (
        Reference(model, optimize=False, provider="cpu").run(feed)
        for model in (ir.from_proto(models.parse(text)), ctx.model)
    )
    (result,) = compare([before], [after])
    assert result.cosine > least


def test_joined_projections_are_written_by_one_kernel():
    """Queries, keys and values: three kernels write them, or one; attention writes its result
    where the next product reads it, or another kernel moves it (docs/quantization.md)."""
    feed = feed_of(models.parse(ATTENTION))
    steps: dict[str, list[Pass]] = {
        "plain": [InsertQDQ()],
        "joined": [JoinProducts(), InsertQDQ(attention=True)],
    }
    contexts = {name: quantized(ATTENTION, chosen, feed) for name, chosen in steps.items()}
    dumps = build_dumps(
        {name: (ir.to_proto(ctx.model), ("SM89",)) for name, ctx in contexts.items()}
    )
    layers = {name: parse_layers(dump).layers for name, dump in dumps.items()}
    assert len(layers["joined"]) == len(layers["plain"]) - 3
