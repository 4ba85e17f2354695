"""A precision that TensorRT does not keep must be found; one that it keeps must be proven."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from layer_dumps import (
    ATTENTION,
    HAVE_TENSORRT,
    QDQ_CONV,
    QDQ_MATMUL,
    Job,
    build_dumps,
    fixed_batch,
    golden,
    half,
    odd_names,
    parse,
    qdq,
    with_qdq,
)
from trtforge_plugins.computing_type import computing_types
from trtforge_plugins.engine_layers import parse_layers
from trtforge_plugins.macs import heavy_nodes
from trtforge_plugins.prove_precision import ProvePrecision, asked_types, prove

from trtforge import (
    CastTo,
    Context,
    Dims,
    Engine,
    EngineLayer,
    EngineLayers,
    LayerTensor,
    PrecisionProof,
    Quantized,
    Request,
    RequestError,
    ShapeRange,
)


def proof_of(model: onnx.ModelProto, dump: str) -> PrecisionProof:
    """Prove what the Q/DQ nodes of ``model`` ask for."""
    heavy = heavy_nodes(ir.from_proto(model))
    asked = asked_types([node.node for node in heavy], None, None)
    return prove(heavy, parse_layers(dump), asked)


# Golden dumps: what builds although it is not low precision, and what is.


@pytest.mark.parametrize(
    ("name", "model", "node", "runs_in"),
    [
        ("conv_int8_axis1", qdq(QDQ_CONV, axis=1), "conv", "float32"),
        ("conv_transpose_int8", qdq(QDQ_CONV, axis=1, op="ConvTranspose"), "conv", "float32"),
        ("matmul_int8_axis0", qdq(QDQ_MATMUL, axis=0), "matmul", "float32"),
        ("conv_int8_sm75", half(qdq(QDQ_CONV, axis=0)), "conv", "float16"),
    ],
)
def test_a_missed_precision_is_found(name: str, model: onnx.ModelProto, node: str, runs_in: str):
    proof = proof_of(model, golden(name))
    assert not proof.holds
    assert proof.deviations[node].startswith(f"asked for int8, runs in {runs_in}: layer ")
    (share,) = proof.shares
    assert (share.dtype, share.share) == (runs_in, 1.0)


@pytest.mark.parametrize(
    ("name", "model"),
    [("conv_int8", qdq(QDQ_CONV, axis=0)), ("matmul_int8", qdq(QDQ_MATMUL, axis=1))],
)
def test_a_kept_precision_is_proven(name: str, model: onnx.ModelProto):
    proof = proof_of(model, golden(name))
    assert proof.holds
    assert proof.asked
    assert [share.dtype for share in proof.shares] == ["int8"]


def test_all_of_resnet50_runs_in_int8():
    model = with_qdq(fixed_batch(models.resnet50()), np.int8)
    proof = proof_of(model, golden("resnet50_int8"))
    assert proof.holds
    assert len(proof.asked) == 54
    assert proof.total_macs == proof.shares[0].macs == 4_089_184_256


def test_the_fp8_stem_of_resnet50_silently_runs_in_float32():
    import ml_dtypes

    model = with_qdq(fixed_batch(models.resnet50()), ml_dtypes.float8_e4m3fn)
    proof = proof_of(model, golden("resnet50_fp8"))
    assert list(proof.deviations) == ["stem"]
    fp8, float32 = proof.shares
    assert (fp8.dtype, float32.dtype, float32.nodes) == ("float8e4m3fn", "float32", ("stem",))
    assert float32.macs == 64 * 112 * 112 * 3 * 7 * 7
    assert fp8.share == pytest.approx(0.9711, abs=1e-4)  # a rounded figure


def test_fused_attention_and_merged_projections_are_attributed_to_their_nodes():
    proof = proof_of(half(parse(ATTENTION)), golden("attention_fp16"))
    (share,) = proof.shares
    assert share.dtype == "float16"
    assert set(share.nodes) == {"query", "key", "value", "scores", "mix", "out"}
    assert not proof.unknown


# What was asked


def test_the_recipe_says_what_was_asked():
    heavy = heavy_nodes(ir.from_proto(parse(ATTENTION)))
    nodes = [node.node for node in heavy]
    asked = asked_types(
        nodes, Quantized("int8", ("query",)), CastTo("float16", {"mix": "it overflows"})
    )
    assert asked["query"] == "int8"
    assert asked["mix"] == "float32"
    assert asked["out"] == "float16"


def test_a_node_that_was_asked_for_and_is_gone_counts_as_unknown():
    heavy = heavy_nodes(ir.from_proto(qdq(QDQ_CONV, axis=0)))
    proof = prove(heavy, parse_layers(golden("conv_int8")), {"conv": "int8", "gone": "int8"})
    assert proof.unknown == ("gone",)
    assert not proof.holds


def test_the_older_engine_of_another_type_is_noticed():
    model = ir.from_proto(odd_names())
    heavy = heavy_nodes(model)
    asked = asked_types([node.node for node in heavy], None, CastTo("float16", {}))
    proof = prove(heavy, parse_layers(golden("odd_names")), asked)
    assert len(proof.deviations) == 5
    assert all("runs in float32" in text for text in proof.deviations.values())


def test_a_node_without_a_layer_is_unknown():
    heavy = heavy_nodes(ir.from_proto(qdq(QDQ_CONV, axis=0)))
    proof = prove(heavy, parse_layers(golden("matmul_int8")), {})
    assert proof.unknown == ("conv",)


def test_a_node_that_depends_on_constants_only_may_be_missing():
    model = parse(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[4,16] x) => (float[4,16] y) <float[16,16] w>
        {
            [folded] v = MatMul (w, w)
            [product] y = MatMul (x, v)
        }
        """
    )
    heavy = heavy_nodes(ir.from_proto(model))
    dump = EngineLayers((layer("gemm", "product", "float32", "float32", nodes=("product",)),))
    proof = prove(heavy, dump, {})
    assert proof.unknown == ()
    assert proof.total_macs == 4 * 16 * 16


