"""Input data that stays in its files: a batch is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from trtforge.array_files import Array, RowReader, open_arrays


@dataclass(frozen=True)
class DataFile:
    """One file, and what is used of it."""

    path: Path
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds; size and time tell one content from another."""
    rows: int
    """Samples that are used."""
    group: int
    """Neighbouring files of one group have samples of the same shapes; batches may span them."""

    @classmethod
    def of(cls, path: Path, rows: int, group: int) -> DataFile:
        """Look at the file now."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns, rows, group)


@dataclass(frozen=True)
class DataInput:
    """One input of the model."""

    name: str
    dtype: str
    """NumPy's name of the type that the model takes; the files may have a narrower one."""


@dataclass(frozen=True)
class FileFeeds(Sequence[Mapping[str, Array]]):
    """Batches of samples from NumPy files; going through them in order reads each file once."""

    files: tuple[DataFile, ...]
    inputs: tuple[DataInput, ...]
    batch: int
    """Samples per batch."""
    full: bool
    """Whether a last batch that is not full is left out."""

    def __len__(self) -> int:
        """Return the number of batches."""
        return sum(1 for _ in self._plan())

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        return sum(count for _, count in self._plan())

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Array]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Mapping[str, Array], ...]: ...

    def __getitem__(
        self, index: int | slice
    ) -> Mapping[str, Array] | tuple[Mapping[str, Array], ...]:
        """Read one batch, or some."""
        if isinstance(index, slice):
            return tuple(self[number] for number in range(len(self))[index])
        return next(self.starting(range(len(self))[index]))

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        """Read the batches one after the other."""
        return self.starting(0)

    def starting(self, number: int) -> Iterator[Mapping[str, Array]]:
        """Read the batches from ``number`` on; those before it are passed over.

        Raises:
            DataError: a file is no longer there, or no longer what it was.
        """
        plan = list(self._plan())
        skipped: dict[int, int] = {}
        for group, count in plan[:number]:
            skipped[group] = skipped.get(group, 0) + count
        readers: dict[int, _GroupReader] = {}
        with ExitStack() as stack:
            for group, count in plan[number:]:
                if group not in readers:
                    for done in list(readers):
                        readers.pop(done).close()
                    reader = _GroupReader(self, group, skipped.get(group, 0))
                    stack.callback(reader.close)
                    readers[group] = reader
                yield readers[group].take(count)

    def _plan(self) -> Iterator[tuple[int, int]]:
        """Yield group and number of samples of each batch."""
        groups: dict[int, int] = {}
        for file in self.files:
            groups[file.group] = groups.get(file.group, 0) + file.rows
        for group, rows in groups.items():
            for first in range(0, rows, self.batch):
                count = min(self.batch, rows - first)
                if count == self.batch or not self.full:
                    yield group, count


class _GroupReader:
    """Reads samples on and on through the files of one group."""

    def __init__(self, feeds: FileFeeds, group: int, skip: int) -> None:
        self._inputs = feeds.inputs
        self._files = [file for file in feeds.files if file.group == group]
        self._open = ExitStack()
        self._readers: dict[str, RowReader] = {}
        self._left = 0
        while skip >= self._files[0].rows:
            skip -= self._files.pop(0).rows
        self._skip = skip

    def close(self) -> None:
        self._open.close()

    def take(self, count: int) -> dict[str, Array]:
        import numpy as np

        parts: list[dict[str, Array]] = []
        while count:
            if not self._left:
                self._next_file()
            rows = min(count, self._left)
            parts.append({name: reader.take(rows) for name, reader in self._readers.items()})
            self._left -= rows
            count -= rows
        return {
            each.name: np.concatenate([part[each.name] for part in parts]).astype(
                _dtype(each.dtype), copy=False
            )
            if len(parts) > 1
            else parts[0][each.name].astype(_dtype(each.dtype), copy=False)
            for each in self._inputs
        }

    def _next_file(self) -> None:
        self._open.close()
        file = self._files.pop(0)
        arrays = open_arrays(file.path)
        self._readers = {}
        for each in self._inputs:
            key = each.name if each.name in arrays.headers else ""
            self._readers[each.name] = self._open.enter_context(arrays.rows(key))
            self._readers[each.name].skip(self._skip)
        self._left = file.rows - self._skip
        self._skip = 0


def _dtype(name: str) -> Any:
    import ml_dtypes
    import numpy as np

    return np.dtype(getattr(ml_dtypes, name, name))
