"""Runs a model on data and hands out the tensors that a calibrator asks for, part by part.

Memory does not grow with the data or with the batch: where the model's batch is dynamic, a batch is
run in parts whose tensors fill a fixed budget. On the CPU two parts are computed at a time, each by
half of the cores, while another is looked at: threads that share no operator need not wait for one
another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtforge import Batches, DataError
from trtforge.environment import usable_cores
from trtforge.file_feeds import FileFeeds
from trtforge.reference import CUDA, Provider, Reference

if TYPE_CHECKING:
    from trtforge.artifacts import Array

    Feed = Mapping[str, Array]

PART_BYTES = 32 * 2**20
"""Size of the tensors of one part; three parts are in memory at a time, two on a GPU."""


@dataclass(frozen=True)
class Seen:
    """The tensors of one part of a batch, where they lie: views that live as long as this."""

    batch: int
    """Number of the batch."""
    ends: bool
    """Whether it is the batch's last part."""
    tensors: Mapping[str, Array]


def observe(
    model: ir.Model,
    tensors: Mapping[ir.Value, ir.DataType],
    batches: Batches,
    *,
    provider: Provider = "auto",
    start: int = 0,
) -> Iterator[Seen]:
    """Yield the values of ``tensors`` for each batch from number ``start`` on.

    Only ``tensors`` (with their element types) are computed and fetched, under ONNX Runtime; on a
    GPU they are CuPy arrays. Custom ops run as the ONNX functions that the model carries.

    Raises:
        DataError: the data does not fit the model's inputs.
        StepError: the model cannot be run.
        EnvironmentLacks: a GPU is asked for and cannot be used.
    """
    inputs = set(model.graph.inputs)
    direct = [str(value.name) for value in tensors if value in inputs]
    fetched = {value: dtype for value, dtype in tensors.items() if value not in inputs}
    parts = _Parts(model, batches, start)
    cores = usable_cores()
    runs = min(2, cores) if parts.several else 1
    threads = cores // runs if runs > 1 else None
    with _only_outputs(model, fetched):
        reference = Reference(model, provider=provider, threads=threads) if fetched else None
    if reference is not None and reference.provider == CUDA:
        runs = 1

    def run(part: _Part) -> Seen:
        missing = [name for name in direct if name not in part.feed]
        if missing:
            raise DataError(f"no data for input {missing[0]!r}; there is {', '.join(part.feed)}")
        seen = {name: part.feed[name] for name in direct}
        if reference is not None:
            seen.update(reference.fetch(part.feed))
        return Seen(part.batch, part.ends, seen)

    with ThreadPoolExecutor(runs) as workers:
        ahead: deque[tuple[_Part, Future[Seen]]] = deque()
        for part in parts:
            ahead.append((part, workers.submit(run, part)))
            if len(ahead) > runs or not parts.measured:
                yield parts.learn(*ahead.popleft())
        while ahead:
            yield parts.learn(*ahead.popleft())


@dataclass(frozen=True)
class _Part:
    batch: int
    ends: bool
    feed: Feed
    samples: int


class _Parts:
    """Cuts batches into parts; the first one is a single sample, which tells the size of all."""

    def __init__(self, model: ir.Model, batches: Batches, start: int) -> None:
        self._batches = batches
        self._start = start
        self._cuttable = _has_dynamic_batch(model)
        self._length = 1
        self.measured = False
        """Whether the size of a part is known."""

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self._cuttable or len(self._batches.feeds) > self._start + 1

    def __iter__(self) -> Iterator[_Part]:
        feeds = self._batches.feeds
        first = self._start
        rest = feeds.starting(first) if isinstance(feeds, FileFeeds) else feeds[first:]
        for index, feed in enumerate(rest, first):
            lengths = {len(array) if array.ndim else 0 for array in feed.values()}
            if not self._cuttable or len(lengths) != 1 or lengths <= {0, 1}:
                yield _Part(index, ends=True, feed=feed, samples=max(lengths, default=1) or 1)
                continue
            yield from self._cut(index, feed, lengths.pop())

    def _cut(self, index: int, feed: Feed, length: int) -> Iterator[_Part]:
        first = 0
        while first < length:
            end = min(first + self._length, length)
            part = {name: array[first:end] for name, array in feed.items()}
            yield _Part(index, end == length, part, end - first)
            first = end

    def learn(self, part: _Part, found: Future[Seen]) -> Seen:
        """Wait for a part, choose the length of the next ones by its size, and return it."""
        seen = found.result()
        size = sum(array.nbytes for array in seen.tensors.values())
        if size and self._cuttable:
            self._length = max(1, part.samples * PART_BYTES // size)
        self.measured = True
        return seen


def _has_dynamic_batch(model: ir.Model) -> bool:
    """Whether all inputs have the same unknown length in front, so that a batch may be cut."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if any(value.shape is None or not len(value.shape) for value in inputs):
        return False
    leading = [value.shape[0] for value in inputs if value.shape]
    if any(isinstance(dim, int) for dim in leading):
        return False
    names = {dim.value for dim in leading if not isinstance(dim, int)}
    return len(inputs) == 1 or (len(names) == 1 and None not in names)


@contextmanager
def _only_outputs(model: ir.Model, tensors: Mapping[ir.Value, ir.DataType]) -> Iterator[None]:
    """Make ``tensors`` the only outputs of the model, for as long as the block runs."""
    kept = list(model.graph.outputs)
    declared = {tensor: tensor.type for tensor in tensors}
    model.graph.outputs[:] = tensors
    for tensor, dtype in tensors.items():
        tensor.type = tensor.type or ir.TensorType(dtype)
    try:
        yield
    finally:
        model.graph.outputs[:] = kept
        for tensor, type_ in declared.items():
            tensor.type = type_