# The rules for one layer


def layer(
    kind: str, name: str, inputs: str, constants: str = "", nodes: tuple[str, ...] = ()
) -> EngineLayer:
    def tensors(dtypes: str) -> tuple[LayerTensor, ...]:
        return tuple(LayerTensor("t", dtype, (8, 8)) for dtype in dtypes.split())

    return EngineLayer(name, kind, tensors(inputs), tensors(constants), (), nodes)


@pytest.mark.parametrize(
    ("engine_layer", "types"),
    [
        (layer("gemm", "fc_myl0_1", "int8", "int8 float32"), {"int8"}),
        (layer("gemm", "fc_myl0_1", "int8", "float16"), set()),  # one low operand proves nothing
        (layer("gemm", "fc", "float4e2m1 float8e4m3fn", "float4e2m1"), {"float4e2m1"}),
        (layer("runtime_fusion", "__myl_CastMulCastFc_myl0_0", "float16", "int4"), {"float16"}),
        (layer("runtime_fusion", "__myl_CastMulFc_myl0_0", "int8", "float16"), {"float16"}),
        (layer("runtime_fusion", "__myl_FcMulAdd_myl0_0", "int8", "int8 float16"), {"int8"}),
        (layer("kgen", "__myl_ReshMulSum_myl0_0", "float16", "float16"), {"float16"}),
        (layer("kgen", "__myl_AddRelu_myl0_0", "int8", "int8"), set()),
        (layer("kgen", "_gemm_mha_v2_myl0_0", "int8 int8 float16 int8"), {"int8"}),
        (layer("kgen", "_gemm_mha_v2_myl0_0", "int8 int8 float16 float16"), set()),
        (layer("kgen", "_gemm_mha_v2_myl0_0", "float16 float16 float16 int8"), set()),
    ],
)
def test_the_type_in_which_a_layer_multiplies(engine_layer: EngineLayer, types: set[str]):
    assert computing_types(engine_layer) == types


# Real builds


def two_equal_products() -> onnx.ModelProto:
    return parse(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[4,16] x) => (float[4,16] y) <float[16,16] w>
        {
            [first] a = MatMul (x, w)
            [second] b = MatMul (x, w)
            [relu] c = Relu (b)
            [add] y = Add (a, c)
        }
        """
    )


def recurrent() -> onnx.ModelProto:
    return parse(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[5,2,8] x) => (float[5,1,2,16] y) <float[1,64,8] w, float[1,64,16] r>
        { [lstm] y = LSTM <hidden_size=16> (x, w, r) }
        """
    )


def unfused_in_float16() -> onnx.ModelProto:
    return half(qdq(QDQ_MATMUL, axis=0))


