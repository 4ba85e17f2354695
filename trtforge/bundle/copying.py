"""Copies a file and hashes it, with the kernel, a second thread and the disk at work together."""

from __future__ import annotations

import errno
import io
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from blake3 import blake3

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK = 8 * 2**20
PIECE = 2 * 2**20
"""What goes through this process lies in the processor's cache, for hash, checksum and writing."""
_AHEAD = 8
"""How many pieces may wait for a thread."""
_EARLY = 64 * 2**20
"""Bytes after which the disk begins: at the end it would start with nothing done."""
_CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems answer that do not copy by themselves."""


def copy_and_hash(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Copy a file and return its size and BLAKE3 hash.

    Args:
        source: A file on disk.
        target: A new file on disk, open for reading too: then the kernel copies, and the hash is of
            what the file holds. Or something that can only be written, as an entry of a zip file:
            then it is of the bytes that were handed to it.
    """
    return _copy(source, target) if _is_on_disk(target) else _write(source, target)


def _write(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    size = os.fstat(source.fileno()).st_size
    content = blake3()
    with ThreadPoolExecutor(1) as hasher:
        jobs: deque[Future[Any]] = deque()
        for start in range(0, size, PIECE):
            piece = _mapped(source.fileno(), start, min(PIECE, size - start))
            jobs.append(hasher.submit(content.update, piece))
            target.write(piece)
            _wait(jobs, _AHEAD)
        _wait(jobs)
    return size, content.hexdigest()


def _mapped(source: int, start: int, count: int) -> memoryview:
    """Return a part of a file; memory for a copy would be taken and given back for each."""
    if hasattr(mmap, "MAP_POPULATE"):  # all of its pages at once; Linux has it
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(source, count, flags, mmap.PROT_READ, offset=start))
    return memoryview(mmap.mmap(source, count, access=mmap.ACCESS_READ, offset=start))


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    size = os.fstat(source.fileno()).st_size
    content = blake3()
    if not size:
        return 0, content.hexdigest()
    os.truncate(target.fileno(), size)
    # Not closed by hand: after a failed write its frames still hold views of it.
    mapped = mmap.mmap(target.fileno(), size, access=mmap.ACCESS_READ)

    def add(start: int, end: int) -> None:
        with memoryview(mapped) as data, data[start:end] as piece:
            content.update(piece)

    with ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as flusher:
        disk = _Disk(target.fileno(), flusher)
        jobs: deque[Future[Any]] = deque()
        start = 0
        while start < size:
            end = start + _copied(source.fileno(), target.fileno(), start, min(CHUNK, size - start))
            jobs.append(hasher.submit(add, start, end))
            disk.has(end)
            start = end
        _wait(jobs)
        disk.wait()
    return size, content.hexdigest()


class WriteBehind(io.RawIOBase):
    """A new file that a thread writes, while the caller computes what comes next.

    What could not be written is raised by a later call, at the latest by :meth:`close`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("xb", buffering=0)
        self._writer, flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._threads = (self._writer, flusher)
        self._disk = _Disk(self._file.fileno(), flusher)
        self._jobs: deque[Future[Any]] = deque()
        self._place = 0

    def writable(self) -> bool:
        """It is only written."""
        return True

    def seekable(self) -> bool:
        """Headers are written again when what follows them is known."""
        return True

    def tell(self) -> int:
        """Return where the next bytes go."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, counted from the start of the file."""
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        self._place = offset
        return offset

    def write(self, data: Buffer) -> int:
        """Take ``data``, which must not change any more."""
        view = memoryview(data).cast("B")
        _wait(self._jobs, _AHEAD)
        self._jobs.append(self._writer.submit(self._put, view, self._place))
        self._place += len(view)
        return len(view)

    def _put(self, data: memoryview, place: int) -> None:
        while data:
            count = os.pwrite(self._file.fileno(), data, place)
            data, place = data[count:], place + count
        self._disk.has(place)

    def flush(self) -> None:
        """Wait until everything is written."""
        if not self.closed:
            _wait(self._jobs)

    def close(self) -> None:
        """Wait until everything is written, and close the file."""
        if self.closed:
            return
        try:
            self.flush()
            self._disk.wait()
        finally:
            for thread in self._threads:
                thread.shutdown()
            self._file.close()
            self._jobs.clear()
            super().close()


class _Disk:
    """Lets the disk take what a file has already, while more is written to it."""

    def __init__(self, descriptor: int, thread: ThreadPoolExecutor) -> None:
        self._descriptor = descriptor
        self._thread = thread
        self._jobs: deque[Future[Any]] = deque()
        self._taken = 0

    def has(self, size: int) -> None:
        if size - self._taken >= _EARLY:
            self._taken = size
            self._jobs.append(self._thread.submit(_sync, self._descriptor))

    def wait(self) -> None:
        _wait(self._jobs)


_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def _wait(jobs: deque[Future[Any]], left: int = 0) -> None:
    """Wait until ``left`` jobs are left, and raise what one raised."""
    while len(jobs) > left:
        jobs.popleft().result()


def _is_on_disk(target: IO[bytes]) -> bool:
    try:
        target.fileno()
    except (OSError, AttributeError):
        return False
    return hasattr(os, "copy_file_range") and target.readable()  # Linux has it


def _copied(source: int, target: int, start: int, count: int) -> int:
    """Copy up to ``count`` bytes inside the kernel, or through this process where it cannot."""
    try:
        copied = os.copy_file_range(source, target, count, start, start)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        copied = os.pwrite(target, os.pread(source, count, start), start)
    if not copied:
        raise OSError(errno.EIO, "the file became shorter while it was copied")
    return copied
