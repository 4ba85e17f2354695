"""A surgeon pass edits with graphsurgeon, and everything that graphsurgeon lacks comes through."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtforge import Context, Request, StepError, SurgeonPass
from trtforge.graph import add_initializer


@dataclass(frozen=True)
class Touch(SurgeonPass):
    """Says that it changed something, so that the graph makes the round trip."""

    name = "touch"

    def rewrite(self, graph: Any, ctx: Context) -> int:
        return 1


def context(model: ir.Model | str) -> Context:
    if isinstance(model, str):
        model = ir.from_proto(onnx.parser.parse_model(model))
    return Context(model, Path(), Request(source="test"))


def run(model: onnx.ModelProto, x: Any) -> Any:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def round_trip(model: ir.Model | str) -> ir.Model:
    ctx = context(model)
    assert Touch().run(ctx) == 1
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=True)
    return ctx.model


def assert_same(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    after = ir.to_proto(round_trip(ir.from_proto(ir.to_proto(model))))
    assert after == onnx.ModelProto.FromString(before)


SUBGRAPHS = """
<ir_version: 10, opset_import: ["" : 20]>
main (bool c, float[N, 4] x, int64 n) => (float[N, 4] y, float[N, 4] z)
<float[4] w = {1, 2, 3, 4}, float[4] only_inside = {5, 6, 7, 8}> {
    a = Add (x, w)
    y = If (c) <
        then_branch = yes () => (float[N, 4] t) <float[4] own = {1, 1, 1, 1}> {
            t0 = Mul (a, only_inside)
            t1 = Add (t0, own)
            t = Add (t1, w)
        },
        else_branch = no () => (float[N, 4] e) { e = Sub (a, w) }
    >
    z = Loop (n, c, x) <
        body = step (int64 i, bool go, float[N, 4] carried) => (bool go_on, float[N, 4] next) {
            go_on = Identity (go)
            next = Add (carried, only_inside)
        }
    >
}
"""

FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 20, "acme" : 3]>
main (float[2, 4] x) => (float[2, 4] y) {
    [call] y = acme.Scale <factor = 2.5> (x)
}
<domain: "acme", opset_import: ["" : 20]>
Scale <factor, floor: float = 0.5> (v) => (r) {
    f = Constant <value_float: float = @factor> ()
    l = Constant <value_float: float = @floor> ()
    g = Max (f, l)
    r = Mul (v, g)
}
"""


@pytest.mark.parametrize("text", [SUBGRAPHS, FUNCTIONS], ids=["if and loop", "function"])
def test_structure_comes_through_byte_for_byte(text: str) -> None:
    assert_same(ir.from_proto(onnx.parser.parse_model(text)))


def test_metadata_and_doc_strings_come_through_at_every_level() -> None:
    model = ir.from_proto(onnx.parser.parse_model(FUNCTIONS))
    model.graph.inputs[0].doc_string = "the picture"
    model.doc_string = "a model"
    model.domain, model.model_version, model.producer_name = "org.acme", 7, "trainer"
    function = next(iter(model.functions.values()))
    owners = [model, model.graph, model.graph[0], model.graph.inputs[0], function, function[0]]
    for index, owner in enumerate(owners):
        owner.metadata_props["pkg.torch"] = f"place {index}"
    model.graph[0].doc_string = "what it does"
    assert_same(model)


def test_optional_inputs_and_outputs_stay_left_out() -> None:
    assert_same(
        ir.from_proto(
            onnx.parser.parse_model(
                """
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[1, 3, 4] x, float[1, 8, 4] w, float[1, 8, 2] r, float[1, 3, 2] h)
            => (float[1, 3, 2] state) {
            "", state = LSTM <hidden_size = 2> (x, w, r, "", "", h)
        }
    """.replace("none, state", '"", state')
            )
        )
    )


