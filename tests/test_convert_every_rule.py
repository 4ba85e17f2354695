"""What holds for every rule: applied inside subgraphs, names and provenance kept, idempotent.

Each rule gets the first model of the ONNX suite that it rewrites, in both branches of an If.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir
import pytest
from conversion import case, suite
from trtforge_plugins.convert import MakeConvertible
from trtforge_plugins.convert.rules import all_rules

from trtforge.testing import apply

NOT_IN_THE_SUITE = {
    *("stacked-key", "batch-norm-per-element", "normalize-without-space", "coupled-gates"),
    *("bfloat-gru", "training-dropout", "slice-bounds-int64", "name-slice-axes", "eye-like"),
    *("scaler", "linear-regressor", "tf-idf-vectorizer", "beyond-tensorrt"),
}
"""Rules for which the suite has no such model. Their own test files hold names and a second run."""


@cache
def models() -> dict[str, onnx.ModelProto]:
    """The first one-node model of the suite that each rule rewrites, by the rule's name."""
    found: dict[str, onnx.ModelProto] = {}
    ops = {op.removeprefix("::") for rule in all_rules() for op in rule.ops}
    for name in suite(""):
        given = case(name).model
        node = given.graph.node[0]
        op = f"{node.domain}::{node.op_type}".removeprefix("::")
        old = any(not each.domain and each.version < 11 for each in given.opset_import)
        if len(given.graph.node) > 1 or op not in ops or old:
            continue
        model = in_branches(given)
        _, _, notes = apply(MakeConvertible(), model)
        for note in notes:
            if note.text.startswith("rule "):
                found.setdefault(note.text.split()[1].rstrip(":"), model)
    return found


def in_branches(given: onnx.ModelProto) -> onnx.ModelProto:
    """The model's node in both branches of an If, whose results are those of the model."""
    model = onnx.ModelProto.FromString(given.SerializeToString())
    node = model.graph.node[0]
    node.metadata_props.add(key="origin", value="given")
    names = [value.name for value in model.graph.output]
    inner = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in model.graph.output]
    for value in inner:
        value.name = f"inner_{value.name}"
    node.output[:] = [f"inner_{name}" if name else "" for name in node.output]
    branch = onnx.helper.make_graph([node], "branch", [], inner)
    choice = onnx.helper.make_node("If", ["which"], names, then_branch=branch, else_branch=branch)
    del model.graph.node[:]
    model.graph.node.append(choice)
    model.graph.input.append(onnx.helper.make_tensor_value_info("which", onnx.TensorProto.BOOL, []))
    if all(entry.domain for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", 18))
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("rule", [rule.name for rule in all_rules()])
def test_in_subgraphs_with_names_and_provenance_once(rule: str) -> None:
    if rule in NOT_IN_THE_SUITE:
        assert rule not in models(), f"the suite has a model for {rule} now"
        return
    before = models()[rule]
    after, count, _ = apply(MakeConvertible(), before)
    assert count >= 2, "not in both branches"
    proto = ir.to_proto(after)
    for kind in ("input", "output"):
        names = [value.name for value in getattr(before.graph, kind)]
        assert [value.name for value in getattr(proto.graph, kind)] == names
    for branch in proto.graph.node[0].attribute:
        for node in branch.g.node:
            assert {"origin": "given"}.items() <= {
                p.key: p.value for p in node.metadata_props
            }.items()
    _, again, _ = apply(MakeConvertible(), after)
    assert again == 0
