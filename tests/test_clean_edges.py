"""Clean-up passes on what property tests do not reach: hostile sizes, large files, odd models."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from trtforge_plugins.clean import (
    DedupeWeights,
    DropDeadCode,
    DropIdentity,
    FoldBatchnorm,
    FoldConstants,
    InferShapes,
    MergeDuplicates,
    ResolveIf,
    UnrollLoop,
    UpgradeOpset,
)

from trtforge import RequestError, model_file
from trtforge.quantities import ByteSize
from trtforge.testing import apply, check_pass, run_model

HEAD = '<ir_version: 10, opset_import: ["" : 18]>\n'


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


# fold-constants


def test_a_broadcast_to_terabytes_is_refused_before_it_runs() -> None:
    text = (
        HEAD
        + """g (float[1] x) => (float[1] y)
    <int64[1] n = {1000000}, int64[2] row = {1, -1}, int64[2] column = {-1, 1}>
    {
        long = ConstantOfShape (n)
        a = Reshape (long, row)
        b = Reshape (long, column)
        [outer] c = Add (a, b)
        m = ReduceMax <keepdims = 0> (c)
        s = Reshape (m, n1)
        y = Add (x, s)
    }""".replace("<int64[1] n", "<int64[1] n1 = {1}, int64[1] n")
    )
    model, _, notes = apply(FoldConstants(), text)
    assert "Add" in ops(model)
    assert any(n.node == "outer" and "3.64TiB" in n.text for n in notes), notes


def test_a_weight_that_is_used_once_may_be_transposed_whatever_its_size() -> None:
    text = (
        HEAD
        + """g (float[1,4] x) => (float[1,2] y) <float[2,4] w = {1,2,3,4,5,6,7,8}>
    { t = Transpose (w)  y = MatMul (x, t) }"""
    )
    model = check_pass(
        FoldConstants(size_threshold=ByteSize(0)), text, {"x": np.ones((1, 4), np.float32)},
        changes=1,
    )  # fmt: skip
    assert ops(model) == ["MatMul"]
    assert "w" not in model.graph.initializers


def test_a_weight_that_is_still_used_is_not_stored_twice() -> None:
    text = (
        HEAD
        + """g (float[1,4] x) => (float[1,2] y, float[2,4] k)
    <float[2,4] w = {1,2,3,4,5,6,7,8}>
    { [flip] t = Transpose (w)  y = MatMul (x, t)  k = Mul (w, x) }"""
    )
    _, changes, notes = apply(FoldConstants(size_threshold=ByteSize(0)), text)
    assert changes == 0
    assert "more than size_threshold" in notes[0].text


def test_nan_infinity_and_large_integers_stay_exact() -> None:
    text = (
        HEAD
        + """g (float[3] x, int64[1] i) => (float[3] y, int64[1] j)
    <float[3] a = {0, 1, -1}, float[3] zero = {0, 0, 0}, int64[1] big = {9007199254740993}>
    { d = Div (a, zero)  y = Add (x, d)  b = Add (big, big)  j = Add (i, b) }"""
    )
    feed = {"x": np.zeros(3, np.float32), "i": np.zeros(1, np.int64)}
    model = check_pass(FoldConstants(), text, feed, changes=2)
    assert run_model(model, feed)["j"].tolist() == [18014398509481986]


def test_one_node_that_onnx_runtime_cannot_run_does_not_stop_the_others() -> None:
    text = (
        HEAD
        + """g (float[2] x) => (float[2] y, float16[2] z)
    <float[2] a = {1, 2}, float16[2] h = {1, 2}, int64[1] bad = {7}>
    { b = Exp (a)  [bad] c = Gather (b, bad)  d = Add (c, a)  e = Neg (a)
      f = Add (e, x)  y = Add (f, d)  z = Neg (h) }"""
    )
    model, changes, notes = apply(FoldConstants(), text)
    assert changes == 3  # Exp, Neg of float32 and Neg of float16
    assert [note.node for note in notes] == ["bad"]
    assert "out of" in notes[0].text
    assert ops(model) == ["Gather", "Add", "Add", "Add", "Constant"]


def test_types_that_numpy_lacks_are_named() -> None:
    text = (
        HEAD
        + """g (bfloat16[2] x) => (bfloat16[2] y) <bfloat16[2] a = {1, 2}>
    { [brain] b = Neg (a)  y = Add (x, b) }"""
    )
    _, changes, notes = apply(FoldConstants(), text)
    assert (changes, notes[0].node) == (0, "brain")
    assert "BFLOAT16" in notes[0].text


def test_a_shape_of_which_the_needed_part_is_static_folds() -> None:
    text = (
        HEAD
        + """g (float[N,3,4] x) => (int64[1] c, int64[2] rest, int64[1] e)
    <int64[1] one = {1}, int64[1] end = {3}, int64[1] axis = {0}>
    { s = Shape (x)  c = Gather (s, one)  rest = Slice (s, one, end, axis)
      e = Shape <start = -1> (x) }"""
    )
    model = check_pass(FoldConstants(), text, {"x": np.zeros((2, 3, 4), np.float32)}, changes=3)
    assert set(ops(model)) == {"Shape", "Constant"}


# weights that stay in their file


def big_file_model(folder: Path, rows: int) -> Path:
    """Two equal weights [rows, 1024] of zeros and one other, in a sparse data file."""
    size = rows * 1024 * 4
    with (folder / "w.data").open("wb") as data:
        data.truncate(3 * size)
        data.seek(2 * size)
        data.write(b"\1")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["a"]),
            helper.make_node("Add", ["a", "sum"], ["b"]),
            helper.make_node("ReduceSum", ["w1"], ["sum"]),
            helper.make_node("ReduceSum", ["w2"], ["other"]),
            helper.make_node("Add", ["b", "other"], ["y"]),
        ],
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    order = [0, 2, 1, 3, 4]
    nodes = [graph.node[i] for i in order]
    del graph.node[:]
    graph.node.extend(nodes)
    for index in range(3):
        tensor = graph.initializer.add(name=f"w{index}", data_type=TensorProto.FLOAT)
        tensor.dims.extend([rows, 1024])
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "w.data"), ("offset", index * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(text))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "big.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_of_a_file_stay_in_it(tmp_path: Path) -> None:
    model = model_file.load(big_file_model(tmp_path, 16))
    for step in (InferShapes(), DropIdentity(), DedupeWeights(), MergeDuplicates(), DropDeadCode()):
        model, _, _ = apply(step, model)
    assert sorted(model.graph.initializers) == ["w0", "w2"]
    for value in model.graph.initializers.values():
        assert isinstance(value.const_value, ir.ExternalTensor)


def test_shapes_of_a_model_over_two_gigabytes_are_inferred(tmp_path: Path) -> None:
    model = model_file.load(big_file_model(tmp_path, 256 * 1024))  # three times 1 GiB, sparse
    model, changes, notes = apply(InferShapes(), model)
    assert not notes
    assert changes == 4
    assert str(model.graph[0].outputs[0].shape) == "[N,1024]"


# infer-shapes


def test_no_made_up_name_is_stored() -> None:
    text = (
        HEAD
        + """g (float[N] x, int64[1] n) => (float[M] y)
    { e = Expand (x, n)  r = Relu (e)  y = Neg (r) }"""
    )
    model, _, _ = apply(InferShapes(), text)
    assert all("unk" not in str(v.shape) for node in model.graph for v in node.outputs)


def test_a_model_with_contradicting_shapes_is_left_with_a_note() -> None:
    text = HEAD + "g (float[2,3] x) => (float[2,3] y) { a = Add (x, x)  y = MatMul (a, a) }"
    _, _, notes = apply(InferShapes(), text)
    assert notes, "a wrong MatMul was not noticed"
    assert "Incompatible dimensions" in notes[0].text


def test_thirty_attention_like_layers_keep_their_symbol() -> None:
    layers = "".join(
        f"h{i} = Reshape (x{i}, split)  j{i} = Reshape (h{i}, join)  x{i + 1} = Add (j{i}, x{i})\n"
        for i in range(30)
    )
    text = (
        HEAD
        + f"""g (float[B,S,8] x0) => (float[P,Q,R] y)
    <int64[4] split = {{0, -1, 2, 4}}, int64[3] join = {{0, -1, 8}}> {{ {layers} y = Neg (x30) }}"""
    )
    model, _, _ = apply(InferShapes(), text)
    assert str(model.graph[-2].outputs[0].shape) == "[B,S,8]"


# merge-duplicates


def test_nodes_with_different_parameters_of_a_function_stay_apart() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "f" : 1]>
    g (float[2,3] x) => (float[2] y) { y = f.differ <a = 0, b = 1> (x) }
    <domain: "f", opset_import: ["" : 18]>
    differ <a, b> (x) => (y) {
        p = Softmax <axis: int = @a> (x)
        q = Softmax <axis: int = @b> (x)
        d = Sub (p, q)
        axes = Constant <value = int64[1] {1}> ()
        y = ReduceSum <keepdims = 0> (d, axes)
    }"""
    check_pass(
        MergeDuplicates(), text, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, changes=0
    )


