"""A product with a matrix of one column is a sum: equal outputs, fewer layers, less memory."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from conversion import assert_close, needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from onnx import numpy_helper
from trtforge_plugins.convert import SingleColumns
from trtforge_plugins.engine_layers import parse_layers

from trtforge.testing import apply, check_pass, run_model


def scores(op: str, dims: str, depth: int, opset: int = 18) -> onnx.ModelProto:
    """A hidden layer, and the product with one column: by MatMul, or by Gemm as torch writes it."""
    product = {
        "MatMul": "product = MatMul (hidden, w)  sum = Add (product, bias)",
        "Gemm": "sum = Gemm <transB = 1> (hidden, w, bias)",
    }[op]
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[{dims},{depth}] x) => (float[{dims},1] y) <float[1] bias = {{0.25}}>
    {{ hidden = Relu (x)  {product}  y = Sigmoid (sum) }}""")
    weight = np.random.default_rng(0).standard_normal((depth, 1)).astype(np.float32)
    held = weight.T.copy() if op == "Gemm" else weight
    model.graph.initializer.append(numpy_helper.from_array(held, "w"))
    return model


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(["MatMul", "Gemm"]),
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    is_open=st.booleans(),
    depth=st.integers(1, 9),
    opset=st.sampled_from([11, 13, 18]),
)
def test_outputs_are_the_same(
    op: str,
    sizes: list[int],
    is_open: bool,
    depth: int,
    opset: int,  # by name
) -> None:
    sizes = sizes[:1] if op == "Gemm" else sizes
    dims = ",".join(f"d{i}" if is_open else str(size) for i, size in enumerate(sizes))
    before = scores(op, dims, depth, opset)
    check_pass(SingleColumns(), before)
    after, count, _ = apply(SingleColumns(), before)
    assert count == 1
    feeds = {"x": np.random.default_rng(1).standard_normal((*sizes, depth), np.float32)}
    found, expected = run_model(after, feeds), run_model(before, feeds)
    # the terms may be added in another order: some roundings of float32
    assert_close([found["y"]], [expected["y"]], rtol=1e-5, atol=1e-6)


@needs_tensorrt
def test_engines_have_fewer_layers() -> None:
    models = {}
    for op, dims in (("Gemm", "b"), ("MatMul", "b,l")):
        before = scores(op, dims, 30)
        models[f"{op} before"] = (before, ("SM89",))
        models[f"{op} after"] = (ir.to_proto(apply(SingleColumns(), before)[0]), ("SM89",))
    dumps = {name: len(parse_layers(text).layers) for name, text in build_dumps(models).items()}
    for op in ("Gemm", "MatMul"):
        assert dumps[f"{op} after"] < dumps[f"{op} before"], dumps
