"""Attention: what TensorRT has a kernel for stays one node, the rest is written out, all equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conversion import (
    assert_close,
    build_converted,
    check_suite_case,
    convert,
    needs_tensorrt,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.convert.own_body import function_body

from trtforge.testing import run_model


@pytest.mark.parametrize("name", suite("attention_"))
def test_suite_case_keeps_its_outputs(name: str) -> None:
    after, count = check_suite_case(name)
    assert count == 1, "no case of the suite has the types and head sizes of TensorRT's kernels"
    assert "Attention" not in ops(after)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def attention(  # noqa: PLR0917  # each argument is one thing that a form differs in
    dtype: str = "float16",
    opset: int = 25,
    heads: tuple[int, int] = (4, 2),
    sizes: tuple[int, int] = (16, 16),
    attributes: str = "",
    more: dict[int, str] | None = None,
    outputs: str = "y",
) -> str:
    """A 4-D Attention of 3 queries and 5 keys; ``more`` has types of the inputs after the value."""
    inputs = [
        f"{dtype}[2,{heads[0]},3,{sizes[0]}] q",
        f"{dtype}[2,{heads[1]},5,{sizes[0]}] k",
        f"{dtype}[2,{heads[1]},5,{sizes[1]}] v",
    ]
    names = ["q", "k", "v"]
    for index in range(3, max(more or {0: ""}) + 1):
        names.append(f"in{index}" if index in (more or {}) else '""')
        if more and index in more:
            inputs.append(f"{more[index]} in{index}")
    given_as = f"<{attributes}>" if attributes else ""
    declared = ", ".join(f"{dtype}[{n}0,{n}1,{n}2,{n}3] {n}" for n in outputs.split(","))
    return (
        f'<ir_version: 11, opset_import: ["" : {opset}]> g ({", ".join(inputs)}) => ({declared}) '
        f"{{ [att] {outputs} = Attention {given_as} ({','.join(names)}) }}"
    )


PAST = {4: "float16[2,2,6,16]", 5: "float16[2,2,6,16]"}
KERNEL_TAKES = {
    "plain": attention(),
    "causal": attention(attributes="is_causal=1"),
    "mask": attention(more={3: "bool[3,5]"}),
    "scale": attention(attributes="scale=0.5"),
    "bfloat16": attention("bfloat16"),
}
KERNEL_STAYS = {
    "past": attention(more=PAST, outputs="y,pk,pv", attributes="is_causal=1"),
    "present": attention(outputs="y,pk,pv"),
    "window": attention(attributes="left_window_size=1"),
    "lengths": attention(more={6: "int64[2]"}, attributes="is_causal=1"),
    "mask and causal": attention(more={3: "float16[1,4,3,5]"}, attributes="is_causal=1"),
    "mask of another type": attention(more={3: "float[3,5]"}),
    "short mask": attention(more={3: "bool[3,4]", 6: "int64[2]"}),
}
WRITTEN_OUT = {
    "float32": attention("float"),
    "head size 8": attention(sizes=(8, 8)),
    "head sizes differ": attention(sizes=(16, 8)),
    "soft cap": attention(attributes="softcap=20.0"),
    "softmax in float32": attention(attributes="softmax_precision=1"),
    "scores": attention(outputs="y,pk,pv,scores", attributes="qk_matmul_output_mode=2"),
}


@pytest.mark.parametrize("form", KERNEL_TAKES)
def test_what_tensorrt_takes_is_not_touched(form: str) -> None:
    assert convert(KERNEL_TAKES[form])[1] == 0


@pytest.mark.parametrize("form", KERNEL_STAYS)
def test_the_kernel_stays_behind_caches_and_masks(form: str) -> None:
    after, _, _ = convert(KERNEL_STAYS[form])
    (node,) = [node for node in after.graph.node if node.op_type == "Attention"]
    assert len(node.input) <= 4
    assert len(node.output) == 1
    assert {"left_window_size", "right_window_size"}.isdisjoint(a.name for a in node.attribute)


@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_what_no_kernel_serves_is_written_out(form: str) -> None:
    after, _, _ = convert(WRITTEN_OUT[form])
    assert "Attention" not in ops(after)
    assert ops(after).count("MatMul") == 2


@needs_tensorrt
def test_tensorrt_builds_every_form() -> None:
    forms = {**KERNEL_TAKES, **KERNEL_STAYS, **WRITTEN_OUT}
    dumps = build_converted(forms)
    for name in {**KERNEL_TAKES, **KERNEL_STAYS}:
        assert "mha" in dumps[name], f"{name}: TensorRT's kernel for attention is not in use"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (attention("float").replace("q,", "q0,", 1).replace("4,3,16] q", "a,3,16] q"), "numbers"),
        (attention("float", attributes="scale=-1.0"), "no negative scale"),
        (attention("float").replace("float[2,2,5,16] v", "float16[2,2,5,16] v"), "one type"),
    ],
)
def test_refusals_say_why(model: str, reason: str) -> None:
    _, count, notes = convert(model.replace("q0,", "q,", 1))
    assert count == 0
    assert reason in notes[0].text


@st.composite
def attentions(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Any float32 Attention-25 with its feeds; the graph's shapes are static or open."""
    batch, kv_heads, groups, queries, keys = (draw(st.integers(1, 3)) for _ in range(5))
    size, value_size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    flat, cache = draw(st.booleans()), draw(st.sampled_from(["none", "past", "lengths"]))
    past = draw(st.integers(1, 3)) if cache == "past" else 0
    total = past + keys
    random = np.random.default_rng(draw(st.integers(0, 99)))

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def heads(count: int, length: int, width: int) -> np.ndarray:
        return normal(batch, length, count * width) if flat else normal(batch, count, length, width)

    feeds = {
        "q": heads(kv_heads * groups, queries, size),
        "k": heads(kv_heads, keys, size),
        "v": heads(kv_heads, keys, value_size),
    }
    masked = draw(st.sampled_from(["none", "bool", "float"]))
    if masked != "none":
        leading = draw(st.sampled_from([(), (1, 1), (batch, 1), (batch, kv_heads * groups)]))
        mask = normal(*leading, queries, total)
        feeds["m"] = mask > -0.5 if masked == "bool" else mask
    if cache == "past":
        feeds["pk"] = normal(batch, kv_heads, past, size)
        feeds["pv"] = normal(batch, kv_heads, past, value_size)
    if cache == "lengths":
        feeds["n"] = random.integers(1, keys + 1, batch)
    attributes: dict[str, Any] = {
        "is_causal": draw(st.integers(0, 1)),
        "left_window_size": draw(st.integers(-1, 2)),
        "right_window_size": draw(st.integers(-1, 2)),
        "qk_matmul_output_mode": draw(st.integers(0, 3)),
        **draw(st.sampled_from([{}, {"softcap": 2.0}, {"scale": 0.3}])),
        **({"q_num_heads": kv_heads * groups, "kv_num_heads": kv_heads} if flat else {}),
    }
    outputs = ["y", "pk_out", "pv_out", "scores"]
    if cache == "lengths":  # ONNX gives no present keys where the cache is outside
        outputs = ["y", "", "", "scores"]
    open_dims = draw(st.booleans())
    return _model(feeds, attributes, outputs, {"a"} if open_dims else set()), feeds