def test_functions_with_random_nodes_and_unknown_operators_stay_apart() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "f" : 1, "acme" : 1]>
    g (float[2] x) => (float[2] y) {
        [n1] a = f.noise (x)
        [n2] b = f.noise (x)
        [k1] c = acme.kernel (a)
        [k2] d = acme.kernel (a)
        e = Sub (c, d)  y = Sub (e, b)
    }
    <domain: "f", opset_import: ["" : 18]>
    noise (x) => (y) { y = RandomNormalLike (x) }"""
    _, changes, notes = apply(MergeDuplicates(), text)
    assert changes == 0
    assert {note.node for note in notes} == {"n2", "k2"}


def test_a_result_that_only_the_second_node_has_is_not_lost() -> None:
    text = (
        HEAD
        + """g (float[4] x) => (float[2] y, int64[2] z) <int64[1] k = {2}>
    { y = TopK (x, k)  v, z = TopK (x, k) }""".replace("y = TopK", "y, unused = TopK")
    )
    check_pass(MergeDuplicates(), text, {"x": np.arange(4, dtype=np.float32)}, changes=1)


# fold-batchnorm


@pytest.mark.parametrize("variance", ["{0.0, 0.0}", "{-1.0, 1.0}"])
def test_a_batchnorm_whose_fold_would_overflow_stays(variance: str) -> None:
    text = (
        HEAD
        + f"""g (float[1,2,1] x) => (float[1,2,1] y)
    <float[2,2,1] w = {{1,2,3,4}}, float[2] s = {{1e38, 1e38}}, float[2] z = {{0, 0}},
     float[2] v = {variance}>
    {{ [conv] c = Conv (x, w)  [bn] y = BatchNormalization (c, s, z, z, v) }}"""
    )
    _, changes, notes = apply(FoldBatchnorm(), text)
    assert changes == 0
    assert "leaves the range" in notes[0].text


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_with_groups_keep_their_values(group: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 6 // group, 3, 3)).astype(np.float32)
    stats = [np.abs(rng.normal(size=6)).astype(np.float32) for _ in range(4)]
    model = ir.from_onnx_text(
        HEAD
        + f"""g (float[1,4,5,5] x, float[4,{6 // group},3,3] w, float[6] s, float[6] b,
        float[6] m, float[6] v) => (float[1,6,7,7] y)
        {{ c = ConvTranspose <group = {group}> (x, w)  y = BatchNormalization (c, s, b, m, v) }}"""
    )
    for value, array in zip(model.graph.inputs[1:], [weight, *stats], strict=True):
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    del model.graph.inputs[1:]
    feed = {"x": rng.normal(size=(1, 4, 5, 5)).astype(np.float32)}
    # One more rounding of each weight to float32 (6e-8), in sums of 36 products.
    check_pass(FoldBatchnorm(), model, feed, changes=1, rtol=1e-5, atol=1e-5)


# resolve-if and unroll-loop


def test_branches_with_the_same_names_move_out_side_by_side() -> None:
    branch = (
        "then_branch = t () => (float[2] r) { k = Exp (x)  r = Neg (k) }, "
        "else_branch = e () => (float[2] r) { k = Abs (x)  r = Relu (k) }"
    )
    text = (
        HEAD
        + f"""g (float[2] x) => (float[2] y) <bool yes = {{1}}, bool no = {{0}}>
    {{ [a] p = If (yes) <{branch}>  [b] q = If (no) <{branch}>  y = Add (p, q) }}"""
    )
    model = check_pass(ResolveIf(), text, {"x": np.ones(2, np.float32)}, changes=2)
    assert ops(model) == ["Exp", "Neg", "Abs", "Relu", "Add"]


def test_nested_loops_unroll_completely() -> None:
    text = (
        HEAD
        + """g (float[1] x) => (float[1] y, float[2,1] s) <int64 two = {2}, bool go = {1}>
    { [outer] y, s = Loop (two, go, x) <body = b (int64 i, bool c, float[1] v)
        => (bool d, float[1] w, float[1] seen) {
        d = Identity (c)
        [inner] w = Loop (two, go, v) <body = n (int64 j, bool e, float[1] p)
            => (bool f, float[1] q) { f = Identity (e)  [add] q = Add (p, x) }>
        seen = Neg (w) }> }"""
    )
    model = check_pass(UnrollLoop(), text, {"x": np.ones(1, np.float32)}, changes=3)
    assert ops(model).count("Add") == 4


def test_a_loop_that_never_runs_gives_its_start_value() -> None:
    text = (
        HEAD
        + """g (float[1] x) => (float[1] y) <int64 two = {2}, bool stop = {0}>
    { z = Neg (x)  y = Loop (two, stop, z) <body = b (int64 i, bool c, float[1] v)
        => (bool d, float[1] w) { d = Identity (c)  w = Exp (v) }> }"""
    )
    model = check_pass(UnrollLoop(), text, {"x": np.ones(1, np.float32)}, changes=1)
    assert ops(model) == ["Neg"]


# upgrade-opset


def test_weights_and_metadata_survive_the_conversion() -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]>
    g (float[N,3] x) => (float[N,300] y) { [mul] m = MatMul (x, w)  [soft] y = Softmax (m) }"""
    model = ir.from_onnx_text(text.replace("(float[N,3] x)", "(float[N,3] x, float[3,300] w)"))
    weight = model.graph.inputs.pop()
    tensor = ir.tensor(np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32), name="w")
    weight.const_value = tensor
    model.graph.register_initializer(weight)
    model.graph[0].metadata_props["from"] = "torch"
    feed = {"x": np.ones((2, 3), np.float32)}
    # Softmax of opset 13 is another kernel; it rounds each exponential once (6e-8).
    after = check_pass(UpgradeOpset(), model, feed, changes=10, rtol=1e-6)
    assert after.graph.initializers["w"].const_value is tensor


def test_an_unknown_version_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="to=99"):
        apply(UpgradeOpset(to=99), HEAD + "g (float[1] x) => (float[1] y) { y = Relu (x) }")


def test_a_newer_model_stays() -> None:
    _, changes, _ = apply(
        UpgradeOpset(to=17), HEAD + "g (float[1] x) => (float[1] y) { y = Relu (x) }"
    )
    assert changes == 0


def test_newest_version_is_read_from_onnx() -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(RequestError, match=f"between 1 and {newest}"):
        UpgradeOpset(to=0).rewrite(ir.from_onnx_text(HEAD + "g () => () {}"), None)
