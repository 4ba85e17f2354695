"""`trtforge bisect --recipe`: which step costs the accuracy, and which nodes to leave out of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from command import trtforge
from hypothesis import given, settings
from hypothesis import strategies as st
from models import BertSize, bert, bert_feed, parse, random_bert_weights

from trtforge.accuracy_bisection import escaped
from trtforge.api import bisect_accuracy, run
from trtforge.delta import fewest

# --- the search --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_exactly_the_needed_ones_are_found(drawn):
    count, needed = drawn
    asked = []

    def holds(part):
        asked.append(part)
        return needed <= set(part)

    assert set(fewest(tuple(range(count)), holds)) == needed
    most = 2 + 2 * len(needed) * (1 + np.log2(max(count / max(len(needed), 1), 1)))
    assert len(asked) <= most + len(needed)  # k log2(n / k), Junker 2004, theorem 2


@pytest.mark.parametrize("name", ["layer[0].mul", "a*b", "what?", "/block/Add_1"])
def test_a_name_becomes_a_pattern_for_it_alone(name):
    from fnmatch import fnmatchcase

    assert fnmatchcase(name, escaped(name))
    assert not fnmatchcase(name + "x", escaped(name))


# --- float16 -----------------------------------------------------------------------------------

OVERFLOW = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2,8] x) => (float[2,8] y) <float[8,8] w, float[8,8] v>
{
    h = Constant <value_float = 500.0> ()
    s = Constant <value_float = 0.000004> ()
    [first] a = MatMul (x, w)
    [large] b = Mul (a, h)
    [too_large] c = Mul (b, h)
    [small] d = Mul (c, s)
    [second] e = MatMul (d, v)
    [third] f = MatMul (e, w)
    [last] y = Tanh (f)
}"""
CASTING = """require: {cosine: 0.999}
stages:
  - name: precision
    steps:
      - drop-identity
      - cast: {to: float16}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    onnx.save(parse(OVERFLOW), "m.onnx")
    Path("r.yaml").write_text(CASTING)
    return tmp_path


def test_the_nodes_that_overflow_are_named_and_keeping_them_helps(place):
    found = bisect_accuracy("m.onnx", "r.yaml")
    assert (found.step, found.option) == ("cast", "keep")
    # `cast` lets light nodes join a float32 neighbour, so a neighbour's name is as good an answer.
    assert set(found.nodes) <= {"first", "large", "too_large", "small", "second"}
    assert len(found.nodes) <= 2
    assert found.effects[-1].missed
    mended = CASTING.replace(
        "cast: {to: float16}", found.setting.replace("{keep", "{to: float16, keep")
    )
    Path("r.yaml").write_text(mended)
    done = run("r.yaml", "m.onnx", out=place / "out")
    assert done.exit_code == 0
    assert bisect_accuracy("m.onnx", "r.yaml").step == ""


def test_the_command(place):
    answer = trtforge("bisect", "m.onnx", "--recipe", "r.yaml")
    assert answer.code == 1, answer.err
    assert "Step     cast breaks it" in answer.out
    assert "To do    - cast: {keep: [" in answer.out
    data = trtforge("bisect", "m.onnx", "--recipe", "r.yaml", "--json").json
    assert data["setting"].startswith("cast: {keep: [")
    assert data["trials"] > 0
    Path("r.yaml").write_text(CASTING.replace("float16", "bfloat16").replace("0.999", "0.99"))
    loose = trtforge("bisect", "m.onnx", "--recipe", "r.yaml")
    assert loose.code == 0
    assert "All requirements are met after every step" in loose.out
    assert trtforge("bisect", "m.onnx", "--recipe", "r.yaml", "--build").code == 2


# --- INT8 --------------------------------------------------------------------------------------

QUANTIZING = """shapes: {input_ids: 2x16, attention_mask: 2x16, token_type_ids: 2x16}
require: {cosine: 0.999}
stages:
  - name: quantize
    steps:
      - upgrade-opset
      - load-data: {path: data.npz, batch: 2}
      - calibrate-max
      - insert-qdq
"""


def test_the_product_that_int8_cannot_hold_is_named_in_few_trials(place):
    """One unit of a feed-forward layer is 5000 where the others are below 10, and is not used."""
    size = BertSize(layers=3)
    weights = random_bert_weights(size)
    weights["encoder.layer.1.intermediate.dense.bias"][0] = 5000.0
    weights["encoder.layer.1.output.dense.weight"][:, 0] = 0.0
    onnx.save(bert(size, weights), "bert.onnx")
    np.savez("data.npz", **bert_feed(8, 16, size.vocabulary))
    Path("q.yaml").write_text(QUANTIZING)
    found = bisect_accuracy("bert.onnx", "q.yaml")
    assert found.nodes == ("encoder.layer.1.output.dense",)
    assert found.setting == 'insert-qdq: {skip: ["encoder.layer.1.output.dense"]}'
    assert found.trials < found.of
    assert found.effects[-1].step == "insert-qdq"