def _model(
    feeds: dict[str, np.ndarray], attributes: dict[str, Any], outputs: list[str], opened: set[str]
) -> onnx.ModelProto:
    names = [name if name in feeds else "" for name in ("q", "k", "v", "m", "pk", "pv", "n")]
    inputs = []
    for name, array in feeds.items():
        dims: list[int | str] = list(array.shape)
        if opened:  # the sequence and the batch; numbers of heads and sizes stay known
            dims[0] = f"{name}_batch"
            if len(dims) > 1:
                dims[-1 if name == "m" else -2] = f"{name}_length"
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(onnx.helper.make_tensor_value_info(name, kind, dims))
    node = onnx.helper.make_node("Attention", names, outputs, **attributes)
    results = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in outputs
        if name
    ]
    graph = onnx.helper.make_graph([node], "g", inputs, results)
    opset = onnx.helper.make_opsetid("", 25)
    return onnx.helper.make_model(graph, ir_version=11, opset_imports=[opset])


def with_own_body(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, its node a call of the function by which ONNX defines the operator."""
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model))
    body = function_body(next(iter(ir.from_proto(copy).graph)), 25)
    assert body is not None
    body.domain = copy.graph.node[0].domain = "body"
    made = {name for node in body.node for name in node.output}
    body.output[:] = [name for name in body.output if name in made]
    copy.graph.node[0].output[:] = [name for name in copy.graph.node[0].output if name]
    copy.opset_import.append(onnx.helper.make_opsetid("body", 1))
    copy.functions.append(body)
    return copy


@settings(max_examples=100, deadline=None)
@given(attentions())
def test_any_attention_keeps_its_outputs(
    drawn: tuple[onnx.ModelProto, dict[str, np.ndarray]],
) -> None:
    model, feeds = drawn
    # not the reference evaluator: its scores of mode 0 have the soft cap, against the function body
    expected = run_model(with_own_body(model), feeds)
    after, count, _ = convert(model)
    assert count == 1
    found = run_model(after, feeds)
    # the same sums of at most six products and one softmax, perhaps in another order
    assert_close(list(found.values()), list(expected.values()), rtol=1e-5, atol=1e-6)
