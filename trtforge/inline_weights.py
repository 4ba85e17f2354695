"""Weights that lie inside an ONNX file: taken out and written without more copies than needed.

Protobuf's parser and serializer copy every byte of a message, its Python interface does so each
time that a field is read, and one tensor in use keeps the whole message in memory. So a weight
becomes an array of its own as soon as the file is read, and is written from where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir

from trtforge.weights import exchanged, read_file

_LARGE = 2**16
"""Bytes from which a weight is written from where it lies."""
_CHUNK = 4 * 2**20
_GRAPH, _INITIALIZER, _RAW_DATA = b"\x3a", b"\x2a", b"\x4a"
"""Field number and wire type: ModelProto 7, GraphProto 5, TensorProto 9, each with its length."""


def take_out(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor of the same content that does not keep the message it was read from.

    One whose data does not fit its shape is returned as it is, for the caller to refuse.
    """
    if not isinstance(tensor, ir.serde.TensorProtoTensor):
        return tensor
    proto = tensor.raw
    whole_bytes = tensor.dtype != ir.DataType.UNDEFINED and tensor.dtype.bitwidth % 8 == 0
    if not (whole_bytes and proto.HasField("raw_data")):
        own = onnx.TensorProto()
        own.CopyFrom(proto)
        return ir.serde.deserialize_tensor(own)
    raw = proto.raw_data
    if any(dim < 0 for dim in proto.dims) or len(raw) != tensor.nbytes:
        return tensor
    return ir.Tensor(
        np.frombuffer(raw, tensor.dtype.numpy()).reshape(proto.dims),
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def write(
    model: ir.Model, file: IO[bytes], outside: Mapping[int, ir.ExternalTensor], limit: int
) -> None:
    """Write ``model`` in protobuf's wire format, large initializers from where they lie.

    See https://protobuf.dev/programming-guides/encoding.

    Args:
        model: It stays as it is.
        file: What is written to.
        outside: By ``id``, the tensors that only a reference is written of. All others, also those
            that lie in a data file now, become part of the file.
        limit: Bytes that the file may have.

    Raises:
        OSError: the file cannot be written, or a tensor's own file not be read.
        ValueError: the result would be larger than ``limit``.
    """
    large = {
        value: value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and id(value.const_value) not in outside
        and _is_large(value.const_value)
    }
    with _emptied(large), exchanged(model, lambda it: outside.get(id(it)) or inline(it)):
        proto = ir.serde.serialize_model(model)
    by_name = {str(value.name): tensor for value, tensor in large.items()}
    pieces = [_entry(each, by_name) for each in proto.graph.initializer]
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    rest = proto.SerializeToString()
    size = len(graph) + sum(len(head) + _bytes(tensor) for head, tensor in pieces)
    if len(rest) + size > limit:
        raise ValueError(f"it would have {len(rest) + size} bytes, more than protobuf's {limit}")
    file.write(rest + _GRAPH + _varint(size) + graph)
    for head, tensor in pieces:
        file.write(head)
        if tensor is not None:
            file.writelines(_chunks(tensor))


def inline(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor whose serialized form holds its data."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    proto = onnx.TensorProto(
        name=tensor.name,
        dims=tensor.shape.numpy(),
        data_type=tensor.dtype.value,
        raw_data=read_file(tensor, count=tensor.nbytes),
    )
    return ir.serde.deserialize_tensor(proto)


def _is_large(tensor: ir.TensorProtocol) -> bool:
    readable = isinstance(tensor, ir.Tensor | ir.ExternalTensor | ir.LazyTensor)
    return readable and tensor.dtype.bitwidth % 8 == 0 and tensor.nbytes >= _LARGE


@contextmanager
def _emptied(tensors: Mapping[ir.Value, ir.TensorProtocol]) -> Iterator[None]:
    """Take the data out of initializers, for as long as the block runs."""
    try:
        for value, tensor in tensors.items():
            value.const_value = _empty(tensor)
        yield
    finally:
        for value, tensor in tensors.items():
            value.const_value = tensor


def _empty(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return what is serialized as ``tensor`` without its data."""
    proto = onnx.TensorProto(
        name=tensor.name, dims=tensor.shape.numpy(), data_type=tensor.dtype.value
    )
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    for key, text in tensor.metadata_props.items():
        proto.metadata_props.add(key=key, value=text)
    return ir.serde.TensorProtoTensor(proto)


def _entry(
    proto: onnx.TensorProto, large: Mapping[str, ir.TensorProtocol]
) -> tuple[bytes, ir.TensorProtocol | None]:
    """Return an initializer as it is written, up to the data, and where the data is from."""
    text, tensor = proto.SerializeToString(), large.get(proto.name)
    if tensor is not None:
        text += _RAW_DATA + _varint(tensor.nbytes)
    return _INITIALIZER + _varint(len(text) + _bytes(tensor)) + text, tensor


def _bytes(tensor: ir.TensorProtocol | None) -> int:
    return 0 if tensor is None else tensor.nbytes


def _chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    if isinstance(tensor, ir.ExternalTensor):
        for start in range(0, tensor.nbytes, _CHUNK):
            yield read_file(tensor, start, _CHUNK)
        return
    array = np.ascontiguousarray(tensor.numpy())
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    yield little.reshape(-1).view(np.uint8).data


def _varint(number: int) -> bytes:
    """Return ``number`` in groups of seven bits, the lowest first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
