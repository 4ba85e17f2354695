"""Step ``load-data``: the samples that calibration and comparison run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context, DataError, Step
from trtforge.array_files import ArrayFile, open_arrays
from trtforge.artifacts import TaskMetric
from trtforge.errors import did_you_mean
from trtforge.feeds import synthesize
from trtforge.file_feeds import DataFile, DataInput, FileFeeds
from trtforge.user_code import code_digest
from trtforge_plugins.precision.data_check import (
    arrays_of_inputs,
    check_memory,
    check_samples,
    read_labels,
    sample_count,
    type_name,
)
from trtforge_plugins.precision.data_loader import write_batches

if TYPE_CHECKING:
    from trtforge.artifacts import Array

USUAL_BATCH = 8
LABELS = "labels"


@dataclass(frozen=True)
class LoadData(Step):
    """Load samples for calibration and comparison, and check that they fit the model.

    The first axis of every array counts samples. Files may be larger than memory: each batch is
    read when it is needed. Other axes may differ from file to file where the model allows it.
    """

    name = "load-data"
    gives = (Batches,)
    by_user: ClassVar[tuple[str, ...]] = ("loader", "metric")

    path: Path | None = None
    """A .npz with one array per input, a .npy for a model of one input, or a folder of these."""
    loader: str | None = None
    """`package.module:function` of your own code. The function takes no argument and returns the
    batches, one after the other: mappings of input names to arrays, or arrays for a model of one
    input. They are written to the run folder as they come."""
    count: int | None = None
    """How many samples to use; all of them when left out."""
    batch: int | None = None
    """Samples per run of the model; the model's own batch, or 8 where that is dynamic."""
    labels: str | None = None
    """Array with one class label per sample; `labels`, where the file has it."""
    metric: str | None = None
    """`package.module:function` of your own code that says how well a model does on this data.
    It is given (inputs, outputs, labels) of one batch after the other and returns a number; larger
    is better. `require: {accuracy, accuracy_drop}` are held against it."""
    synthesize: bool = False
    """Make seeded random data up instead. It says nothing about accuracy, and reports say so."""

    def reads(self) -> Iterable[Path]:
        """Return the files that are read."""
        return _files(self.path) if self.path is not None else ()

    def environment(self) -> Mapping[str, str]:
        """Return something new each time for a loader: nobody knows what it will give."""
        loader = {} if self.loader is None else {"loader": str(time_ns())}
        metric = {} if self.metric is None else {"metric": code_digest(self.metric)}
        return loader | metric

    def run(self, ctx: Context) -> int:
        """Put :class:`Batches` into the context; the model stays as it is.

        Raises:
            DataError: there is no data, or it does not fit the model.
        """
        if (self.count is not None and self.count < 1) or (
            self.batch is not None and self.batch < 1
        ):
            raise DataError("count and batch must be at least 1")
        given = [self.path is not None, self.loader is not None, self.synthesize]
        if sum(given) > 1:
            raise DataError(
                "path, loader and synthesize exclude each other", remedy="keep one of them"
            )
        found = self._batches(ctx)
        if self.metric is not None:
            metric = TaskMetric(self.metric, code_digest(self.metric))
            found = replace(found, metric=metric)
        ctx.put(found)
        return 0

    def _batches(self, ctx: Context) -> Batches:
        if self.path is not None:
            return self._load(self.path, str(self.path), ctx)
        if self.loader is not None:
            names = [str(value.name) for value in _inputs(ctx.model)]
            folder = write_batches(self.loader, names, ctx.path("calibration-data"), self.count)
            return self._load(folder, self.loader, ctx)
        return self._make_up(ctx)

    def _make_up(self, ctx: Context) -> Batches:
        if not self.synthesize:
            raise DataError(
                "no data is given",
                remedy="give data: --set load-data.path=calibration.npz "
                "(or made-up data: --set load-data.synthesize=true)",
            )
        profile = ctx.request.profiles[0] if ctx.request.profiles else None
        return synthesize(ctx.model, profile, samples=self.count or self.batch or USUAL_BATCH)

    def _load(self, path: Path, source: str, ctx: Context) -> Batches:
        inputs = _inputs(ctx.model)
        size = _batch_size(inputs, self.batch)
        used: list[DataFile] = []
        labels: list[Array] = []
        shapes: list[object] = []
        left = self.count
        for file in map(open_arrays, _files(path)):
            if left is not None and left <= 0:
                break
            keys = arrays_of_inputs(file, [str(value.name) for value in inputs])
            rows = sample_count(file, keys)
            take = rows if left is None else min(rows, left)
            check_memory(file, keys.values(), min(size, take))
            for value in inputs:
                check_samples(file, keys[str(value.name)], value, take, ctx)
            shapes.append([file.headers[key].shape[1:] for key in keys.values()])
            is_new = len(shapes) > 1 and shapes[-1] != shapes[-2]
            used.append(DataFile.of(file.path, take, (used[-1].group if used else 0) + is_new))
            label_key = self._label_key(file, keys)
            if label_key is not None:
                labels.append(read_labels(file, label_key, rows)[:take])
            left = None if left is None else left - take
        if labels and len(labels) != len(used):
            raise DataError("some of the files have labels and some have none", where=str(path))
        names = tuple(DataInput(str(value.name), type_name(value)) for value in inputs)
        feeds = FileFeeds(tuple(used), names, size, full=_is_fixed(inputs))
        _say_unused(feeds, path, ctx)
        return Batches(feeds, source, labels=_in_batches(labels, feeds) if labels else None)

    def _label_key(self, file: ArrayFile, keys: Mapping[str, str]) -> str | None:
        if self.labels is None:
            return LABELS if LABELS in file.headers and LABELS not in keys else None
        if self.labels not in file.headers:
            hint = did_you_mean(self.labels, file.headers)
            raise DataError(
                f"there is no array {self.labels!r} of labels. {hint}", where=str(file.path)
            )
        return self.labels


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the array files of a folder in the order of their names."""
    if not path.is_dir():
        if not path.exists():
            raise DataError("there is no such file or folder", where=str(path))
        if path.suffix not in (".npz", ".npy"):
            raise DataError(
                "data is a .npz file, a .npy file or a folder of these", where=str(path)
            )
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
    if not files:
        raise DataError("the folder holds no .npz or .npy file", where=str(path))
    return files


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _in_batches(labels: list[Array], feeds: FileFeeds) -> Array:
    """Return the labels of the samples that are in batches."""
    kept = []
    for group in dict.fromkeys(file.group for file in feeds.files):
        own = [
            array for array, file in zip(labels, feeds.files, strict=True) if file.group == group
        ]
        joined = np.concatenate(own)
        kept.append(joined[: len(joined) - len(joined) % feeds.batch] if feeds.full else joined)
    return np.concatenate(kept)


def _say_unused(feeds: FileFeeds, path: Path, ctx: Context) -> None:
    """Note samples that fill no batch of a model whose batch is fixed."""
    total, size = sum(file.rows for file in feeds.files), feeds.batch
    if not feeds.samples:
        raise DataError(f"{total} samples do not fill the model's batch of {size}", where=str(path))
    unused = total - feeds.samples
    if unused:
        ctx.note("data", f"the last {unused} samples do not fill a batch of {size}: unused")


def _batch_size(inputs: list[ir.Value], asked: int | None) -> int:
    """Return the model's fixed batch, else what was asked for.

    Raises:
        DataError: the model has a fixed batch and another one was asked for.
    """
    fixed = {value.shape[0] for value in inputs if value.shape} - {None}
    sizes = {dim for dim in fixed if isinstance(dim, int)}
    if not sizes:
        return asked or USUAL_BATCH
    size = min(sizes)
    if asked is not None and asked != size:
        raise DataError(
            f"batch {asked} was asked for, but the model's inputs have a fixed batch of {size}",
            remedy="leave load-data.batch out",
        )
    return size


def _is_fixed(inputs: list[ir.Value]) -> bool:
    return any(value.shape and isinstance(value.shape[0], int) for value in inputs)
