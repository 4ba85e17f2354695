"""The tensors of a model: find them, exchange them, name their content by a digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from blake3 import blake3

from trtforge.graph import graphs

if TYPE_CHECKING:
    from trtforge.artifacts import Array

Exchange = Callable[[ir.TensorProtocol], ir.TensorProtocol]

_CHUNK = 4 * 2**20
_THREADS = 2  # hashing outruns most disks with two; more only heats the machine
_MEMO = "trtforge.digest"
_TENSORS = frozenset((ir.AttributeType.TENSOR, ir.AttributeType.TENSORS))


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor of ``model`` once: initializers and attributes, in all graphs."""
    seen: set[int] = set()
    for tensor in _all_tensors(model):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def _all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    yield value.const_value
        for node in graph:
            for attribute in _with_tensors(node):
                yield from _held(attribute)


def _with_tensors(node: ir.Node) -> list[ir.Attr]:
    """Return the attributes that hold tensors; a function's attribute reference holds none."""
    attributes = node.attributes.data  # a plain dict: this runs for every node
    return [held for held in attributes.values() if held.type in _TENSORS and not held.is_ref()]


def _held(attribute: ir.Attr) -> tuple[ir.TensorProtocol, ...]:
    """Return the tensors of an attribute that has some."""
    if attribute.type is ir.AttributeType.TENSORS:
        return attribute.as_tensors()
    tensor: ir.TensorProtocol = attribute.value  # as_tensor() first looks at all its properties
    return (tensor,)


def exchange(model: ir.Model, swap: Exchange) -> Callable[[], None]:
    """Put ``swap(tensor)`` in the place of every tensor; return what puts the old ones back."""
    undo: list[Callable[[], object]] = []
    for graph in graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                old = value.const_value
                if old is not None and (new := swap(old)) is not old:
                    undo.append(partial(setattr, value, "const_value", old))
                    value.const_value = new
        for node in graph:
            for attribute in _with_tensors(node):
                fresh = _exchanged(attribute, swap)
                if fresh is not attribute:
                    undo.append(partial(node.attributes.__setitem__, attribute.name, attribute))
                    node.attributes[attribute.name] = fresh

    def put_back() -> None:
        for step in undo:
            step()

    return put_back


def _exchanged(attribute: ir.Attr, swap: Exchange) -> ir.Attr:
    old = _held(attribute)
    new = [swap(tensor) for tensor in old]
    if all(after is before for after, before in zip(new, old, strict=True)):
        return attribute
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.AttrTensor(attribute.name, new[0], attribute.doc_string)
    return ir.AttrTensors(attribute.name, new, attribute.doc_string)


@contextmanager
def exchanged(model: ir.Model, swap: Exchange) -> Iterator[None]:
    """Do :func:`exchange` for the time of a ``with`` block."""
    put_back = exchange(model, swap)
    try:
        yield
    finally:
        put_back()


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """Return a name for type, shape and content of ``tensor``: 32 hexadecimal digits.

    It is the BLAKE3 of type, shape and the digests of 4 MiB chunks, which two
    threads compute. Tensors of a file are read, not mapped, so that they leave no resident pages.
    The result is remembered on the tensor until its file changes.

    Raises:
        OSError: the tensor's file cannot be read.
    """
    state = _file_state(tensor)
    remembered = tensor.meta.get(_MEMO)
    if remembered is not None and remembered[0] == state:
        digest: str = remembered[1]
        return digest
    whole = blake3()
    shape = ",".join(str(dim) for dim in tensor.shape)
    whole.update(f"{tensor.dtype.name} [{shape}]\n".encode())
    for leaf in _leaves(tensor):
        whole.update(leaf)
    name = whole.hexdigest(length=16)
    tensor.meta[_MEMO] = (state, name)
    return name


