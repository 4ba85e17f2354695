"""What holds for every rule: applied inside subgraphs, names and provenance kept, idempotent.

Each rule gets the first model of the ONNX suite that it rewrites, in both branches of an If, and in
a function of the model.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir
import pytest
from conversion import case, suite
from trtforge_plugins.convert import InlineFunctions, MakeConvertible
from trtforge_plugins.convert.builder import RULE_KEY
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
    found: dict[str, onnx.ModelProto] = {}  # as it is in the suite
    ops = {op.removeprefix("::") for rule in all_rules() for op in rule.ops}
    for name in suite(""):
        given = case(name).model
        node = given.graph.node[0]
        op = f"{node.domain}::{node.op_type}".removeprefix("::")
        old = any(not each.domain and each.version < 11 for each in given.opset_import)
        if len(given.graph.node) > 1 or op not in ops or old:
            continue
        _, _, notes = apply(MakeConvertible(), in_branches(given))
        for note in notes:
            if note.text.startswith("rule "):
                found.setdefault(note.text.split()[1].rstrip(":"), given)
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
    before = in_branches(models()[rule])
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


def in_function(given: onnx.ModelProto) -> onnx.ModelProto:
    """The model's node as the body of a function, which the model calls."""
    model = onnx.ModelProto.FromString(given.SerializeToString())
    node = onnx.NodeProto.FromString(model.graph.node[0].SerializeToString())
    inputs = list(dict.fromkeys(name for name in node.input if name))
    outputs = [name for name in node.output if name]
    imports = [*model.opset_import]
    if all(entry.domain for entry in imports):
        imports.append(onnx.helper.make_opsetid("", 18))
    function = onnx.helper.make_function("local", "Held", inputs, outputs, [node], imports)
    call = onnx.helper.make_node("Held", inputs, outputs, domain="local", name="call")
    call.metadata_props.add(key="origin", value="given")
    del model.graph.node[:], model.opset_import[:]
    model.graph.node.append(call)
    model.functions.append(function)
    model.opset_import.extend([*imports, onnx.helper.make_opsetid("local", 1)])
    model.ir_version = max(model.ir_version, 8)
    return model


@pytest.mark.parametrize("rule", sorted({rule.name for rule in all_rules()} - NOT_IN_THE_SUITE))
def test_in_functions_before_and_after_they_are_inlined(rule: str) -> None:
    before = in_function(models()[rule])
    onnx.checker.check_model(before)
    # A function's values have no types, so most rules wait; what is done must be right.
    within, _, _ = apply(MakeConvertible(), before)
    onnx.checker.check_model(ir.to_proto(within))
    _, again, _ = apply(MakeConvertible(), within)
    assert again == 0
    inlined, count, _ = apply(InlineFunctions(), within)
    assert count == 1
    known = onnx.shape_inference.infer_shapes(ir.to_proto(inlined))
    after, _, notes = apply(MakeConvertible(), known)
    proto = ir.to_proto(after)
    onnx.checker.check_model(proto)
    for kind in ("input", "output"):
        names = [value.name for value in getattr(before.graph, kind)]
        assert [value.name for value in getattr(proto.graph, kind)] == names
    made = {p.value for n in proto.graph.node for p in n.metadata_props if p.key == RULE_KEY}
    assert rule in made | {note.text.split()[1].rstrip(":") for note in notes}
