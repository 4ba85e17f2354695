"""Step ``load-data``: the samples that calibration and comparison run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir
import psutil

from trtforge import Batches, Context, DataError, Step
from trtforge.array_files import ArrayFile, open_arrays
from trtforge.errors import did_you_mean
from trtforge.feeds import synthesize
from trtforge.file_feeds import DataFile, DataInput, FileFeeds
from trtforge.quantities import format_bytes
from trtforge_plugins.precision.data_loader import write_batches

if TYPE_CHECKING:
    from trtforge.artifacts import Array

USUAL_BATCH = 8
LABELS = "labels"
CHECKED_BYTES = 8 * 2**20
"""How much is read at a time while the data is checked."""


@dataclass(frozen=True)
class LoadData(Step):
    """Load samples for calibration and comparison, and check that they fit the model.

    The first axis of every array counts samples. Files may be larger than memory: each batch is
    read when it is needed. Other axes may differ from file to file where the model allows it.
    """

    name = "load-data"
    gives = (Batches,)
    by_user: ClassVar[tuple[str, ...]] = ("loader",)

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
    synthesize: bool = False
    """Make seeded random data up instead. It says nothing about accuracy, and reports say so."""

    def reads(self) -> Iterable[Path]:
        """Return the files that are read."""
        return _files(self.path) if self.path is not None else ()

    def environment(self) -> Mapping[str, str]:
        """Return something new each time for a loader: nobody knows what it will give."""
        return {} if self.loader is None else {"loader": str(time_ns())}

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
        if self.path is not None:
            ctx.put(self._load(self.path, str(self.path), ctx))
        elif self.loader is not None:
            names = [str(value.name) for value in _inputs(ctx.model)]
            folder = write_batches(self.loader, names, ctx.path("calibration-data"), self.count)
            ctx.put(self._load(folder, self.loader, ctx))
        else:
            ctx.put(self._make_up(ctx))
        return 0

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
            keys = _keys(file, [str(value.name) for value in inputs])
            rows = _sample_count(file, keys)
            take = rows if left is None else min(rows, left)
            _check_memory(file, keys.values(), min(size, take))
            for value in inputs:
                _check(file, keys[str(value.name)], value, take, ctx)
            shapes.append([file.headers[key].shape[1:] for key in keys.values()])
            is_new = len(shapes) > 1 and shapes[-1] != shapes[-2]
            used.append(DataFile.of(file.path, take, (used[-1].group if used else 0) + is_new))
            label_key = self._label_key(file, keys)
            if label_key is not None:
                labels.append(_labels(file, label_key, rows)[:take])
            left = None if left is None else left - take
        if labels and len(labels) != len(used):
            raise DataError("some of the files have labels and some have none", where=str(path))
        names = tuple(DataInput(str(value.name), _wanted(value)) for value in inputs)
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


def _check_memory(file: ArrayFile, keys: Iterable[str], batch: int) -> None:
    """Refuse batches that would not fit in memory, for example of a damaged header."""
    needed = batch * sum(file.headers[key].row_bytes for key in keys)
    free = psutil.virtual_memory().available
    if needed > free // 2:
        raise DataError(
            f"a batch of {batch} takes {format_bytes(needed)}; {format_bytes(free)} of memory "
            "are free",
            where=str(file.path),
            remedy="use smaller batches: --set load-data.batch=1",
        )


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


def _keys(file: ArrayFile, inputs: list[str]) -> dict[str, str]:
    """Return which array of the file belongs to which input."""
    if list(file.headers) == [""] and len(inputs) == 1:
        return {inputs[0]: ""}
    for name in inputs:
        if name not in file.headers:
            found = ", ".join(key for key in file.headers if key) or "one unnamed array"
            hint = did_you_mean(name, file.headers)
            raise DataError(
                f"there is no array for input {name!r}; the file holds {found}. {hint}".strip(),
                where=str(file.path),
                remedy="write one array per input: numpy.savez(path, "
                + ", ".join(f"{input_name}=…" for input_name in inputs)
                + ")",
            )
    return {name: name for name in inputs}


def _sample_count(file: ArrayFile, keys: Mapping[str, str]) -> int:
    """Return the length of the first axis, which all arrays of a file share."""
    lengths = {
        name: header.shape[0] if header.shape else 0
        for name, header in ((name, file.headers[key]) for name, key in keys.items())
    }
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(
            f"the arrays differ in their number of samples ({shown})", where=str(file.path)
        )
    length = next(iter(lengths.values()), 0)
    if length == 0:
        raise DataError(
            "there is no sample in it",
            where=str(file.path),
            remedy="the first axis of each array counts samples; give at least one",
        )
    return length


def _labels(file: ArrayFile, key: str, samples: int) -> Array:
    header = file.headers[key]
    if header.dtype.kind not in "iu" or header.shape != (samples,):
        raise DataError(
            f"labels {key!r} are {header.dtype}{list(header.shape)}; "
            f"one integer for each of the {samples} samples is expected",
            where=str(file.path),
        )
    return file.read(key, samples)


def _wanted(value: ir.Value) -> str:
    return np.dtype(value.dtype.numpy()).name if value.dtype is not None else "float32"


def _check(file: ArrayFile, key: str, value: ir.Value, rows: int, ctx: Context) -> None:
    """Check shape, type and values of the first ``rows`` samples, a few at a time."""
    header = file.headers[key]
    where = f"{file.path}: input {value.name!r}"
    _check_shape(header.shape, value, where)
    wanted = np.dtype(value.dtype.numpy()) if value.dtype is not None else header.dtype
    at_once = max(1, CHECKED_BYTES // max(header.row_bytes, 1))
    with file.rows(key) as reader:
        for first in range(0, rows, at_once):
            part = reader.take(min(at_once, rows - first))
            _check_values(part, wanted, where, first)
    if header.dtype.newbyteorder("=") != wanted:
        ctx.note(str(value.name), f"the data was converted from {header.dtype} to {wanted}")


def _check_values(part: Array, wanted: np.dtype[np.generic], where: str, first: int) -> None:
    if part.dtype.kind in "fc" and not np.isfinite(part).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(part))[0])
        raise DataError(
            f"the value at {[index[0] + first, *index[1:]]} is {part[index]}",
            where=where,
            remedy=f"repair or leave out sample {index[0] + first}",
        )
    if part.dtype != wanted and _converted(part, wanted) is None:
        raise DataError(
            f"its type is {part.dtype}, the model takes {wanted}",
            where=where,
            remedy=f"save it with array.astype({wanted})",
        )


def _converted(array: Array, wanted: np.dtype[np.generic]) -> Array | None:
    """Return ``array`` as ``wanted`` where no value changes its meaning, else None."""
    if array.dtype.kind in "iub" and wanted.kind in "iu":
        result = array.astype(wanted)
        return result if np.array_equal(result, array) else None
    narrower = array.dtype.kind == "f" and wanted.kind in "fV"  # V: ml_dtypes' bfloat16
    if not narrower and not np.can_cast(array.dtype, wanted, "safe"):
        return None
    with np.errstate(over="ignore"):
        result = array.astype(wanted)
    return result if np.isfinite(result.astype(np.float32)).all() else None


def _check_shape(shape: tuple[int, ...], value: ir.Value, where: str) -> None:
    if value.shape is None:
        return
    wanted = [dim if isinstance(dim, int) else None for dim in value.shape]
    fits = len(shape) == len(wanted) and all(
        dim is None or axis == 0 or dim == length
        for axis, (dim, length) in enumerate(zip(wanted, shape, strict=True))
    )
    if not fits:
        raise DataError(
            f"its shape is {list(shape)}, the model takes {value.shape}",
            where=where,
            remedy="the first axis counts samples; the others must be the model's",
        )


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
