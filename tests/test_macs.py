"""Multiply-accumulates against published figures and against counts by hand."""

from __future__ import annotations

import models
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtforge_plugins.macs import heavy_nodes, total_macs

from trtforge import RequestError


def read(body: str, inputs: str, domains: str = "") -> ir.Model:
    """Return a model of opset 23 whose nodes are ``body``; its output ``y`` has no stated shape."""
    text = f'<ir_version: 10, opset_import: ["" : 23{domains}]> g ({inputs}) => (y) {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def only(body: str, inputs: str) -> int | None:
    (heavy,) = heavy_nodes(read(body, inputs))
    return heavy.macs


def test_resnet50_has_the_published_count():
    # 4.09 G multiply-accumulates at 224x224: torchvision's model card of resnet50 (GFLOPS 4.09).
    model = ir.from_proto(models.resnet50())
    heavy = heavy_nodes(model, {"image": (1, 3, 224, 224)})
    assert len(heavy) == 54
    assert all(node.macs for node in heavy)
    assert total_macs(heavy) == 4_089_184_256


def test_bert_base_with_128_tokens_has_the_count_of_a_hand_calculation():
    tokens, hidden, inner, layers = 128, 768, 3072, 12
    projections = 4 * tokens * hidden * hidden  # query, key, value and output
    attention = 2 * tokens * tokens * hidden  # scores, and their product with the values
    feed_forward = 2 * tokens * hidden * inner
    by_hand = layers * (projections + attention + feed_forward)
    assert by_hand == 11_173_625_856

    size = models.BertSize(layers, hidden, 12, inner, vocabulary=8, positions=tokens)
    model = ir.from_proto(models.bert(size, sequence=tokens))
    shapes = {value.name: (1, tokens) for value in model.graph.inputs}
    heavy = heavy_nodes(model, shapes)
    encoder = [node for node in heavy if node.macs != hidden * hidden]  # leave out a pooler
    assert total_macs(encoder) == by_hand


@pytest.mark.parametrize(
    ("body", "inputs", "expected"),
    [
        ("y = Conv (x, w)", "float[2,8,10,10] x, float[16,8,3,3] w", 2 * 16 * 8 * 8 * (8 * 9)),
        ("y = Conv <group=8> (x, w)", "float[1,8,10,10] x, float[8,1,3,3] w", 8 * 8 * 8 * 9),
        ("y = Conv (x, w)", "float[1,4,10] x, float[6,4,3] w", 6 * 8 * 12),
        (
            "y = ConvTranspose <strides=[2,2]> (x, w)",
            "float[1,8,5,5] x, float[8,4,2,2] w",
            8 * 5 * 5 * (4 * 2 * 2),
        ),
        ("y = MatMul (a, b)", "float[2,3,4] a, float[4,5] b", 2 * 3 * 4 * 5),
        ("y = MatMul (a, b)", "float[4] a, float[4,5] b", 4 * 5),
        ("y = MatMul (a, b)", "float[4] a, float[4] b", 4),
        ("y = Gemm <transA=1, transB=1> (a, b)", "float[4,3] a, float[5,4] b", 3 * 4 * 5),
        ('y = Einsum <equation="bij,bjk->bik"> (a, b)', "float[2,3,4] a, float[2,4,5] b", 120),
        ("y = MatMulInteger (a, b)", "int8[3,4] a, int8[4,5] b", 60),
        ("y = ConvInteger (x, w)", "int8[1,8,10,10] x, int8[16,8,3,3] w", 16 * 64 * 72),
        (
            "y = QLinearConv (x, s, z, w, s, z, s, z)",
            "int8[1,8,10,10] x, int8[16,8,3,3] w, float s, int8 z",
            16 * 64 * 72,
        ),
        (
            "y = QLinearMatMul (a, s, z, b, s, z, s, z)",
            "int8[3,4] a, int8[4,5] b, float s, int8 z",
            60,
        ),
        (
            "y = Attention (q, k, v)",
            "float[1,4,10,8] q, float[1,2,20,8] k, float[1,2,20,16] v",
            4 * 10 * 20 * (8 + 16),
        ),
        (
            "y = Attention <q_num_heads=4, kv_num_heads=2> (q, k, v)",
            "float[1,10,32] q, float[1,20,16] k, float[1,20,32] v",
            4 * 10 * 20 * (8 + 16),
        ),
        (
            "y = LSTM <hidden_size=16> (x, w, r)",
            "float[5,2,8] x, float[1,64,8] w, float[1,64,16] r",
            5 * 2 * 4 * 16 * (8 + 16),
        ),
        (
            'y = GRU <hidden_size=16, direction="bidirectional"> (x, w, r)',
            "float[5,2,8] x, float[2,48,8] w, float[2,48,16] r",
            5 * 2 * 2 * 3 * 16 * (8 + 16),
        ),
    ],
)
def test_counts_by_hand(body: str, inputs: str, expected: int):
    assert only(body, inputs) == expected