def _file_state(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    if not isinstance(tensor, ir.ExternalTensor):
        return ()
    stat = Path(tensor.path).stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _leaves(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    """Yield the digests of the chunks, in order."""
    starts = range(0, _byte_count(tensor), _CHUNK)
    read = _reader(tensor)
    if len(starts) == 1:
        yield _leaf(read(0))
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda start: _leaf(read(start)), starts)


def _leaf(chunk: bytes | memoryview) -> bytes:
    return blake3(chunk).digest()


def _byte_count(tensor: ir.TensorProtocol) -> int:
    return 1 if tensor.dtype == ir.DataType.STRING else tensor.nbytes


def _reader(tensor: ir.TensorProtocol) -> Callable[[int], bytes | memoryview]:
    """Return a function that gives the chunk which starts at a byte."""
    if tensor.dtype == ir.DataType.STRING:
        items = [bytes(item) for item in np.asarray(tensor.numpy()).reshape(-1)]
        text = b"".join(b"%d:%s" % (len(item), item) for item in items)
        return lambda _: text  # strings are few: one chunk
    if isinstance(tensor, ir.ExternalTensor):
        return partial(read_file, tensor, count=_CHUNK)
    if tensor.dtype.bitwidth >= 8:
        array = np.ascontiguousarray(tensor.numpy())
        data = array.reshape(-1).view(np.uint8).data
    else:
        data = memoryview(tensor.tobytes())
    return lambda start: data[start : start + _CHUNK]


def read_file(tensor: ir.ExternalTensor, start: int = 0, count: int = _CHUNK) -> bytes:
    """Read up to ``count`` bytes of a tensor from its file, without a memory map.

    Raises:
        OSError: the file cannot be read or ends early.
    """
    count = max(0, min(count, tensor.nbytes - start))
    descriptor = os.open(tensor.path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, count, (tensor.offset or 0) + start)
    finally:
        os.close(descriptor)
    if len(data) != count:
        raise OSError(f"{tensor.path} ends before the data of {tensor.name!r} does")
    return data


def side_by_side(parts: Sequence[ir.TensorProtocol], name: str) -> ir.LazyTensor:
    """Return the tensor that holds matrices of one height and type next to each other.

    It is put together each time that it is read, so that a model of any size gets by with the
    memory for the largest one. ``parts`` stay in memory, or their files in place, until then.

    Args:
        parts: Tensors ``[height, width]`` or ``[width]``, the widths their own, of one type.
        name: The tensor's name.
    """
    *height, _ = parts[0].shape.numpy()
    widths = [part.shape.numpy()[-1] for part in parts]

    def read() -> ir.TensorProtocol:
        whole = np.empty((*height, sum(widths)), parts[0].dtype.numpy())
        for part, width, end in zip(parts, widths, accumulate(widths), strict=True):
            whole[..., end - width : end] = _array(part)
        return ir.Tensor(whole, dtype=parts[0].dtype, name=name)

    shape = ir.Shape((*height, sum(widths)))
    return ir.LazyTensor(read, dtype=parts[0].dtype, shape=shape, name=name)


def _array(tensor: ir.TensorProtocol) -> Array:
    """Return the numbers of a tensor; those of a file are read, so that no mapped page stays."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8:
        return np.asarray(tensor.numpy())
    data = read_file(tensor, count=tensor.nbytes)
    return np.frombuffer(data, tensor.dtype.numpy()).reshape(tensor.shape.numpy())


def model_digest(model: ir.Model) -> str:
    """Return a name for the content of ``model``: graph, metadata and weights, 32 hex digits.

    Where and how a weight is stored makes no difference: inline, in another file or in memory.
    """
    with exchanged(model, _stand_in):
        proto = ir.serde.serialize_model(model)
    text = proto.SerializeToString(deterministic=True)
    return blake3(text).hexdigest(length=16)


def _stand_in(tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """Return a tensor whose serialized form names the content instead of holding it."""
    shape = ir.Shape(tensor.shape.numpy())
    name = tensor.name or ""
    return ir.ExternalTensor(
        tensor_digest(tensor), None, None, tensor.dtype, shape=shape, name=name
    )