def test_an_input_with_a_default_stays_an_input() -> None:
    assert_same(
        ir.from_proto(
            onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[2] x, float[2] k = {1, 2}) => (float[2] y) { y = Add (x, k) }
    """)
        )
    )


def test_sequences_and_type_attributes_come_through() -> None:
    assert_same(
        ir.from_proto(
            onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[2] x, int64 i) => (float[2] y) {
            s = SequenceConstruct (x, x)
            y = SequenceAt (s, i)
        }
    """)
        )
    )
    optional = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[2] x) => (bool y) { o = Optional () y = OptionalHasElement (o) }
    """)
    of_floats = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    optional.graph.node[0].attribute.append(onnx.helper.make_attribute("type", of_floats))
    assert_same(ir.from_proto(optional))


NARROW = {
    "bfloat16": ml_dtypes.bfloat16, "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "float8e8m0": ml_dtypes.float8_e8m0fnu,
    "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4, "float4e2m1": ml_dtypes.float4_e2m1fn,
    "float16": np.float16, "bool": np.bool_, "int8": np.int8,
}  # fmt: skip


def with_weight(dtype: Any) -> ir.Model:
    """A model with a weight of three elements (odd: 4-bit types are padded), cast to float."""
    model = ir.from_proto(
        onnx.parser.parse_model(
            """
        <ir_version: 11, opset_import: ["" : 24]>
        main (float[3] x) => (float[3] y) { f = Cast <to = 1> (w) y = Add (x, f) }
    """.replace("(w)", "(x)")
        )
    )
    weight = add_initializer(model.graph, "w", np.array([0, 1, 1]).astype(dtype))
    model.graph[0].replace_input_with(0, weight)
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return model


@pytest.mark.parametrize("dtype", NARROW)
def test_weights_of_every_type_come_through(dtype: str) -> None:
    assert_same(with_weight(NARROW[dtype]))


@pytest.mark.parametrize("dtype", NARROW)
def test_weights_of_every_type_can_be_edited(dtype: str) -> None:
    @dataclass(frozen=True)
    class SetFirst(SurgeonPass):
        """Sets the first element of each constant to one, in place."""

        name = "set-first"

        def rewrite(self, graph: Any, ctx: Context) -> int:
            graph.nodes[0].inputs[0].values[0] = 1
            return 1

    ctx = context(with_weight(NARROW[dtype]))
    SetFirst().run(ctx)
    again = ir.from_proto(ir.to_proto(ctx.model))
    tensor = again.graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.dtype == ir.DataType.from_numpy(np.dtype(NARROW[dtype]))
    np.testing.assert_array_equal(tensor.numpy().astype(np.float32), [1, 1, 1])


@pytest.mark.parametrize("dtype", NARROW)
def test_activations_of_every_type_keep_it(dtype: str) -> None:
    code = ir.DataType.from_numpy(np.dtype(NARROW[dtype])).value
    model = onnx.parser.parse_model(f"""
        <ir_version: 11, opset_import: ["" : 24]>
        main (float[2, N] x) => (float[2, N] y) {{
            n = Cast <to = {code}> (x)
            y = Cast <to = 1> (n)
        }}
    """)
    assert_same(ir.from_proto(onnx.shape_inference.infer_shapes(model)))


def test_a_constant_added_to_a_function_becomes_a_node_of_it() -> None:
    @dataclass(frozen=True)
    class Grow(SurgeonPass):
        """Adds a constant in the function's body."""

        name = "grow"

        def rewrite(self, graph: Any, ctx: Context) -> int:
            import onnx_graphsurgeon as gs

            last = graph.functions[0].nodes[-1]
            last.inputs[1] = gs.Constant("three", np.array(3, np.float32))
            return 1

    ctx = context(FUNCTIONS)
    Grow().run(ctx)
    proto = ir.to_proto(ctx.model)
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_array_equal(
        run(proto, np.ones((2, 4), np.float32)), np.full((2, 4), 3)
    )  # small integers are exact


def test_untouched_weights_are_shared_not_copied() -> None:
    model = with_weight(np.float16)
    before = model.graph.initializers["w"].const_value
    assert round_trip(model).graph.initializers["w"].const_value is before