sizes = st.integers(1, 9)


@given(m=sizes, k=sizes, n=sizes)
def test_a_1x1_convolution_costs_what_its_matrix_product_costs(m: int, k: int, n: int):
    product = only("y = MatMul (a, b)", f"float[{m},{k}] a, float[{k},{n}] b")
    convolution = only("y = Conv (x, w)", f"float[1,{k},1,{m}] x, float[{n},{k},1,1] w")
    assert product == convolution == m * k * n


def test_a_dynamic_dimension_is_bound_through_all_inputs_that_share_its_name():
    model = read(
        "c = Concat <axis=0> (a, b) y = MatMul (c, w)", "float[N,4] a, float[N,4] b, float[4,5] w"
    )
    (heavy,) = heavy_nodes(model, {"a": (3, 4)})
    assert heavy.macs is None  # the shape of b was not given
    (heavy,) = heavy_nodes(model, {"a": (3, 4), "b": (3, 4)})
    assert heavy.macs == 6 * 4 * 5
    assert str(model.graph.inputs[0].shape) == "[N,4]"  # the model itself is left alone


def test_what_is_not_known_is_not_guessed():
    model = read("y = MatMul (a, b)", "float[N,4] a, float[4,5] b")
    (heavy,) = heavy_nodes(model)
    assert heavy.macs is None
    assert "dynamic shape [N,5]" in heavy.reason
    (heavy,) = heavy_nodes(
        read('y = Einsum <equation="...ij,jk"> (a, b)', "float[3,4] a, float[4,5] b")
    )
    assert "ellipsis" in heavy.reason


def test_a_shape_that_contradicts_the_model_is_refused():
    model = read("y = MatMul (a, b)", "float[N,4] a, float[4,5] b")
    with pytest.raises(RequestError, match=r"input 'a': shape \[3, 7\] does not fit \[N,4\]"):
        heavy_nodes(model, {"a": (3, 7)})
    with pytest.raises(RequestError, match="does not fit"):
        heavy_nodes(model, {"a": (3, 4, 1)})


def test_nodes_in_a_branch_and_calls_of_heavy_functions_are_listed_without_a_count():
    text = """
    <ir_version: 10, opset_import: ["" : 21, "f" : 1]>
    g (float[2,2] x, bool c) => (y)
    {
        h = f.Twice (x)
        y = If (c) <
            then_branch = yes () => (t) { [inner] t = MatMul (h, h) },
            else_branch = no () => (e) { e = Identity (h) }
        >
    }
    <domain: "f", opset_import: ["" : 21]> Twice (a) => (b) { b = MatMul (a, a) }
    """
    heavy = heavy_nodes(ir.from_proto(onnx.parser.parse_model(text)))
    assert [(node.name, node.macs) for node in heavy] == [("Twice -> h", None), ("inner", None)]
    assert "function" in heavy[0].reason
    assert "subgraph" in heavy[1].reason
