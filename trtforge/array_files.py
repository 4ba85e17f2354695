"""Reads NumPy files that nobody vouches for: no pickle, no more memory than the rows asked for."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from trtforge import DataError
from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any
    """The store, which reads the annotations of artifacts, tells an array by its value."""

_LONGEST_HEADER = 10_000
"""As numpy's own limit."""
_UNREADABLE = (
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    RuntimeError,  # an encrypted archive
    NotImplementedError,  # an unknown compression
    SyntaxError,  # a header that is no Python literal
    TokenError,
    zlib.error,
)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an array say; its data is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of the first axis."""
        return prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class ArrayFile:
    """One ``.npy`` (its only array is called ``""``) or ``.npz`` file."""

    path: Path
    headers: Mapping[str, Header]

    def read(self, name: str, rows: int) -> Array:
        """Return the first ``rows`` entries of the first axis of the array ``name``.

        Raises:
            DataError: the array's data ends early.
        """
        with self.rows(name) as reader:
            return reader.take(rows)

    def read_all(self) -> dict[str, Array]:
        """Return every array, whole.

        Raises:
            DataError: an array's data ends early.
        """
        return {
            name: self.read(name, header.shape[0] if header.shape else 1)
            for name, header in self.headers.items()
        }

    @contextmanager
    def rows(self, name: str) -> Iterator[RowReader]:
        """Open the array ``name`` for reading a few entries of its first axis at a time."""
        with _reading(self.path), _member(self.path, name) as stream:
            _read_header(stream)
            yield RowReader(self.path, self.headers[name], stream)


class RowReader:
    """Reads the entries of an array's first axis in order; only those asked for are in memory.

    An array in Fortran order has its entries scattered, so that it is read whole.

    Args:
        path: The file, for messages.
        header: Type and shape.
        stream: Stands where the data begin.
    """

    def __init__(self, path: Path, header: Header, stream: IO[bytes]) -> None:
        self._path = path
        self._header = header
        self._stream = stream
        self._at = 0
        self._whole: Array | None = None

    def skip(self, count: int) -> None:
        """Leave out the next ``count`` entries."""
        self._at += count
        if not self._scattered:
            self._stream.seek(count * self._header.row_bytes, 1)

    def take(self, count: int) -> Array:
        """Return the next ``count`` entries, or as many as are left, in native byte order.

        Raises:
            DataError: the data end early.
        """
        shape = self._header.shape
        first, self._at = self._at, self._at + count
        if self._scattered:
            if self._whole is None:
                self._whole = self._read(shape[::-1]).transpose()
            return self._whole[first : self._at].copy(order="C")
        if not shape:
            return self._read(())
        return self._read((max(min(count, shape[0] - first), 0), *shape[1:]))

    @property
    def _scattered(self) -> bool:
        return self._header.fortran and len(self._header.shape) > 1

    def _read(self, shape: tuple[int, ...]) -> Array:
        import numpy as np

        array = np.empty(shape, self._header.dtype)
        with _reading(self._path):
            flat: Any = array.reshape(-1).view(np.uint8) if array.size else b""
            left = memoryview(flat)
            while left:
                got = self._stream.readinto(left)  # type: ignore[attr-defined]  # both kinds have it
                if not got:
                    raise EOFError("its data end early")
                left = left[got:]
        return array.astype(self._header.dtype.newbyteorder("="), copy=False)


def open_arrays(path: Path) -> ArrayFile:
    """Read the headers of a ``.npy`` or ``.npz`` file.

    Raises:
        DataError: it cannot be read, holds Python objects, or claims more than it has.
    """
    with _reading(path):
        if path.suffix == ".npy":
            with path.open("rb") as stream:
                header = _read_header(stream)
                left = path.stat().st_size - stream.tell()
            return ArrayFile(path, {"": _checked(header, path, "", left)})
        headers = {}
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as stream:
                        header = _read_header(stream)
                        left = info.file_size - stream.tell()
                    name = info.filename.removesuffix(".npy")
                    headers[name] = _checked(header, path, name, left)
        return ArrayFile(path, headers)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    if path.suffix == ".npy":
        with path.open("rb") as stream:
            yield stream
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            yield stream


def _read_header(stream: IO[bytes]) -> Header:

    version = npy.read_magic(stream)
    old = version == (1, 0)
    size = stream.read(2 if old else 4)
    length = int.from_bytes(size, "little")
    if length > _LONGEST_HEADER:  # numpy would read all of it first: a gigabyte from a small zip
        raise ValueError(f"its header says that it is {format_bytes(length)} long")
    read = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
    shape, fortran, dtype = read(BytesIO(size + stream.read(length)))
    return Header(shape, dtype, fortran)


def _checked(header: Header, path: Path, name: str, size: int) -> Header:
    where = f"{path}: array {name!r}" if name else str(path)
    if header.dtype.hasobject:
        raise DataError(
            "it holds Python objects, which only unpickling could read; that is never done",
            where=where,
            remedy="save it with a numeric type: array.astype(numpy.float32)",
        )
    claimed = prod(header.shape) * header.dtype.itemsize
    if claimed > size or min(header.shape, default=0) < 0:
        raise DataError(
            f"its header claims {format_bytes(claimed)}, more than it holds ({format_bytes(size)})",
            where=where,
            remedy="the file is damaged or cut short: copy or write it again",
        )
    return header


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the readers raise on missing or damaged files into one clear error."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            "there is no such file", where=str(path), remedy="check the path"
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except _UNREADABLE as error:
        raise DataError(
            f"this is no readable {path.suffix} file: {error}",
            where=str(path),
            remedy="write it with numpy.save or numpy.savez",
        ) from error
