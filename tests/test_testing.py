"""``check_pass`` refuses a pass that breaks a rule, each rule in turn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from trtforge import Context, Pass
from trtforge.graph import bypass, is_op, nodes
from trtforge.testing import check_pass

MODEL = """
<ir_version: 8, opset_import: ["" : 18], metadata_props: ["author": "me"]>
g (float[2] x) => (float[2] y)
{
    [relu] a = Relu (x)
    [export] y = Identity (a)
}
"""
FEED = {"x": np.array([-1.0, 2.0], np.float32)}


@dataclass(frozen=True)
class Does(Pass):
    """Does what a test says."""

    name: ClassVar[str] = "does"

    change: Callable[[ir.Model], int] = lambda _: 0
    """The whole pass."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        return self.change(model)


def drop_identity(model: ir.Model) -> int:
    return sum(bypass(node) for node in nodes(model) if is_op(node, "Identity"))


def drop_naively(model: ir.Model) -> int:
    """The obvious way: the uses go to the source, and the output changes its name."""
    node = model.graph[1]
    node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    return 1


def say_nothing(model: ir.Model) -> int:
    drop_identity(model)
    return 0


def forget_metadata(model: ir.Model) -> int:
    model.metadata_props.clear()
    return 1


def forget_node_metadata(model: ir.Model) -> int:
    changed = bool(model.graph[0].metadata_props)
    model.graph[0].metadata_props.clear()
    return int(changed)


def break_order(model: ir.Model) -> int:
    first = model.graph[0]
    if first.op_type != "Relu":
        return 0
    model.graph.remove(first)
    model.graph.append(first)
    return 1


def change_values(model: ir.Model) -> int:
    changed = model.graph[0].op_type == "Relu"
    model.graph[0].op_type = "Abs"
    return int(changed)


def add_each_time(model: ir.Model) -> int:
    node = ir.node("Neg", [model.graph.inputs[0]])
    model.graph.insert_before(model.graph[0], node)
    return 1


def change_shape(model: ir.Model) -> int:
    model.graph.outputs[0].shape = ir.Shape([None])
    return 1


def test_a_good_pass_passes() -> None:
    after = check_pass(Does(drop_identity), MODEL, FEED, changes=1)
    assert [node.op_type for node in after.graph] == ["Relu"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_naively, "changed the outputs"),
        (change_shape, "changed the outputs"),
        (say_nothing, "returned 0 changes, but the model changed"),
        (lambda _: 3, "returned 3 changes, but the model is the same"),
        (lambda _: True, "is no number of changes"),
        (forget_metadata, "lost metadata of the model"),
        (break_order, "made an invalid model"),
        (change_values, "changed output 'y'"),
        (add_each_time, "not idempotent"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_broken_rule_is_named(change: Callable[[ir.Model], int], reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_pass(Does(change), MODEL, FEED)


def test_lost_metadata_of_a_node_is_named() -> None:
    model = ir.from_onnx_text(MODEL)
    model.graph[0].metadata_props["from"] = "torch"
    with pytest.raises(AssertionError, match="lost metadata of relu"):
        check_pass(Does(forget_node_metadata), model, FEED)


def test_another_count_than_asked_for_is_named() -> None:
    with pytest.raises(AssertionError, match="made 1 changes instead of 2"):
        check_pass(Does(drop_identity), MODEL, FEED, changes=2)


def test_the_sign_of_zero_counts_as_a_bit() -> None:
    def negate(model: ir.Model) -> int:
        if model.graph[0].op_type == "Neg":
            return 0
        model.graph[0].op_type = "Neg"
        return 1

    with pytest.raises(AssertionError, match="changed output"):
        check_pass(Does(negate), MODEL, {"x": np.array([0.0, 0.0], np.float32)})


def test_the_model_that_is_given_stays_as_it_is() -> None:
    model = ir.from_onnx_text(MODEL)
    check_pass(Does(drop_identity), model, FEED)
    assert [node.op_type for node in model.graph] == ["Relu", "Identity"]
