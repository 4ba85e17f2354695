"""Operators written out by ONNX's own function body, with equal outputs, and built by TensorRT."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import (
    assert_close,
    build_converted,
    case,
    check_suite_case,
    convert,
    evaluate,
    needs_tensorrt,
    reference,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.convert.own_body import OwnBody

NAMES = suite(
    "causal_conv_with_state", "flexattention", "linear_attention", "nllloss", "sce_", "swiglu"
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_suite_case_keeps_its_outputs(name: str) -> None:
    after, count = check_suite_case(name)
    assert count >= 1
    assert {op.rpartition("::")[2] for op in OwnBody.ops}.isdisjoint(
        node.op_type for node in after.graph.node
    )


def test_subgraphs_come_along() -> None:
    after, _, _ = convert(case("linear_attention_gated_delta").model)
    assert "Scan" in [node.op_type for node in after.graph.node]


def test_omitted_outputs_keep_the_places_of_the_others() -> None:
    model = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[3,5] x, int64[3] t) => (float[3,5] p) {
        loss, p = SoftmaxCrossEntropyLoss (x, t)
    }"""
    after, _, _ = convert(model)
    feeds = {"x": np.eye(3, 5, dtype=np.float32), "t": np.array([0, 4, 2])}
    before = reference(onnx.parser.parse_model(model), feeds)
    assert_close([evaluate(after, feeds)["p"]], [before["p"]], rtol=1e-6, atol=1e-7)


def test_an_omitted_last_output_stays_omitted() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(case("causal_conv_with_state_silu").model)
    model.graph.node[0].output[1] = ""
    del model.graph.output[1]
    after, _, _ = convert(model)
    ((inputs, expected),) = case("causal_conv_with_state_silu").data_sets
    feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
    # the suite's own tolerance
    assert_close(list(evaluate(after, feeds).values()), expected[:1], rtol=1e-3, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]),
    st.sampled_from(["none", "sum", "mean"]),
    st.sampled_from([None, 0, 2, 9]),
    st.booleans(),
    st.sampled_from([12, 13]),
)
def test_any_loss_keeps_its_value(  # noqa: PLR0917  # one argument per option of the operators
    space: list[int], op: str, reduction: str, ignored: int | None, weighted: bool, opset: int
) -> None:
    random = np.random.default_rng(len(space))
    feeds = {
        "x": random.standard_normal((2, 4, *space)).astype(np.float32),
        "t": random.integers(0, 4, (2, *space)),
    }
    if ignored is not None and feeds["t"].size > 1:
        feeds["t"].flat[0] = ignored
        feeds["t"].flat[1] = 1  # not all are ignored: a mean of nothing is no number
    elif ignored == 9:
        ignored = None
    if weighted:
        feeds["w"] = np.linspace(0.5, 2.0, 4, dtype=np.float32)
    expected = reference(_loss(op, feeds, reduction, ignored, opset), feeds)
    found = evaluate(convert(_loss(op, feeds, reduction, ignored, opset))[0], feeds)
    # sums of at most 54 terms, whose order differs
    assert_close(list(found.values()), list(expected.values()), rtol=1e-5, atol=1e-5)


def _loss(
    op: str, feeds: dict[str, np.ndarray], reduction: str, ignored: int | None, opset: int
) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    extra = {} if ignored is None else {"ignore_index": ignored}
    node = onnx.helper.make_node(op, list(feeds), ["l"], reduction=reduction, **extra)
    dims = feeds["t"].shape if reduction == "none" else ()
    output = onnx.helper.make_tensor_value_info("l", onnx.TensorProto.FLOAT, dims)
    graph = onnx.helper.make_graph([node], "g", inputs, [output])
    return onnx.helper.make_model(
        graph, ir_version=7, opset_imports=[onnx.helper.make_opsetid("", opset)]
    )


@needs_tensorrt
def test_tensorrt_builds_one_of_each_operator() -> None:
    names = (
        "causal_conv_with_state_silu_with_past_state", "flexattention_causal_mask",
        "linear_attention_gated_delta_gqa", "nllloss_NCd1d2d3_sum_weight_high_ii",
        "sce_NCd1d2d3d4d5_mean_weight", "sce_mean_weight_ii_log_prob", "swiglu_float16",
    )  # fmt: skip
    build_converted({name: case(name).model for name in names})
