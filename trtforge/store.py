"""Content-addressed files: weights, models and artifacts of finished steps.

A blob's name is the BLAKE3 hash of its content, so a damaged one is noticed when it is read.
Everything is written to a temporary name and renamed; concurrent runs may share a store.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from blake3 import blake3

from trtforge.errors import CacheError, EnvironmentLacks, RequestError, TrtforgeError

if TYPE_CHECKING:
    import onnx_ir as ir

CHUNK = 2**22
_READ = 2**18
_LENGTH = 20
"""Bytes of a hash."""
INLINE_BYTES = 1024
"""Weights up to this size stay inside the model file."""


def digest(data: bytes) -> str:
    """Return the hash of ``data`` in hexadecimal."""
    return blake3(data).hexdigest(length=_LENGTH)


def file_digest(path: Path) -> str:
    """Return the hash of a file's content, read in chunks."""
    content, buffer = blake3(), memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            content.update(buffer[:count])
    return content.hexdigest(length=_LENGTH)


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


def write_error(error: OSError, target: Path, what: str = "the file") -> TrtforgeError:
    """Return what to raise when ``what`` cannot be written to ``target``: is the disk full?"""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EnvironmentLacks(
            f"no space for {what}: {reason}",
            where=str(target),
            remedy="free some space, or give another path for the output",
        )
    return RequestError(
        f"cannot be written: {reason}",
        where=str(target),
        remedy="give another path for the output",
    )


class Blobs:
    """Files named by the hash of their content, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trusted = True
        """Whether what is there need not be written again."""
        self._keys: dict[tuple[int, ...], str] = {}  # of files that were stored, by their state

    def path(self, key: str) -> Path:
        """Return where the blob ``key`` lies, or would lie."""
        return self.root / key[:2] / key

    def put(self, key: str, write: Callable[[IO[bytes]], object]) -> str:
        """Store what ``write`` writes under ``key``, unless it is there; return ``key``."""
        path = self.path(key)
        if not (self.trusted and path.exists()):
            with atomic_file(path) as file:
                write(file)
        return key

    def put_bytes(self, data: bytes) -> str:
        """Store ``data`` and return its key."""
        return self.put(digest(data), lambda file: file.write(data))

    def put_file(self, path: Path) -> str:
        """Store a copy of the file at ``path`` and return its key.

        A file that is as it was when it was stored is not read again: each step that follows a
        build would hash the engine.
        """
        stat = path.stat()
        state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if state not in self._keys:
            self._keys[state] = file_digest(path)

        def copy(file: IO[bytes]) -> None:
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK)

        return self.put(self._keys[state], copy)

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


@dataclass(frozen=True)
class FrozenModel:
    """A model as bytes, with its large weights taken out and named by their content."""

    graph: bytes
    weights: Mapping[str, ir.TensorProtocol]

    @property
    def key(self) -> str:
        """The hash of the whole model, weights included (the graph names them by content)."""
        return digest(self.graph)


def freeze(model: ir.Model) -> FrozenModel:
    """Return ``model`` as bytes; ``model`` itself stays as it is."""
    from trtforge.weights import exchanged, tensor_digest

    weights: dict[str, ir.TensorProtocol] = {}

    def take_out(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.nbytes <= INLINE_BYTES or tensor.dtype.name == "STRING":
            return tensor
        key = tensor_digest(tensor)
        weights[key] = tensor
        return _mapped(tensor, Path(key), 0)

    import onnx_ir as ir

    with exchanged(model, take_out):
        graph = ir.to_proto(model).SerializeToString(deterministic=True)
    return FrozenModel(graph, weights)


def thaw(graph: bytes, locate: Callable[[str], tuple[Path, int]]) -> ir.Model:
    """Return the model behind ``graph``, its weights memory-mapped.

    Args:
        graph: The bytes of a frozen model.
        locate: Gives the file, and the offset in it, of a weight by its key.

    Raises:
        CacheError: the content of a weight's file is not what its name says.
    """
    import onnx
    import onnx_ir as ir

    from trtforge.weights import exchange, tensor_digest

    def put_in(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        key = str(tensor.location)
        path, offset = locate(key)
        mapped = _mapped(tensor, path, offset)
        try:
            right = tensor_digest(mapped) == key
        except OSError:  # it is gone, or too short
            right = False
        if not right:
            raise CacheError(f"the stored weight {tensor.name!r} was damaged")
        return mapped

    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(graph))
    exchange(model, put_in)
    return model


def _mapped(tensor: ir.TensorProtocol, path: Path, offset: int) -> ir.ExternalTensor:
    """Return a tensor like ``tensor`` whose data lie in a file."""
    import onnx_ir as ir

    return ir.ExternalTensor(
        path.name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        base_dir=str(path.parent) if path.is_absolute() else "",
        metadata_props=dict(tensor.metadata_props),
    )


def write_tensor(tensor: ir.TensorProtocol, file: IO[bytes]) -> None:
    """Write a tensor's raw bytes; those of a file are copied from file to file.

    Not by ``tofile`` of a tensor in memory, which is NumPy's: that leaves the last bytes to a
    buffer of C's, and says nothing if they cannot be written, as on a full disk.

    Raises:
        OSError: they could not be written.
    """
    import onnx_ir as ir

    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
