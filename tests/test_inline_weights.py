"""Weights inside a model file are read and written as protobuf itself would."""

from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from trtforge import inline_weights, model_file
from trtforge.weights import side_by_side

LARGE = np.arange(2**15, dtype=np.float32).reshape(128, 256)  # 128 KiB: written on its own


def model(**tensors: onnx.TensorProto) -> onnx.ModelProto:
    """A graph with these initializers, and one of them as a Constant too."""
    for name, tensor in tensors.items():
        tensor.name = name
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[1] x) => '
                                   "(float[1] y) { y = Identity(x) }")  # fmt: skip
    made.graph.initializer.extend(tensors.values())
    first = next(iter(tensors.values()))
    made.graph.node.append(helper.make_node("Constant", [], ["again"], value=first))
    made.metadata_props.add(key="author", value="somebody")
    return made


def written(source: ir.Model) -> onnx.ModelProto:
    file = BytesIO()
    inline_weights.write(source, file, {}, model_file.MAX_PROTOBUF)
    return onnx.ModelProto.FromString(file.getvalue())


def stored(kind: str) -> onnx.TensorProto:
    if kind == "raw":
        return numpy_helper.from_array(LARGE)
    if kind == "numbers":
        return helper.make_tensor("", onnx.TensorProto.FLOAT, LARGE.shape, LARGE.reshape(-1))
    if kind == "int4":
        return helper.make_tensor("", onnx.TensorProto.INT4, [2**18], [3] * 2**18)
    if kind == "bfloat16":
        return helper.make_tensor("", onnx.TensorProto.BFLOAT16, [2**16], [1.5] * 2**16)
    if kind == "texts":
        return helper.make_tensor("", onnx.TensorProto.STRING, [2], [b"one", b"two"])
    return helper.make_tensor("", onnx.TensorProto.FLOAT, [0, 4], b"", raw=True)


@pytest.mark.parametrize("kind", ["raw", "numbers", "int4", "bfloat16", "texts", "empty"])
def test_every_kind_of_tensor_comes_back(kind: str, tmp_path: Path) -> None:
    given_model = model(w=stored(kind), small=numpy_helper.from_array(LARGE[:1]))
    onnx.save(given_model, tmp_path / "m.onnx")
    found = written(model_file.load(tmp_path / "m.onnx"))
    kept = [(each.name, list(each.dims), each.data_type) for each in given_model.graph.initializer]
    assert [(e.name, list(e.dims), e.data_type) for e in found.graph.initializer] == kept
    for one, other in zip(found.graph.initializer, given_model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    assert [node.op_type for node in found.graph.node] == ["Identity", "Constant"]
    assert found.metadata_props[0].value == "somebody"


def test_matrices_side_by_side_are_written_as_one() -> None:
    source = ir.from_proto(model(w=numpy_helper.from_array(LARGE)))
    parts = [ir.tensor(LARGE), ir.tensor(LARGE + 1)]
    source.graph.initializers["w"].const_value = side_by_side(parts, "w")
    (tensor,) = written(source).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.hstack((LARGE, LARGE + 1)))


def test_a_tensor_that_an_attribute_shares_keeps_its_data() -> None:
    source = ir.from_proto(model(w=stored("raw"), v=stored("raw")))
    shared = ir.tensor(LARGE + 1)
    for value in source.graph.initializers.values():
        value.const_value = shared
    constant = source.graph[1]
    constant.attributes["value"] = ir.AttrTensor("value", shared)
    found = written(source)
    for tensor in (*found.graph.initializer, found.graph.node[1].attribute[0].t):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), LARGE + 1)
    assert [each.name for each in found.graph.initializer] == ["w", "v"]
    assert all(value.const_value is shared for value in source.graph.initializers.values())


def test_a_loaded_tensor_is_one_array_however_often_it_is_asked_for(tmp_path: Path) -> None:
    onnx.save(model(w=stored("raw")), tmp_path / "m.onnx")
    tensor = model_file.load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert tensor is not None
    assert np.shares_memory(tensor.numpy(), tensor.numpy())


def test_more_than_protobuf_holds_is_refused_before_anything_is_written() -> None:
    file = BytesIO()
    with pytest.raises(ValueError, match="more than protobuf's 1000"):
        inline_weights.write(ir.from_proto(model(w=stored("raw"))), file, {}, 1000)
    assert not file.getvalue()


@given(st.integers(0, 2**40))
def test_lengths_are_written_as_protobuf_writes_them(number: int) -> None:
    theirs = onnx.TensorProto(int64_data=[number]).SerializeToString()
    packed = theirs[2:]  # tag of the field, and the length of what follows
    assert inline_weights._varint(number) == packed
