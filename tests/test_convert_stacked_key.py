"""The key of a stacked product is turned in another way: equal outputs, and fewer layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conversion import assert_close, convert, needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from trtforge_plugins.convert import MakeConvertible
from trtforge_plugins.engine_layers import parse_layers

from trtforge import RequestError
from trtforge.testing import apply, run_model

CUTS = {
    "gather": "q = Gather <axis=0> (stack, first)  k = Gather <axis=0> (stack, second)",
    "split": "qs, ks, vs = Split <axis=0, num_outputs=3> (stack)"
    "  q = Squeeze (qs, front)  k = Squeeze (ks, front)",
}


def scores(cut: str = "gather", batch: str = "batch", length: str = "length") -> str:
    """Scores of 2 heads of width 4 from the product x of width 24."""
    return f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[{batch},{length},24] x) => (float[{batch},2,{length},{length}] y)
    <int64[5] grouped = {{0,0,3,2,4}}, int64 first = {{0}}, int64 second = {{1}},
     int64[1] front = {{0}}, float scale = {{0.5}}>
    {{
        parts = Reshape (x, grouped)
        stack = Transpose <perm=[2,0,3,1,4]> (parts)
        {CUTS[cut]}
        turned = Transpose <perm=[0,1,3,2]> (k)
        scaled = Mul (turned, scale)
        y = MatMul (q, scaled)
    }}"""


@settings(max_examples=30, deadline=None)
@given(
    cut=st.sampled_from(sorted(CUTS)),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    known=st.booleans(),
)
def test_scores_are_the_same(cut: str, sizes: tuple[int, int], *, known: bool) -> None:
    text = scores(cut, *map(str, sizes)) if known else scores(cut)
    after, count, _ = convert(text)
    assert count == 1
    feeds = {"x": np.random.default_rng(0).standard_normal((*sizes, 24)).astype(np.float32)}
    found, expected = run_model(after, feeds), run_model(onnx.parser.parse_model(text), feeds)
    assert_close([found["y"]], [expected["y"]], rtol=0, atol=0)  # the same products and sums


def test_the_rule_is_skipped_on_request() -> None:
    """ONNX Runtime takes the key as it is, and pays for what the rule makes of it."""
    given_as = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(scores()))
    _, count, _ = apply(MakeConvertible(skip=("stacked-key",)), given_as)
    assert count == 0
    with pytest.raises(RequestError, match=r"no rule 'stacked-keys'.*'stacked-key'"):
        apply(MakeConvertible(skip=("stacked-keys",)), given_as)


@pytest.mark.parametrize(
    ("given_as", "instead"),
    [
        ("turned = Transpose <perm=[0,1,3,2]> (k)", "turned = Transpose <perm=[1,0,3,2]> (k)"),
        ("stack = Transpose <perm=[2,0,3,1,4]> (parts)", "stack = Relu (parts)"),
        ("float[2,3,24] x) => (float[2,2,3,3] y)", "float[2,n,16] x) => (float[a,b,c,d] y)"),
    ],
    ids=["other axes", "no Transpose", "two entries of open length"],
)
def test_other_products_are_none_of_its_business(given_as: str, instead: str) -> None:
    text = scores(batch="2", length="3").replace(given_as, instead)
    text = text.replace("float[2,2,3,3] y", "float[a,b,c,d] y")
    if "n,16" in instead:
        text = text.replace("{0,0,3,2,4}", "{0,0,2,2,4}")
    assert text != scores(batch="2", length="3")
    _, count, _ = convert(text)
    assert count == 0


ENCODER = """<ir_version: 10, opset_import: ["" : 18]>
g (float[batch,length,24] x) => (float[batch,length,24] y)
<int64[5] grouped = {0,0,3,6,4}, int64 zero = {0}, int64 one = {1}, int64 two = {2},
 int64[3] flat = {0,0,24}, float scale = {0.7}>
{
    product = MatMul (x, weight)
    biased = Add (product, bias)
    parts = Reshape (biased, grouped)
    stack = Transpose <perm=[2,0,3,1,4]> (parts)
    q = Gather <axis=0> (stack, zero)
    k = Gather <axis=0> (stack, one)
    v = Gather <axis=0> (stack, two)
    turned = Transpose <perm=[0,1,3,2]> (k)
    few = Mul (q, scale)
    scaled = Mul (turned, scale)
    scores = MatMul (few, scaled)
    weights = Softmax <axis=-1> (scores)
    mixed = MatMul (weights, v)
    back = Transpose <perm=[0,2,1,3]> (mixed)
    y = Reshape (back, flat)
}"""


def encoder() -> onnx.ModelProto:
    """Attention with its projection, whose weights are constant."""
    model = onnx.parser.parse_model(ENCODER)
    random = np.random.default_rng(0)
    for name, shape in (("weight", (24, 72)), ("bias", (72,))):
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@needs_tensorrt
def test_tensorrt_needs_fewer_layers() -> None:
    models = {"before": encoder(), "after": convert(encoder())[0]}
    dumps = build_dumps({name: (model, ("SM89",)) for name, model in models.items()})
    counts = {name: len(parse_layers(dump).layers) for name, dump in dumps.items()}
    assert counts["after"] < counts["before"], counts
