"""A custom op in a model: a node that brings its meaning along, for every ONNX tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtforge import CustomOp, Launch, ModelError, StepError
from trtforge.op_function import OpsetTooOld, call_op, make_function, read_op
from trtforge.testing import run_model


@dataclass(frozen=True)
class Blend(CustomOp):
    """``y = weight * x + (1 - weight) * z``, or its negative."""

    name = "acme::Blend"
    inputs = ("x", "z")
    outputs = ("y",)
    kernel = "blend.cu.jinja"
    function = """
        w = Constant <value_float: float = @weight> ()
        one = Constant <value_float = 1.0> ()
        rest = Sub (one, w)
        a = Mul (x, w)
        b = Mul (z, rest)
        y = Add (a, b)
    """

    weight: float = 0.5
    negate: bool = False
    mode: str = "plain"
    count: int = 3

    def shapes(self, *inputs: Any) -> Any:
        return (inputs[0],)

    def launch(self, inputs: Any, outputs: Any, tactic: Any) -> Launch:
        return Launch(1, 1)

    def reference(self, *inputs: Any) -> Any:
        return (self.weight * inputs[0] + (1 - self.weight) * inputs[1],)


EMPTY = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[2] x, float[2] z) => (float[2] y) { y = Add (x, z) }
"""


def with_blend(*ops: CustomOp) -> ir.Model:
    """The ops in a chain, each with ``z`` as its second input."""
    model = ir.from_onnx_text(EMPTY)
    model.graph.remove(model.graph[0])
    value, z = model.graph.inputs
    for op in ops:
        node = call_op(model, op, [value, z])
        model.graph.append(node)
        value = node.outputs[0]
    value.name, value.type, value.shape = "y", z.type, z.shape
    model.graph.outputs[0] = value
    return model


def test_onnx_runtime_and_the_checker_take_it_as_it_is() -> None:
    model = with_blend(Blend(weight=0.25), Blend(weight=1.0))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert len(model.functions) == 1  # one body: the attribute goes through a reference
    feeds = {"x": np.array([4, 8], np.float32), "z": np.array([8, 0], np.float32)}
    np.testing.assert_array_equal(run_model(model, feeds)["y"], [7, 2])  # exact in float32


def test_attributes_of_every_kind_survive_a_file() -> None:
    op = Blend(weight=0.25, negate=True, mode="x y", count=-7)
    again = ir.from_proto(ir.to_proto(with_blend(op)))
    assert read_op(again.graph[0], {Blend.name: Blend}) == op


def test_other_nodes_are_no_custom_op() -> None:
    assert read_op(ir.from_onnx_text(EMPTY).graph[0], {Blend.name: Blend}) is None


def test_an_unknown_attribute_is_refused() -> None:
    model = with_blend(Blend())
    model.graph[0].attributes.add(ir.AttrInt64("extra", 1))
    with pytest.raises(ModelError, match="has no attribute 'extra'"):
        read_op(model.graph[0], {Blend.name: Blend})


def test_an_attribute_of_another_type_is_refused() -> None:
    model = with_blend(Blend())
    model.graph[0].attributes.add(ir.AttrString("count", "many"))
    with pytest.raises(ModelError, match="attribute 'count' is STRING"):
        read_op(model.graph[0], {Blend.name: Blend})


@dataclass(frozen=True)
class Chosen(Blend):
    """An op whose body depends on an attribute."""

    name = "acme::Chosen"
    function = "y = {{ 'Sub' if negate else 'Add' }} (x, z)"


def test_bodies_that_depend_on_attributes_become_overloads() -> None:
    model = with_blend(Chosen(), Chosen(negate=True), Chosen())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert len(model.functions) == 2
    assert model.ir_version == 10  # the first with overloads
    feeds = {"x": np.array([4, 8], np.float32), "z": np.array([8, 1], np.float32)}
    np.testing.assert_array_equal(run_model(model, feeds)["y"], [12, 9])


def test_another_function_of_the_name_is_not_overwritten() -> None:
    @dataclass(frozen=True)
    class Other(Blend):
        """The same name, another meaning."""

        function = "y = Sub (x, z)"

    with pytest.raises(StepError, match="already has a function acme::Blend"):
        with_blend(Blend(), Other())


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("y = Gelu (x)", OpsetTooOld, "needs Gelu, which opset 17 lacks"),
        ("y = Add (x", StepError, "the ONNX body of acme::Blend is wrong"),
        ("y = {{ wieght }}", StepError, "'wieght' is undefined"),
    ],
)
def test_a_wrong_body_is_refused_in_words(
    body: str, error: type[StepError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blend, "function", body)
    with pytest.raises(error, match=words):
        make_function(Blend(), 17)
