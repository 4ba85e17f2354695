"""Products of many dimensions become products of two: equal outputs, and fewer layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import assert_close, needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from onnx import numpy_helper
from trtforge_plugins.convert import FlattenProducts
from trtforge_plugins.engine_layers import parse_layers

from trtforge.testing import apply, check_pass, run_model

DEPTH, WIDTH = 4, 3
TAILS = {
    "silu": "gate = Sigmoid (sum)  result = Mul (sum, gate)",
    "tanh": "result = Tanh (sum)",
    "gelu": "scaled = Div (sum, root)  erf = Erf (scaled)  shifted = Add (erf, one)"
    "  product = Mul (sum, shifted)  result = Mul (product, half)",
    "clip": "limited = Clip (sum, zero, one)  result = Elu (limited)",
}


def block(
    tail: str,
    dims: str,
    bias: str = "float[3] bias = {0.1, -0.2, 0.3}",
    last: str = "y = Add (result, r)",
    opset: int = 18,
) -> onnx.ModelProto:
    """A product with a bias, one of ``TAILS`` and a residual sum that stays as it is."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[{dims},{DEPTH}] x, float[{dims},{WIDTH}] r) => (float[{dims},{WIDTH}] y)
    <{bias}, float root = {{1.4142135}}, float one = {{1}},
     float zero = {{0}}, float half = {{0.5}}, float[3,3] down = {{1,2,3,4,5,6,7,8,9}}>
    {{
        product_ = MatMul (x, weight)
        sum = Add (product_, bias)
        {TAILS[tail]}
        {last}
    }}""")
    weight = np.random.default_rng(0).standard_normal((DEPTH, WIDTH)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return model


def flattened(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, list[str]]:
    import onnx_ir as ir

    known = onnx.shape_inference.infer_shapes(model)
    check_pass(FlattenProducts(), known)
    after, count, notes = apply(FlattenProducts(), known)
    return ir.to_proto(after), count, [note.text for note in notes]


@settings(max_examples=40, deadline=None)
@given(
    tail=st.sampled_from(sorted(TAILS)),
    sizes=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    open_axes=st.sets(st.integers(0, 3)),
    bias=st.sampled_from(["float[3]", "float[1,3]", "float[1,1,3]"]),
)
def test_outputs_are_the_same_for_all_sizes(
    tail: str, sizes: list[int], open_axes: set[int], bias: str
) -> None:
    dims = ",".join(f"d{i}" if i in open_axes else str(size) for i, size in enumerate(sizes))
    before = block(tail, dims, f"{bias} bias = {{0.1, -0.2, 0.3}}")
    after, count, notes = flattened(before)
    assert (count, notes) == (len(sizes) > 2 or tail != "gelu", [])
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal((*sizes, last)).astype(np.float32)
        for name, last in (("x", DEPTH), ("r", WIDTH))
    }
    found, expected = run_model(after, feeds), run_model(before, feeds)
    # a product of other dimensions may add up in another order: some roundings of float32
    assert_close([found["y"]], [expected["y"]], rtol=1e-5, atol=1e-6)


def test_all_nodes_behind_it_have_two_dimensions_and_names_keep_their_shapes() -> None:
    after, _, _ = flattened(block("silu", "batch,length"))
    shapes = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in onnx.shape_inference.infer_shapes(after).graph.value_info
    }
    assert len(shapes["sum_flat"]) == len(shapes["gate_flat"]) == len(shapes["result_flat"]) == 2
    assert shapes["result"] == ["batch", "length", WIDTH]


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"bias": "float[2,1] bias = {0.1, 0.2}"}, ""),  # along another axis
        (
            {"last": "other = Add (sum, r)  y = Add (result, other)"},
            "more than one of the values behind it",
        ),
        ({"last": "again = MatMul (x, weight)  y = Add (result, again)"}, ""),  # side by side
    ],
)
def test_what_stays(changed: dict[str, str], note: str) -> None:
    _, count, notes = flattened(block("silu", "2,2", **changed))
    assert count == 0
    assert [note in each for each in notes] == [True] * bool(note)


def test_open_sizes_need_a_shape_without_the_last_dimension() -> None:
    _, count, notes = flattened(block("tanh", "batch,length", opset=14))
    assert count == 0
    assert "before opset 15" in notes[0]


@needs_tensorrt
def test_engines_have_fewer_layers() -> None:
    """Behind three dimensions SiLU, Tanh and Elu gain a layer each, behind four GELU as well."""
    models = {}
    for tail, dims in [("silu", "b,16"), ("tanh", "b,l"), ("clip", "2,16"), ("gelu", "b,4,4")]:
        before = block(tail, dims, last="y = MatMul (result, down)")
        models[f"{tail} before"] = (before, ("SM89",))
        models[f"{tail} after"] = (flattened(before)[0], ("SM89",))
    dumps = {name: len(parse_layers(text).layers) for name, text in build_dumps(models).items()}
    for tail in TAILS:
        assert dumps[f"{tail} after"] < dumps[f"{tail} before"], (tail, dumps)
