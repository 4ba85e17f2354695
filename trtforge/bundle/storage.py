"""Reads a bundle, a folder or a zip file, and believes nothing of it before it has checked it.

Before any content is used: every path stays inside and is a plain name, no entry is a link, no
entry is compressed (so none can grow), nothing is unlisted or listed and missing, sizes are those
of the manifest, and every content has its BLAKE3 hash.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from blake3 import blake3

from trtforge.bundle import signature
from trtforge.bundle.manifest import MANIFEST, SIGNATURE, Manifest, StoredFile, read_manifest
from trtforge.errors import BundleError, RequestError
from trtforge.quantities import format_bytes
from trtforge.store import atomic_file, write_error

CHUNK = 2**20
MAX_MANIFEST = 16 * 2**20
MAX_FILES = 10_000
_PLAIN = re.compile(r"[\w][\w.+-]*(/[\w][\w.+-]*)*", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


class Storage(Protocol):
    """Where a bundle's files lie."""

    def sizes(self) -> dict[str, int]:
        """Return every file there is with its size in bytes; refuse what is no plain file."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""


class FolderStorage:
    """A bundle that is a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> dict[str, int]:
        """Return every file with its size; links and special files are refused."""
        return dict(self._walk(self._root, ""))

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        for entry in os.scandir(folder):
            path = prefix + entry.name
            mode = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(mode.st_mode):
                yield from self._walk(Path(entry.path), f"{path}/")
            elif stat.S_ISREG(mode.st_mode):
                yield path, mode.st_size
            else:
                raise BundleError(f"{path!r} is a link or a special file; a bundle has none")

    def open(self, path: str) -> IO[bytes]:
        """Open a file; a link that took its place meanwhile is not followed."""
        handle = os.open(self._root / path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        return os.fdopen(handle, "rb")


class ZipStorage:
    """A bundle in one zip file, whose entries are stored and not compressed."""

    def __init__(self, file: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise BundleError(
                f"it is no zip file, or it is cut short: {error}", remedy="copy it again"
            ) from error
        self._size = file.stat().st_size

    def sizes(self) -> dict[str, int]:
        """Return every entry with its size; links and compressed entries are refused."""
        found: dict[str, int] = {}
        for info in self._zip.infolist():
            if info.filename.endswith("/"):  # is_dir() takes no name of length 0
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise BundleError(f"{info.filename!r} is a link; a bundle has none")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise BundleError(f"{info.filename!r} is compressed; a bundle's entries are stored")
            if info.filename in found:
                raise BundleError(f"{info.filename!r} is there twice")
            found[info.filename] = info.file_size
        if sum(found.values()) > self._size:  # entries that lie on each other
            raise BundleError("the entries claim to be larger than the file that holds them")
        return found

    def open(self, path: str) -> IO[bytes]:
        """Open an entry."""
        try:
            return self._zip.open(path)
        except (RuntimeError, ValueError) as error:  # encrypted, patched, or a name of no encoding
            raise BundleError(
                f"{path!r} cannot be read: {error}", remedy="copy it again"
            ) from error


class Bundle:
    """A bundle whose every byte has been checked.

    Args:
        path: A folder or a zip file.
        key: File with the public key (PEM, ed25519) that must have signed it; None: any bundle.

    Raises:
        BundleError: it is no bundle, damaged, tampered with, or of a newer format.
        RequestError: there is no such file, or it cannot be read.
    """

    def __init__(self, path: Path, *, key: Path | None = None) -> None:
        self.path = path
        try:
            self._storage = _storage(path)
            sizes = self._storage.sizes()
            _check_names(sizes)
            text = self._small(MANIFEST, sizes)
            seal = self._small(SIGNATURE, sizes) if SIGNATURE in sizes else None
            self.signed_by = signature.check(text, seal, key)
            self.manifest: Manifest = read_manifest(text)
            _check_listed(self.manifest, sizes)
            self._verify()
        except BundleError as error:
            error.at(str(path))
            raise
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from error

    def _small(self, name: str, sizes: dict[str, int]) -> bytes:
        if name not in sizes:
            raise BundleError(
                f"it has no {name}, so it is no bundle", remedy="`trtforge bundle pack` makes one"
            )
        if sizes[name] > MAX_MANIFEST:
            raise BundleError(f"its {name} has {format_bytes(sizes[name])}")
        with self._storage.open(name) as file:
            return file.read()

    def _verify(self) -> None:
        """Compare every file with its hash; hashing leaves Python's lock, so threads help."""
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
            for _ in threads.map(self._verify_file, self.manifest.files):
                pass

    def _verify_file(self, entry: StoredFile) -> None:
        for _ in self._chunks(entry):
            pass

    def _chunks(self, entry: StoredFile) -> Iterator[memoryview]:
        """Yield the content piece by piece; raise at the end if it is not what it should be."""
        content, buffer = blake3(), memoryview(bytearray(CHUNK))
        size = 0
        with self._storage.open(entry.path) as file:
            while (count := file.readinto(buffer)) > 0:  # type: ignore[attr-defined]  # of raw files
                size += count
                if size > entry.size:
                    break
                content.update(buffer[:count])
                yield buffer[:count]
        if size != entry.size or content.hexdigest() != entry.blake3:
            raise BundleError(
                f"{entry.path!r} is not what the manifest says: damaged or tampered with",
                remedy="copy the bundle again, or ask its author",
            )

    def read(self, path: str) -> bytes:
        """Return the content of a file, checked once more as it is read.

        Raises:
            BundleError: it is not listed, or was changed since the bundle was opened.
        """
        return b"".join(map(bytes, self._chunks(self._entry(path))))

    def extract(self, path: str, target: Path) -> None:
        """Write a file to ``target``: whole and checked, or not at all."""
        try:
            with atomic_file(target) as file:
                for chunk in self._chunks(self._entry(path)):
                    file.write(chunk)
        except OSError as error:
            raise write_error(error, target) from error

    def extract_model(self, folder: Path) -> None:
        """Write the ONNX model, and the files of its weights, below ``folder``."""
        for path in self.manifest.by_path:
            if path.startswith("model/"):
                self.extract(path, folder / path)

    def _entry(self, path: str) -> StoredFile:
        entry = self.manifest.by_path.get(path)
        if entry is None:
            raise BundleError(f"the bundle has no file {path!r}", where=str(self.path))
        return entry

    @contextmanager
    def head(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file to read its first bytes."""
        with self._storage.open(self._entry(path).path) as file:
            yield file


def _storage(path: Path) -> Storage:
    if path.is_dir():
        return FolderStorage(path)
    if path.is_file():
        return ZipStorage(path)
    raise RequestError("there is no such bundle", where=str(path), remedy="check the path")


def _check_names(sizes: dict[str, int]) -> None:
    if len(sizes) > MAX_FILES:
        raise BundleError(f"it has {len(sizes)} files; a bundle has {MAX_FILES} at most")
    for path in sizes:
        plain = _PLAIN.fullmatch(path) and len(path) < 256
        if not plain or any(_RESERVED.match(part) for part in path.split("/")):
            raise BundleError(
                f"the file name {path[:80]!r} is not plain, or would leave the bundle"
            )


def _check_listed(manifest: Manifest, sizes: dict[str, int]) -> None:
    listed = {file.path: file.size for file in manifest.files}
    there = {path: size for path, size in sizes.items() if path not in (MANIFEST, SIGNATURE)}
    for path in sorted(listed.keys() - there.keys()):
        raise BundleError(f"the file {path!r} is missing", remedy="copy the bundle again")
    for path in sorted(there.keys() - listed.keys()):
        raise BundleError(f"the file {path!r} is in no list of the manifest")
    for path, size in listed.items():
        if there[path] != size:
            raise BundleError(
                f"{path!r} has {there[path]} bytes instead of {size}: cut short or tampered with",
                remedy="copy the bundle again",
            )


def _unreadable(path: Path, error: OSError | EOFError | zipfile.BadZipFile) -> RequestError:
    if isinstance(error, OSError):
        return RequestError(f"cannot be read: {error.strerror or error}", where=str(path))
    cause = str(error) or "an entry ends too early"
    return BundleError(f"the zip file is damaged: {cause}", where=str(path), remedy="copy it again")
