"""Queries, keys and values become one product, cut by heads: equal outputs, and fewer layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conversion import assert_close, needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from onnx import numpy_helper
from trtforge_plugins.clean import InferShapes
from trtforge_plugins.convert import JoinHeads
from trtforge_plugins.convert.towers import tower_ends
from trtforge_plugins.engine_layers import parse_layers

from trtforge.testing import apply, check_pass, run_model

DEPTH, SIZE = 32, 8
SEPARATE, CUT, STACK = "separate", "cut", "stack"


def attention(  # each argument is one way in which exports differ
    form: str = SEPARATE,
    dims: str = "batch,length",
    heads: int = 2,
    *,
    fewer: bool = False,
    biases: str = "qkv",
    turned: bool = True,
    opset: int = 18,
    extra: str = "",
) -> onnx.ModelProto:
    """Attention with separate products, one that is cut, or one that is a stack of three."""
    rng = np.random.default_rng(0)
    counts = {"q": heads, "k": 1 if fewer else heads, "v": 1 if fewer else heads}
    widths = {part: count * SIZE for part, count in counts.items()}
    weights = {f"w{part}": rng.standard_normal((DEPTH, width)) for part, width in widths.items()}
    weights |= {f"b{part}": rng.standard_normal(width) for part, width in widths.items()}
    weights["w"] = np.concatenate([weights[f"w{part}"] for part in "qkv"], axis=1)
    weights["b"] = np.concatenate([weights[f"b{part}"] for part in "qkv"])
    nodes = ["x = Abs (given)"]
    if form == SEPARATE:
        nodes += [
            f"m{part} = MatMul (x, w{part})  s{part} = Add (m{part}, b{part})"
            if part in biases
            else f"s{part} = MatMul (x, w{part})"
            for part in "qkv"
        ]
    else:
        nodes += ["m = MatMul (x, w)  s = Add (b, m)"]
    if form == CUT:
        nodes += ["sq, sk, sv = Split <axis = -1> (s, widths)"]
    if form == STACK:
        nodes += ["r = Reshape (s, stacked)  t = Transpose <perm = [2, 0, 3, 1, 4]> (r)"]
        nodes += [f"{part} = Gather (t, number{i})" for i, part in enumerate("qkv")]
    else:
        names = {"q": "q", "k": "kt" if turned else "k", "v": "v"}
        perms = {
            "q": "0, 2, 1, 3",
            "k": "0, 2, 3, 1" if turned else "0, 2, 1, 3",
            "v": "0, 2, 1, 3",
        }
        nodes += [
            f"r{part} = Reshape (s{part}, shape{part})"
            f" {names[part]} = Transpose <perm = [{perms[part]}]> (r{part})"
            for part in "qkv"
        ]
    if form == STACK or not turned:
        nodes += ["kt = Transpose <perm = [0, 1, 3, 2]> (k)"]
    nodes += ["scores = MatMul (q, kt)  p = Softmax (scores)  y = MatMul (p, v)", extra]
    text = "\n".join(nodes)
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[{dims},{DEPTH}] given) => (float[a,b,c,d] y) {{ {text} }}""")
    shapes = {f"shape{part}": [0, 0, count, SIZE] for part, count in counts.items()}
    shapes |= {"stacked": [0, 0, 3, heads, SIZE], "widths": list(widths.values())}
    held = {name: array.astype(np.float32) for name, array in weights.items()}
    held |= {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    held |= {f"number{i}": np.array(i, np.int64) for i in range(3)}
    model.graph.initializer.extend(numpy_helper.from_array(held[n], n) for n in sorted(held))
    known, _, _ = apply(InferShapes(), model)
    return ir.to_proto(known)


def quantized(model: onnx.ModelProto, by_column: str = "qkv") -> onnx.ModelProto:
    """The same with INT8 matrices: a scale for each column, or for the others one for all."""
    graph, nodes = model.graph, []
    held = {tensor.name: tensor for tensor in graph.initializer}
    for part in "qkv":
        array = numpy_helper.to_array(held[f"w{part}"])
        scale = np.abs(array).max(axis=0 if part in by_column else None) / np.float32(127)
        numbers = {f"i{part}": np.round(array / scale).astype(np.int8), f"s{part}_": scale}
        graph.initializer.remove(held[f"w{part}"])
        graph.initializer.extend(numpy_helper.from_array(*each[::-1]) for each in numbers.items())
        nodes.append(onnx.helper.make_node("DequantizeLinear", list(numbers), [f"w{part}"], axis=1))
    step = numpy_helper.from_array(np.float32(0.03), "step")
    zero = numpy_helper.from_array(np.int8(0), "zero")
    graph.initializer.extend([step, zero])
    nodes += [
        onnx.helper.make_node("QuantizeLinear", ["given", "step", "zero"], ["small"]),
        onnx.helper.make_node("DequantizeLinear", ["small", "step", "zero"], ["x"]),
    ]
    graph.node.remove(graph.node[0])
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return ir.to_proto(apply(InferShapes(), model)[0])


def products(model: onnx.ModelProto) -> int:
    """Return the number of products with a matrix."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    return sum(node.op_type == "MatMul" and node.input[1] in fixed for node in model.graph.node)


def joined(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, list[str]]:
    check_pass(JoinHeads(), model)
    after, count, notes = apply(JoinHeads(), model)
    return ir.to_proto(after), count, [note.text for note in notes]


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from([SEPARATE, CUT, STACK]),
    sizes=st.tuples(st.integers(0, 3), st.integers(1, 4)),
    open_axes=st.sets(st.integers(0, 1)),
    heads=st.integers(1, 3),
    fewer=st.booleans(),
    biases=st.sampled_from(["qkv", "qv", ""]),
    turned=st.booleans(),
)
def test_outputs_are_the_same_for_all_sizes(  # noqa: PLR0917  # hypothesis gives them by name
    form: str,
    sizes: tuple[int, int],
    open_axes: set[int],
    heads: int,
    fewer: bool,
    biases: str,
    turned: bool,
) -> None:
    dims = ",".join(f"d{i}" if i in open_axes else str(size) for i, size in enumerate(sizes))
    fewer = fewer and form != STACK
    before = attention(form, dims, heads, fewer=fewer, biases=biases, turned=turned)
    after, count, notes = joined(before)
    assert (count, notes, products(after)) == (1, [], 1)
    feeds = {"given": np.random.default_rng(0).standard_normal((*sizes, DEPTH), np.float32)}
    found, expected = run_model(after, feeds), run_model(before, feeds)
    # a wider matrix may add its terms in another order: some roundings of float32
    assert_close([found["y"]], [expected["y"]], rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.sampled_from("qkv")), st.sampled_from(["qkv", "qv", ""]), st.booleans())
def test_quantized_matrices_are_joined_with_their_scales(
    by_column: set[str], biases: str, fewer: bool
) -> None:
    before = quantized(attention(biases=biases, fewer=fewer), "".join(by_column))
    after, count, notes = joined(before)
    kinds = [node.op_type for node in after.graph.node]
    assert (count, notes) == (1, [])
    assert (kinds.count("MatMul"), kinds.count("DequantizeLinear")) == (3, 2)
    feeds = {"given": np.random.default_rng(0).standard_normal((2, 3, DEPTH), np.float32)}
    found, expected = run_model(after, feeds), run_model(before, feeds)
    assert_close([found["y"]], [expected["y"]], rtol=1e-5, atol=1e-6)


def test_attentions_with_one_input_stay_apart() -> None:
    """Keys and values of all layers of a decoder, joined, would be kept for long."""
    twice = """
        mk2 = MatMul (x, wk)  rk2 = Reshape (mk2, shapek)
        kt2 = Transpose <perm = [0, 2, 3, 1]> (rk2)
        mv2 = MatMul (x, wv)  rv2 = Reshape (mv2, shapev)
        v2 = Transpose <perm = [0, 2, 1, 3]> (rv2)
        scores2 = MatMul (v2, kt2)  p2 = Softmax (scores2)  y2 = MatMul (p2, v2)
    """
    before = attention(extra=twice)
    for node in before.graph.node:
        for index, name in enumerate(node.input):
            if name in ("wk", "wv") and node.output[0].endswith("2"):
                node.input[index] = f"{name}2"
    held = {tensor.name: tensor for tensor in before.graph.initializer}
    for name in ("wk", "wv"):
        before.graph.initializer.append(
            numpy_helper.from_array(numpy_helper.to_array(held[name]), f"{name}2")
        )
    before.graph.output.append(onnx.helper.make_tensor_value_info("y2", 1, ["a", "b", "c", "d"]))
    after, count, _ = joined(before)
    assert (count, products(after)) == (2, 2)


def test_the_last_attentions_of_encoders_side_by_side_stay() -> None:
    """As in CLIP: joined, TensorRT would run them at once, each with scratch memory of its own."""
    layer = attention()
    two = onnx.compose.merge_models(
        onnx.compose.add_prefix(layer, "image_"), onnx.compose.add_prefix(layer, "text_"), io_map=[]
    )
    after, count, notes = joined(two)
    assert (count, products(after)) == (0, products(two))
    assert notes == ["left alone: it is the last attention of one of several encoders"] * 2


@pytest.mark.parametrize(
    ("nodes", "ends"),
    [
        ("a = Softmax (x)  b = Softmax (a)  c = Softmax (b)", ""),
        ("a = Softmax (x)  b = Softmax (a)  c = Softmax (y)  o = Add (b, c)", "bc"),
        ("a = Softmax (x)  b = Softmax (y)  both = MatMul (b, a)  c = Softmax (both)", ""),
        ("a = Softmax (x)  b = Neg (x)  c = Softmax (b)", ""),
    ],
    ids=["one stack", "two encoders", "an encoder and its decoder", "branches of one input"],
)
def test_towers(nodes: str, ends: str) -> None:
    graph = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        g (float[2,2] x, float[2,2] y) => (float[2,2] c) {{ {nodes} }}"""
    ).graph
    attentions = [node for node in graph if node.op_type == "Softmax"]
    found = {node.outputs[0].name for node in tower_ends(graph, attentions)}
    assert found == set(ends)


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"opset": 13}, "it needs opset 14"),
        ({"extra": "other = MatMul (x, wk)  sum = ReduceSum (other)"}, "reads the matrix"),
        ({"extra": "seen = Neg (sq)"}, ""),  # the query is read before its Transpose
    ],
)
def test_what_stays(changed: dict[str, object], note: str) -> None:
    before = attention(**changed)  # type: ignore[arg-type]  # the names are those of arguments
    after, count, notes = joined(before)
    assert count == int(not note)
    assert products(after) == products(before) - (0 if note else 1)
    assert [note in each for each in notes] == [True] * bool(note)


@needs_tensorrt
def test_engines_have_fewer_layers() -> None:
    """Each form loses the kernels that add a bias and transpose for queries, keys and values."""
    models = {}
    attentions = {form: attention(form) for form in (SEPARATE, CUT, STACK)}
    attentions["quantized"] = quantized(attention())
    for form, before in attentions.items():
        models[f"{form} before"] = (before, ("SM89",))
        models[f"{form} after"] = (joined(before)[0], ("SM89",))
    dumps = {name: len(parse_layers(text).layers) for name, text in build_dumps(models).items()}
    for form in attentions:
        assert dumps[f"{form} after"] < dumps[f"{form} before"], (form, dumps)