@dataclass(frozen=True)
class FuseAdds(SurgeonPass):
    """Turns ``(x + a) + b`` into ``Sum(x, a, b)``: written as TensorRT people write it."""

    name = "fuse-adds"

    def rewrite(self, graph: Any, ctx: Context) -> int:
        import onnx_graphsurgeon as gs

        first, second = graph.nodes
        extra = gs.Constant("extra", np.full(2, 3, np.float32))
        graph.nodes.append(
            gs.Node(
                "Sum",
                "sum",
                inputs=[*first.inputs, second.inputs[1], extra],
                outputs=second.outputs,
            )
        )
        second.outputs.clear()
        graph.cleanup().toposort()
        return 1


ADDS = """
<ir_version: 10, opset_import: ["" : 20]>
main (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> {
    t = Add (x, a)
    y = Add (t, b)
}
"""


def test_a_pass_replaces_nodes_and_adds_weights() -> None:
    ctx = context(ADDS)
    assert FuseAdds().run(ctx) == 1
    assert [node.op_type for node in ctx.model.graph] == ["Sum"]
    y = run(ir.to_proto(ctx.model), np.zeros(2, np.float32))
    np.testing.assert_array_equal(y, [7, 9])  # small integers: float32 holds them exactly


def test_consecutive_passes_share_one_graph_and_later_readers_see_all_edits() -> None:
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Rename(SurgeonPass):
        """Counts in the graph's name."""

        name = "rename"

        def rewrite(self, graph: Any, ctx: Context) -> int:
            graph.name += "+"
            seen.append(graph)
            return 1

    ctx = context(ADDS)
    Rename().run(ctx)
    Rename().run(ctx)
    assert seen[0] is seen[1]
    assert ctx.model.graph.name == "main++"
    ctx.model.graph.name = "edited with onnx-ir"
    Rename().run(ctx)
    assert seen[2] is not seen[0]
    assert ctx.model.graph.name == "edited with onnx-ir+"


def test_a_pass_that_changes_nothing_leaves_the_very_graph() -> None:
    @dataclass(frozen=True)
    class Look(SurgeonPass):
        """Only looks."""

        name = "look"

        def rewrite(self, graph: Any, ctx: Context) -> int:
            return 0

    ctx = context(ADDS)
    graph = ctx.model.graph
    assert Look().run(ctx) == 0
    assert ctx.model.graph is graph


def dangle(graph: Any) -> None:
    graph.nodes.pop(0)


def give_twice(graph: Any) -> None:
    graph.nodes[1].outputs[0].name = "t"


def spoil_an_attribute(graph: Any) -> None:
    graph.nodes[0].attrs["alpha"] = object()


def make_a_cycle(graph: Any) -> None:
    graph.nodes[0].inputs[0] = graph.nodes[1].outputs[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dangle, "read 't', which no node"),
        (give_twice, "'t' is given twice"),
        (spoil_an_attribute, "bad-pass: node 'Add' has an attribute"),
        (make_a_cycle, "bad-pass: the graph has a cycle"),
    ],
)
def test_a_broken_graph_is_refused_by_name(spoil: Any, words: str) -> None:
    @dataclass(frozen=True)
    class BadPass(SurgeonPass):
        """Breaks the graph."""

        name = "bad-pass"

        def rewrite(self, graph: Any, ctx: Context) -> int:
            spoil(graph)
            return 1

    ctx = context(ADDS)
    with pytest.raises(StepError, match=words):
        BadPass().run(ctx) and ctx.model.graph


def test_four_thousand_nodes_take_no_time_to_speak_of() -> None:
    lines = "\n".join(f"v{i + 1} = Add (v{i}, w)" for i in range(4000))
    text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[2] v0) => (float[2] v4000) <float[2] w = {{1, 2}}> {{ {lines} }}
    """
    ctx = context(text)
    start = time.perf_counter()
    Touch().run(ctx)
    assert len(ctx.model.graph) == 4000
    assert time.perf_counter() - start < 10  # half a second here; quadratic work takes minutes
