"""A Conv takes over the zeros of the Pad before it: equal outputs, and fewer layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from conversion import needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from onnx import TensorProto, helper, numpy_helper
from trtforge_plugins.clean import DropDeadCode, MergePadding
from trtforge_plugins.engine_layers import parse_layers

from trtforge.testing import apply, check_pass, run_model

AMOUNTS = st.integers(0, 2)


def padded_conv(opset: int, added: list[int], own: list[int]) -> onnx.ModelProto:
    """A Pad of the axes behind the channels and a Conv, in the form of the opset."""
    space = len(added) // 2
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((3, 2, *[2] * space)).astype(np.float32)}
    whole = [0, 0, *added[:space], 0, 0, *added[space:]]
    attributes, inputs = {}, ["x"]
    if opset < 11:
        attributes["pads"] = whole
    elif opset < 18:
        weights["pads"] = np.array(whole)
        inputs.append("pads")
    else:
        weights |= {"pads": np.array(added), "axes": np.arange(-space, 0)}
        inputs += ["pads", "", "axes"]
    sizes = ["batch", 2, *[f"size{i}" for i in range(space)]]
    nodes = [
        helper.make_node("Pad", inputs, ["padded"], **attributes),
        helper.make_node("Conv", ["padded", "w"], ["y"], pads=own),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, *"lmn"[:space]])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, opset)
    )


@settings(max_examples=40, deadline=None)
@given(
    opset=st.sampled_from([10, 11, 18]),
    amounts=st.integers(1, 3).flatmap(
        lambda space: st.tuples(*[st.lists(AMOUNTS, min_size=2 * space, max_size=2 * space)] * 2)
    ),
)
def test_outputs_are_the_same(opset: int, amounts: tuple[list[int], list[int]]) -> None:
    added, own = amounts
    before = padded_conv(opset, added, own)
    check_pass(MergePadding(), before)
    model, count, _ = apply(MergePadding(), before)
    assert count == 1
    x = np.random.default_rng(1).standard_normal((2, 2, *[3] * (len(own) // 2)))
    feeds = {"x": x.astype(np.float32)}
    found, expected = run_model(ir.to_proto(model), feeds), run_model(before, feeds)
    # the same products in the same order, but for how ONNX Runtime blocks the sums
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5, atol=1e-6)


@needs_tensorrt
def test_an_engine_has_a_layer_less() -> None:
    before = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
    g (float[4,4,64] x) => (float[4,4,64] y)
    <int64[6] front = {0,0,2,0,0,0}>
    {
        first = Conv <kernel_shape = [3], pads = [1, 1]> (x, w)
        padded = Pad (first, front)
        second = Conv <kernel_shape = [3]> (padded, w)
        y = Add (first, second)
    }""")
    weights = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)
    before.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    merged, _, _ = apply(MergePadding(), before)
    after, _, _ = apply(DropDeadCode(), merged)
    jobs = {"before": (before, ("SM89",)), "after": (ir.to_proto(after), ("SM89",))}
    layers = {name: len(parse_layers(text).layers) for name, text in build_dumps(jobs).items()}
    assert layers["after"] < layers["before"], layers