def single_row() -> onnx.ModelProto:
    """A product so small that TensorRT spells it out as Mul and Sum."""
    return half(
        parse(
            """
            <ir_version: 10, opset_import: ["" : 21]>
            g (float[1,64] x) => (float[1,64] y) <float[64,64] w> { [mm] y = MatMul (x, w) }
            """
        )
    )


LIVE: dict[str, tuple[Job, dict[str, str], set[str]]] = {
    "conv": ((qdq(QDQ_CONV, axis=0), ("SM86",)), {"conv": "int8"}, set()),
    "conv_axis1": ((qdq(QDQ_CONV, axis=1), ("SM120",)), {"conv": "float32"}, {"conv"}),
    "deconv": (
        (qdq(QDQ_CONV, axis=1, op="ConvTranspose"), ("SM80",)),
        {"conv": "float32"},
        {"conv"},
    ),
    "turing": ((half(qdq(QDQ_CONV, axis=0)), ("SM75",)), {"conv": "float16"}, {"conv"}),
    "matmul": ((qdq(QDQ_MATMUL, axis=1), ("SM80",)), {"matmul": "int8"}, set()),
    "matmul_axis0": ((unfused_in_float16(), ("SM89",)), {"matmul": "float16"}, {"matmul"}),
    "equal": ((two_equal_products(), ("SM89",)), {"first": "float32", "second": "float32"}, set()),
    "lstm": ((recurrent(), ("SM89",)), {"lstm": "float32"}, set()),
    "row": ((single_row(), ("SM89",)), {"mm": "float16"}, set()),
}


@pytest.fixture(scope="module")
def live_dumps() -> dict[str, str]:
    return build_dumps({name: job for name, (job, _, _) in LIVE.items()})


@pytest.mark.skipif(
    not HAVE_TENSORRT, reason="tensorrt_rtx is not installed: no engine can be built to prove"
)
@pytest.mark.parametrize("name", LIVE)
def test_fresh_builds_agree_with_the_rules(name: str, live_dumps: dict[str, str]):
    (model, _), types, deviating = LIVE[name]
    proof = proof_of(model, live_dumps[name])
    found = {node: share.dtype for share in proof.shares for node in share.nodes}
    assert found == types
    assert set(proof.deviations) == deviating
    assert not proof.unknown


# The step


def context(folder: Path, model: onnx.ModelProto, dump: str, request: Request) -> Context:
    path = folder / "layers.txt"
    path.write_text(dump, encoding="utf-8")
    ctx = Context(ir.from_proto(model), folder, request)
    engine = folder / "engine"
    ctx.put(Engine(engine, "tensorrt_rtx", "1.7.1", ("sm_89",), 1, 0.1, layer_dump=path))
    return ctx


def test_the_step_gives_the_proof_with_shapes_of_the_first_profile(tmp_path: Path):
    profile = {"x": ShapeRange(Dims("1x16x8x8"), Dims("4x16x8x8"), Dims("8x16x8x8"))}
    request = Request("model.onnx", profiles=(profile,))
    model = qdq(QDQ_CONV, axis=1)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    ctx = context(tmp_path, model, golden("conv_int8_axis1"), request)
    ctx.put(Quantized("int8", ("conv",)))
    assert ProvePrecision().run(ctx) == 0
    proof = ctx.get(PrecisionProof)
    assert proof.total_macs == 4 * 16 * 8 * 8 * 16 * 9
    assert list(proof.deviations) == ["conv"]
    assert ctx.get(EngineLayers).layers


def test_the_step_notes_what_it_could_not_count(tmp_path: Path):
    model = odd_names()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    ctx = context(tmp_path, model, golden("odd_names"), Request("model.onnx"))
    ProvePrecision().run(ctx)
    assert "not counted" in ctx.notes[0].text
    (share,) = ctx.get(PrecisionProof).shares
    assert (share.macs, share.share) == (0, 0.0)


def test_the_step_refuses_a_profile_of_another_rank(tmp_path: Path):
    profile = {"x": ShapeRange(Dims("1x2"), Dims("1x2"), Dims("1x2"))}
    request = Request("model.onnx", profiles=(profile,))
    ctx = context(tmp_path, qdq(QDQ_CONV, axis=0), golden("conv_int8"), request)
    with pytest.raises(RequestError, match="input 'x'"):
        ProvePrecision().run(ctx)
