"""Content-addressed files: weights, models and artifacts of finished steps.

A blob's name is the BLAKE2b hash of its content, so a damaged one is noticed when it is read.
Everything is written to a temporary name and renamed; concurrent runs may share a store.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from trtforge.errors import CacheError

if TYPE_CHECKING:
    import onnx_ir as ir

CHUNK = 2**22
INLINE_BYTES = 1024
"""Weights up to this size stay inside the model file."""


class Writer(Protocol):
    """Anything that bytes can be written to."""

    def write(self, data: bytes, /) -> object:
        """Take ``data``."""


class _HashWriter:
    """A file-like object that only hashes."""

    def __init__(self) -> None:
        self.hash = blake2b(digest_size=20)

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)


def digest(data: bytes) -> str:
    """Return the hash of ``data`` in hexadecimal."""
    return blake2b(data, digest_size=20).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hash of a file's content, read in chunks."""
    writer = _HashWriter()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            writer.write(chunk)
    return writer.hash.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class Blobs:
    """Files named by the hash of their content, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Return where the blob ``key`` lies, or would lie."""
        return self.root / key[:2] / key

    def put(self, key: str, write: Callable[[IO[bytes]], object]) -> str:
        """Store what ``write`` writes under ``key``, unless it is there; return ``key``."""
        path = self.path(key)
        if not path.exists():
            with atomic_file(path) as file:
                write(file)
        return key

    def put_bytes(self, data: bytes) -> str:
        """Store ``data`` and return its key."""
        return self.put(digest(data), lambda file: file.write(data))

    def put_file(self, path: Path) -> str:
        """Store a copy of the file at ``path`` and return its key."""

        def copy(file: IO[bytes]) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK)

        return self.put(file_digest(path), copy)

    def checked(self, key: str) -> Path:
        """Return the path of the blob ``key`` after comparing its content with its name.

        Raises:
            CacheError: it is missing or damaged; a damaged one is removed.
        """
        path = self.path(key)
        if not path.is_file():
            raise CacheError(f"the stored file {key} is missing")
        if file_digest(path) != key:
            path.unlink(missing_ok=True)
            raise CacheError(f"the stored file {key} was damaged")
        return path

    def read(self, key: str) -> bytes:
        """Return the checked content of the blob ``key``. Raises :class:`CacheError`."""
        return self.checked(key).read_bytes()


class FrozenModel:
    """A model as bytes, with its large weights taken out and named by their content."""

    def __init__(self, graph: bytes, weights: dict[str, ir.TensorProtocol]) -> None:
        self.graph = graph
        self.weights = weights

    @property
    def key(self) -> str:
        """The hash of the whole model, weights included (the graph names them by content)."""
        return digest(self.graph)


class ModelFreezer:
    """Freezes and thaws models; remembers the hash of each tensor object it has seen."""

    def __init__(self) -> None:
        self._digests: WeakKeyDictionary[object, str] = WeakKeyDictionary()

    def freeze(self, model: ir.Model) -> FrozenModel:
        """Return ``model`` as bytes; ``model`` itself stays as it is."""
        import onnx_ir as ir

        weights: dict[str, ir.TensorProtocol] = {}
        swapped: list[tuple[ir.Value, ir.TensorProtocol]] = []
        try:
            for value in _initializers(model):
                tensor = value.const_value
                if tensor is None or tensor.nbytes <= INLINE_BYTES or tensor.dtype == 8:
                    continue
                key = self.tensor_digest(tensor)
                weights[key] = tensor
                swapped.append((value, tensor))
                value.const_value = _placeholder(tensor, key)
            graph = ir.to_proto(model).SerializeToString(deterministic=True)
        finally:
            for value, tensor in swapped:
                value.const_value = tensor
        return FrozenModel(graph, weights)

    def thaw(self, graph: bytes, locate: Callable[[str], tuple[Path, int]]) -> ir.Model:
        """Return the model behind ``graph``; weights are memory-mapped where ``locate`` says.

        Args:
            graph: The bytes of a frozen model.
            locate: Gives the file and the offset in it for a weight's key.
        """
        import onnx
        import onnx_ir as ir

        model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(graph))
        for value in _initializers(model):
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                key = str(tensor.location)
                path, offset = locate(key)
                value.const_value = ir.ExternalTensor(
                    path.name, offset, tensor.length, tensor.dtype,
                    shape=tensor.shape, name=tensor.name or "", base_dir=str(path.parent),
                    metadata_props=dict(tensor.metadata_props),
                )  # fmt: skip
                self._digests[value.const_value] = key
        return model

    def tensor_digest(self, tensor: ir.TensorProtocol) -> str:
        """Return the hash of a tensor's raw little-endian bytes, read in chunks."""
        known = self._digests.get(tensor)
        if known is None:
            writer = _HashWriter()
            write_tensor(tensor, writer)
            known = self._digests[tensor] = writer.hash.hexdigest()
        return known


def write_tensor(tensor: ir.TensorProtocol, file: Writer) -> None:
    """Write a tensor's raw bytes; a memory-mapped one is copied in chunks."""
    stream = getattr(tensor, "tofile", None)
    if stream is not None:
        stream(file)
    else:
        file.write(tensor.tobytes())


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.initializers.values()
    for graph in model.graph.subgraphs():
        yield from graph.initializers.values()


def _placeholder(tensor: ir.TensorProtocol, key: str) -> ir.ExternalTensor:
    import onnx_ir as ir

    return ir.ExternalTensor(
        key, 0, tensor.nbytes, tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()), name=tensor.name or "",
        metadata_props=dict(tensor.metadata_props),
    )  # fmt: skip
