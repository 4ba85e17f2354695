"""Copies a file and hashes it: the kernel copies, a second thread hashes what has arrived."""

from __future__ import annotations

import errno
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from blake3 import blake3

CHUNK = 8 * 2**20
_CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems answer that do not copy by themselves."""


def copy_and_hash(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Copy a file and return its size and BLAKE3 hash.

    Args:
        source: A file on disk.
        target: A new file on disk, open for reading too: then the hash is of what it holds. Or
            something that can only be written, as an entry of a zip file: then it is of the bytes
            that were handed to it.
    """
    size = os.fstat(source.fileno()).st_size
    content = blake3()
    if not size:
        return 0, content.hexdigest()
    on_disk = _is_on_disk(target)
    if on_disk:
        os.truncate(target.fileno(), size)
    # Not closed by hand: after a failed write its frames still hold views of it.
    mapped = mmap.mmap((target if on_disk else source).fileno(), size, access=mmap.ACCESS_READ)

    def add(start: int, end: int) -> None:
        with memoryview(mapped) as data, data[start:end] as piece:
            content.update(piece)

    with ThreadPoolExecutor(1) as hasher:
        jobs = []
        start = 0
        while start < size:
            end = min(start + CHUNK, size)
            if on_disk:
                end = start + _copied(source.fileno(), target.fileno(), start, end - start)
            else:
                with memoryview(mapped) as data, data[start:end] as piece:
                    target.write(piece)
            jobs.append(hasher.submit(add, start, end))
            start = end
        for job in jobs:
            job.result()
    return size, content.hexdigest()


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
