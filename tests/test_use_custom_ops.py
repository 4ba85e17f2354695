"""Custom ops in place of ONNX's operators that TensorRT lacks: proposed, put in, built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import trtforge_ops
from command import trtforge
from trtforge_plugins.engine_layers import read_engine_layers
from trtforge_plugins.fuse import UseCustomOps
from trtforge_plugins.tensorrt import TensorRT
from trtforge_plugins.tensorrt.plugin_nodes import with_plugins

from trtforge import Context, Request, RequestError, Substitute, model_file
from trtforge.targets import KNOWN
from trtforge.testing import read_model, run_model

OPS = {kind.name: kind for kind in trtforge_ops.OPS}
HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """A model of one node, its inputs, and the op that may take the node's place."""

    op: str
    text: str
    feed: dict[str, np.ndarray]

    def model(self):
        return read_model(f"{HEAD} main {self.text}")


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


CASES = [
    Case(
        "trtforge::Unique",
        "(float[6] x) => (float[N] v, int64[N] first) { [n] v, first = Unique (x) }",
        {"x": np.array([3, 1, 3, -2, 1, 7], np.float32)},
    ),
    Case(
        "trtforge::Compress",
        "(float[4,3] x, bool[4] c) => (float[N,3] y) { [n] y = Compress <axis = -2> (x, c) }",
        {"x": floats(4, 3), "c": np.array([1, 0, 1, 1], bool)},
    ),
    Case(
        "trtforge::NonZero",
        "(float[3,4] x) => (int64[2,N] y) { [n] y = NonZero (x) }",
        {"x": (floats(3, 4) > 0).astype(np.float32)},
    ),
    Case(
        "trtforge::Bitwise",
        "(int32[5] a, int32[5] b) => (int32[5] y) { [n] y = BitwiseXor (a, b) }",
        {"a": np.arange(5, dtype=np.int32), "b": np.arange(-3, 2, dtype=np.int32)},
    ),
    Case(
        "trtforge::Det",
        "(float[2,4,4] x) => (float[2] y) { [n] y = Det (x) }",
        {"x": np.eye(4, dtype=np.float32) + floats(2, 4, 4) / 10},
    ),
    Case(
        "trtforge::ScatterND",
        "(float[5,4] x, int64[3,1] i, float[3,4] u) => (float[5,4] y)"
        ' { [n] y = ScatterND <reduction = "max"> (x, i, u) }',
        {"x": floats(5, 4), "i": np.array([[0], [3], [0]]), "u": floats(3, 4)},
    ),
    Case(
        "trtforge::ScatterElements",
        "(float[5,4] x, int64[2,4] i, float[2,4] u) => (float[5,4] y)"
        ' { [n] y = ScatterElements <axis = 0, reduction = "add"> (x, i, u) }',
        {"x": floats(5, 4), "i": RANDOM.integers(0, 5, (2, 4)), "u": floats(2, 4)},
    ),
    Case(
        "trtforge::RoiAlign",
        "(float[1,3,8,8] x, float[2,4] r, int64[2] b) => (float[2,3,2,2] y)"
        " { [n] y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, r, b) }",
        {
            "x": floats(1, 3, 8, 8),
            "r": np.array([[0, 0, 5, 6], [1, 2, 7, 7]], np.float32),
            "b": np.zeros(2, np.int64),
        },
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)


def use(model, tmp_path, *ops, known=OPS):
    ctx = Context(model, tmp_path, Request("m", targets=(KNOWN["sm_86"],)), ops=known)
    return UseCustomOps(ops=ops).rewrite(model, ctx), ctx


@each_case
def test_the_op_computes_what_the_node_did(case, tmp_path):
    """Under ONNX Runtime, through the op's function."""
    model = case.model()
    changes, ctx = use(model, tmp_path, case.op)
    assert (changes, ctx.notes) == (1, [])
    assert case.op in {f"{node.domain}::{node.op_type}" for node in model.graph}
    assert [value.name for value in model.graph.outputs] == [
        value.name for value in case.model().graph.outputs
    ]
    before, after = run_model(case.model(), case.feed), run_model(model, case.feed)
    for name, array in before.items():
        # Det by elimination in another order: a few roundings of float32
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-5)
    assert use(model, tmp_path, case.op)[0] == 0


@each_case
def test_check_proposes_it(case, tmp_path):
    """Where TensorRT refuses the node, the first remedy is the op."""
    model_file.save(case.model(), tmp_path / "m.onnx")
    answer = trtforge("check", tmp_path / "m.onnx", "--json")
    (finding,) = [each for each in answer.json["findings"] if each["level"] == "refused"]
    if not finding["node"]:  # TensorRT does not say which node it means
        assert case.op == "trtforge::ScatterElements"
        return
    assert finding["remedies"][0].startswith(f"let the custom op {case.op} compute it")
    assert f"use-custom-ops: {{ops: ['{case.op}']}}" in finding["remedies"][0]


