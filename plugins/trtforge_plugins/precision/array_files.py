"""Reads NumPy files that nobody vouches for: no pickle, no more memory than the rows asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from trtforge import DataError
from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    from trtforge.artifacts import Array


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
        header = self.headers[name]
        rows = min(rows, header.shape[0]) if header.shape else 1
        with _reading(self.path), _member(self.path, name) as stream:
            _read_header(stream)
            if header.fortran and len(header.shape) > 1:
                data = stream.read(prod(header.shape) * header.dtype.itemsize)
                array = np.frombuffer(data, header.dtype).reshape(header.shape, order="F")[:rows]
            else:
                shape = (rows, *header.shape[1:]) if header.shape else ()
                data = stream.read(prod(shape) * header.dtype.itemsize)
                array = np.frombuffer(data, header.dtype).reshape(shape)
        return array.astype(header.dtype.newbyteorder("="), order="C")


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
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
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
    except (ValueError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        # RuntimeError: an encrypted archive. NotImplementedError: an unknown compression.
        raise DataError(
            f"this is no readable {path.suffix} file: {error}",
            where=str(path),
            remedy="write it with numpy.save or numpy.savez",
        ) from error
