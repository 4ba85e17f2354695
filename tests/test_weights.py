"""Digests name content: equal content gives equal names however it is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtforge import model_file
from trtforge.weights import (
    exchange,
    exchanged,
    model_digest,
    side_by_side,
    tensor_digest,
    tensors,
)

BRANCHES = """
<ir_version: 10, opset_import: ["" : 21]>
branches (bool c, float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}>
{
    y = If (c) <
        then_branch = one () => (float[2] a) { k = Constant <value = float[2] {3.0, 4.0}> ()
                                               a = Add (x, k) },
        else_branch = two () => (float[2] b) { b = Mul (x, w) }
    >
}
"""


def external(array: np.ndarray, folder: Path, pad: int = 0) -> ir.ExternalTensor:
    (folder / "data").write_bytes(bytes(pad) + array.tobytes())
    dtype = ir.tensor(array).dtype
    return ir.ExternalTensor(
        "data", pad, array.nbytes, dtype, shape=ir.Shape(array.shape), name="t", base_dir=folder
    )


@settings(max_examples=30, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int8, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3),
    ),
    pad=st.integers(0, 9),
)
def test_storage_makes_no_difference(
    array: np.ndarray, pad: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    in_memory = ir.tensor(array, name="t")
    in_proto = ir.serde.deserialize_tensor(ir.to_proto(in_memory))
    on_disk = external(array, tmp_path_factory.getbasetemp(), pad)
    assert tensor_digest(in_memory) == tensor_digest(in_proto) == tensor_digest(on_disk)


@pytest.mark.parametrize("height", [(), (3,)])
def test_matrices_side_by_side_are_read_when_asked_for(
    height: tuple[int, ...], tmp_path: Path
) -> None:
    first = np.arange(2 * 3, dtype=np.float16).reshape(3, 2)[: height[0] if height else 1]
    second = np.ones((*first.shape[:-1], 4), np.float16)
    first, second = (array.reshape(*height, -1) for array in (first, second))
    joined = side_by_side([external(first, tmp_path), ir.tensor(second)], "both")
    assert (joined.name, joined.shape, joined.dtype) == ("both", (*height, 6), ir.DataType.FLOAT16)
    np.testing.assert_array_equal(joined.numpy(), np.concatenate([first, second], axis=-1))
    assert tensor_digest(joined) == tensor_digest(ir.tensor(joined.numpy()))
    (tmp_path / "data").write_bytes(bytes(first.nbytes))
    assert not joined.numpy()[..., :2].any(), "it kept a copy"


def test_content_shape_and_type_make_a_difference() -> None:
    zeros = np.zeros((2, 3), np.float32)
    last = zeros.copy()
    last[-1, -1] = 1
    different = [zeros, last, zeros.T.copy(), zeros.view(np.int32), zeros[:1]]
    assert len({tensor_digest(ir.tensor(array)) for array in different}) == len(different)


def test_the_text_of_strings_is_told_apart() -> None:
    def digest(*items: bytes) -> str:
        return tensor_digest(ir.StringTensor(list(items), shape=ir.Shape([len(items)])))

    assert digest(b"ab", b"c") == digest(b"ab", b"c")
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_all_chunks_count(tmp_path: Path) -> None:
    array = np.zeros(6 * 2**20, np.uint8)  # two chunks of 4 MiB
    before = tensor_digest(external(array, tmp_path))
    assert before == tensor_digest(ir.tensor(array))
    array[-1] = 1
    assert tensor_digest(external(array, tmp_path)) != before


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    tensor = external(np.zeros(8, np.float32), tmp_path)
    first = tensor_digest(tensor)
    assert tensor.meta["trtforge.digest"][1] == first
    (tmp_path / "data").write_bytes(np.ones(8, np.float32).tobytes())
    assert tensor_digest(tensor) == tensor_digest(ir.tensor(np.ones(8, np.float32)))
    assert tensor_digest(tensor) != first


def test_the_digest_of_a_model_sees_graph_and_weights(tmp_path: Path) -> None:
    model = ir.from_onnx_text(BRANCHES)
    before = model_digest(model)
    model_file.save(model, tmp_path / "model.onnx")
    assert model_digest(model_file.load(tmp_path / "model.onnx")) == before
    model.graph[0].name = "renamed"
    renamed = model_digest(model)
    model.graph.initializers["w"].const_value = ir.tensor([1.0, 5.0])
    assert len({before, renamed, model_digest(model)}) == 3


def test_exchange_reaches_attributes_of_subgraphs_and_can_be_undone() -> None:
    model = ir.from_onnx_text(BRANCHES)
    before = list(tensors(model))
    assert sorted(tensor.numpy().tolist() for tensor in before) == [[1.0, 2.0], [3.0, 4.0]]
    zero = ir.tensor(np.zeros(2, np.float32))
    with exchanged(model, lambda _: zero):
        assert list(tensors(model)) == [zero]
    assert [id(tensor) for tensor in tensors(model)] == [id(tensor) for tensor in before]
    exchange(model, lambda _: zero)()
    assert [id(tensor) for tensor in tensors(model)] == [id(tensor) for tensor in before]
