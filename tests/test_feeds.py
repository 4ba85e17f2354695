"""Synthesized inputs fit the model, repeat for a seed, and index no table outside its rows."""

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from trtforge.artifacts import Batches
from trtforge.errors import DataError
from trtforge.feeds import first, synthesize, table_rows
from trtforge.quantities import ShapeRange

TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 21]>
m (int32[batch,seq] ids, int64[batch,seq] mask, float[batch,seq,4] bias, bool[batch] flag,
   uint8[batch,2] pixels, float16[3] fixed) => (float[batch,seq,4] y)
<float[7,4] table = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
{ long = Cast <to=7> (ids)  e = Gather (table, long)  y = Add (e, bias) }
"""
PROFILE = {"ids": ShapeRange.read("1x4:8x16:32x64")}


def model(text: str = TRANSFORMER) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def test_inputs_have_the_models_types_and_the_profiles_shapes():
    batches = synthesize(model(), PROFILE, samples=16)
    assert not batches.real
    assert batches.source == "synthesized (seed 0)"
    assert batches.samples == 16
    feed = batches.feeds[0]
    assert {name: (array.dtype.name, array.shape) for name, array in feed.items()} == {
        "ids": ("int32", (8, 16)),
        "mask": ("int64", (8, 16)),  # bound through the dimensions' names
        "bias": ("float32", (8, 16, 4)),
        "flag": ("bool", (8,)),
        "pixels": ("uint8", (8, 2)),
        "fixed": ("float16", (3,)),
    }


def test_indices_stay_inside_their_table_and_masks_are_one():
    feed = synthesize(model(), PROFILE).feeds[0]
    assert set(np.unique(feed["ids"])) == set(range(7))
    assert set(np.unique(feed["mask"])) == {1}
    assert table_rows(model().graph.inputs[0]) == 7
    assert table_rows(model().graph.inputs[1]) is None


def test_fewer_samples_make_a_smaller_batch_within_the_range():
    assert synthesize(model(), PROFILE, samples=3).samples == 3
    assert synthesize(model(), {"ids": ShapeRange.read("4x4:8x16:8x16")}, samples=1).samples == 4


def test_a_seed_gives_the_same_data_and_another_seed_other_data():
    same = [synthesize(model(), PROFILE, seed=5).feeds[0]["bias"] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert (synthesize(model(), PROFILE, seed=6).feeds[0]["bias"] != same[0]).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m (float[n,c] x) => (float[n,c] y) { y = Relu (x) }", r"dimension 1 \(c\) of input 'x'"),
        ("m (float[1,99999,99999] x) => (float[a,b,c] y) { y = Relu (x) }", "check its shape"),
        ("m (string[n] x) => (string[n] y) { y = Identity (x) }", "'x' has type"),
    ],
)
def test_what_cannot_be_made_up_is_named(text, message):
    with pytest.raises(DataError, match=message):
        synthesize(model('<ir_version: 10, opset_import: ["" : 21]>' + text))


def test_the_first_samples_are_cut_only_where_the_model_allows_it():
    feeds = tuple({"x": np.arange(8 * i, 8 * i + 8)} for i in range(3))
    data = Batches(feeds, "test")
    assert [len(feed["x"]) for feed in first(data, 11, cut=True)] == [8, 3]
    assert [len(feed["x"]) for feed in first(data, 11, cut=False)] == [8, 8]
    assert [len(feed["x"]) for feed in first(data, 99, cut=True)] == [8, 8, 8]
    assert first(data, 0, cut=True) == ()