def unique(outputs):
    types = {"v": "float[N]", "first": "int64[N]", "inverse": "int64[6]", "counts": "int64[N]"}
    declared = ", ".join(f"{types[name]} {name}" for name in outputs.split(", "))
    return read_model(
        f"{HEAD} main (float[6] x) => ({declared}) {{ [n] v, first, inverse, counts = Unique (x) }}"
    )


def test_an_op_of_which_no_counted_output_is_read_stays_with_its_body(tmp_path):
    model = unique("inverse")
    _, ctx = use(model, tmp_path)
    assert with_plugins(model, "auto", ctx.request.targets, ctx).nodes == ()
    assert "nothing reads an output of it" in ctx.notes[-1].text


OUTPUTS = ["v", "first", "counts", "v, inverse", "v, first, inverse, counts"]


@pytest.mark.slow
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_each_output_of_an_op_with_counted_ones_may_be_the_only_one_that_is_read(outputs, tmp_path):
    """TensorRT-RTX 1.7.1 fails where a counted output is not read; the plugin's node mends that."""
    model = unique(outputs)
    _, ctx = use(model, tmp_path)
    engine = TensorRT(plugins=("trtforge::Unique",)).build(model, ctx)
    assert "PluginV3" in {layer.kind for layer in read_engine_layers(engine).layers}
    swapped = with_plugins(model, "auto", ctx.request.targets, ctx).model
    assert [value.name for value in swapped.graph.outputs] == outputs.split(", ")


@pytest.mark.slow
@each_case
def test_the_proposal_builds(case, tmp_path):
    """Built with TensorRT-RTX as a plugin, not executed."""
    model = case.model()
    _, ctx = use(model, tmp_path, case.op)
    engine = TensorRT(plugins=(case.op,)).build(model, ctx)
    kinds = [layer.kind for layer in read_engine_layers(engine).layers]
    assert "custom_layer" in kinds or "PluginV3" in kinds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[4,3] x) => (float[N,3] y) { y = Unique <axis = 0> (x) }", "it has an axis"),
        ("(float[4] x) => (float[N] y) { y = Unique <sorted = 0> (x) }", "stay in their order"),
        ("(float[4,3] x, bool[3] c) => (float[4,N] y) { y = Compress <axis = 1> (x, c) }",
         "does not select along the first axis"),
        ("(int32[4,3] a, int32[3] b) => (int32[4,3] y) { y = BitwiseAnd (a, b) }",
         "inputs are of different shapes"),
        ("(uint16[4] a, uint16[4] b) => (uint16[4] y) { y = BitwiseAnd (a, b) }",
         "it has no kernel for uint16"),
        ("(float[N,M,M] x) => (float[N] y) { y = Det (x) }", "at most 64 rows"),
        ("(float[4] x, int64[2,1] i, float[2] u) => (float[4] y) { y = ScatterND (x, i, u) }",
         "it has no reduction"),
    ],
)  # fmt: skip
def test_a_node_that_must_stay_is_noted_with_the_reason(text, reason, tmp_path):
    changes, ctx = use(read_model(f"{HEAD} main {text}"), tmp_path)
    assert changes == 0
    (note,) = ctx.notes
    assert reason in note.text


def test_a_model_of_an_old_opset_keeps_its_node(tmp_path):
    text = CASES[5].text  # ScatterND, whose op needs opset 18
    model = read_model(f'<ir_version: 10, opset_import: ["" : 17]> main {text}')
    changes, ctx = use(model, tmp_path)
    assert (changes, len(ctx.notes)) == (0, 1)
    assert "needs opset 18, the model has 17" in ctx.notes[0].text


def test_an_unknown_op_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no custom op 'acme::Nothing'"):
        use(CASES[0].model(), tmp_path, "acme::Nothing")


def test_only_what_is_asked_for_is_replaced(tmp_path):
    assert use(CASES[0].model(), tmp_path, "trtforge::Compress")[0] == 0


class Third(trtforge_ops.Unique):
    """What a third party may write."""

    name = "acme::Third"

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        return Substitute(cls(), (0,)) if node.op_type == "Unique" else None


def test_an_op_of_a_third_party_may_stand_for_a_node_too(tmp_path):
    model = CASES[0].model()
    assert use(model, tmp_path, known={Third.name: Third})[0] == 1
    assert {node.domain for node in model.graph} == {"acme"}


def test_nodes_in_subgraphs_are_replaced(tmp_path):
    text = """(bool c, float[6] x) => (float[N] y) {
        y = If (c) <
            then_branch = one () => (float[N] a) { a = Unique (x) },
            else_branch = two () => (float[N] b) { b = Identity (x) }
        >
    }"""
    model = read_model(f"{HEAD} main {text}")
    assert use(model, tmp_path)[0] == 1
    for c in (True, False):
        feed = {"c": np.array(c), "x": np.array([2, 1, 2, 0, 0, 5], np.float32)}
        expected = np.unique(feed["x"]) if c else feed["x"]
        np.testing.assert_array_equal(run_model(model, feed)["y"], expected)


def test_the_page_names_every_operator_that_an_op_stands_for():
    page = (Path(__file__).parent.parent / "docs" / "custom-ops.md").read_text()
    for case in CASES:
        assert f"`{case.op.partition('::')[2]}`" in page
