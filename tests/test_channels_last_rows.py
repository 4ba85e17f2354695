"""Features are flattened as they lie in memory: equal outputs, and fewer layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from conversion import assert_close, needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from onnx import numpy_helper
from trtforge_plugins.convert import ChannelsLastRows
from trtforge_plugins.engine_layers import parse_layers

from trtforge.testing import apply, check_pass, run_model


def head(product: str, sizes: list[int], channels: int = 3) -> onnx.ModelProto:
    """A convolution that keeps the size, and a classifier on all its results."""
    places = channels * int(np.prod(sizes))
    dims = ",".join(map(str, sizes))
    last = {
        "MatMul": "flat = Reshape (active, shape)  y = MatMul (flat, w)",
        "Gemm": "flat = Flatten (active)  y = Gemm (flat, w, bias)",
        "transposed": "flat = Flatten (active)  y = Gemm <transB = 1> (flat, w, bias)",
    }[product]
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[batch,2,{dims}] x) => (float[batch,4] y)
    <float[4] bias = {{1, 2, 3, 4}}, int64[2] shape = {{-1, {places}}},
     float[batch,{channels},{dims}] features, float[batch,{channels},{dims}] active,
     float[batch,{places}] flat>
    {{ features = Conv (x, kernel)  active = Relu (features)  {last} }}""")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((places, 4)).astype(np.float32)
    held = weight.T.copy() if product == "transposed" else weight
    kernel = rng.standard_normal((channels, 2, *[1] * len(sizes))).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(held, "w"))
    model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    return model


@settings(max_examples=40, deadline=None)
@given(
    product=st.sampled_from(["MatMul", "Gemm", "transposed"]),
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    batch=st.integers(0, 3),
)
def test_outputs_are_the_same(product: str, sizes: list[int], batch: int) -> None:
    before = head(product, sizes)
    check_pass(ChannelsLastRows(), before)
    after, count, notes = apply(ChannelsLastRows(), before)
    assert (count, notes) == (int(np.prod(sizes)) > 1, [])
    feeds = {"x": np.random.default_rng(1).standard_normal((batch, 2, *sizes), np.float32)}
    found, expected = run_model(after, feeds), run_model(before, feeds)
    # the terms are added in another order: some roundings of float32
    assert_close([found["y"]], [expected["y"]], rtol=1e-4, atol=1e-5)


@needs_tensorrt
def test_engines_have_fewer_layers() -> None:
    before = head("transposed", [4, 4], channels=8)
    after = ir.to_proto(apply(ChannelsLastRows(), before)[0])
    jobs = {"before": (before, ("SM89",)), "after": (after, ("SM89",))}
    dumps = {name: len(parse_layers(text).layers) for name, text in build_dumps(jobs).items()}
    assert dumps["after"] < dumps["before"], dumps
