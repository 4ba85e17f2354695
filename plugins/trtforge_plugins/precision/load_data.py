"""Step ``load-data``: the samples that calibration and comparison run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import psutil

from trtforge import Batches, Context, DataError, Step
from trtforge.errors import did_you_mean
from trtforge.feeds import synthesize
from trtforge.quantities import format_bytes
from trtforge_plugins.precision.array_files import ArrayFile, open_arrays

if TYPE_CHECKING:
    from trtforge.artifacts import Array

USUAL_BATCH = 8
LABELS = "labels"


@dataclass(frozen=True)
class LoadData(Step):
    """Load samples for calibration and comparison, and check that they fit the model.

    The first axis of every array counts samples.
    """

    name = "load-data"
    gives = (Batches,)

    path: Path | None = None
    """A .npz with one array per input, a .npy for a model of one input, or a folder of these."""
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

    def run(self, ctx: Context) -> int:
        """Put :class:`Batches` into the context; the model stays as it is.

        Raises:
            DataError: there is no data, or it does not fit the model.
        """
        if (self.count is not None and self.count < 1) or (
            self.batch is not None and self.batch < 1
        ):
            raise DataError("count and batch must be at least 1")
        if self.path is not None and self.synthesize:
            raise DataError(
                "path and synthesize exclude each other", remedy="leave one of them out"
            )
        ctx.put(self._load(self.path, ctx) if self.path is not None else self._make_up(ctx))
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

    def _load(self, path: Path, ctx: Context) -> Batches:
        inputs = [value for value in ctx.model.graph.inputs if not value.is_initializer()]
        files = [open_arrays(file) for file in _files(path)]
        _check_memory(files, self.count, path)
        arrays, labels = self._rows(files, inputs)
        checked = {
            str(value.name): _fitted(arrays[str(value.name)], value, path, ctx) for value in inputs
        }
        size = _batch_size(inputs, self.batch)
        feeds = tuple(_batches(checked, size, inputs, ctx, path))
        used = sum(len(next(iter(feed.values()))) for feed in feeds)
        return Batches(feeds, str(path), labels=None if labels is None else labels[:used])

    def _rows(
        self, files: list[ArrayFile], inputs: list[ir.Value]
    ) -> tuple[dict[str, Array], Array | None]:
        """Return one array per input over all files, and the labels."""
        parts: dict[str, list[Array]] = {str(value.name): [] for value in inputs}
        labels: list[Array] = []
        left = self.count
        for file in files:
            if left is not None and left <= 0:
                break
            keys = _keys(file, list(parts))
            rows = _sample_count(file, keys)
            take = rows if left is None else min(rows, left)
            for name, key in keys.items():
                parts[name].append(file.read(key, take))
            label_key = self._label_key(file, keys)
            if label_key is not None:
                labels.append(_labels(file, label_key, rows)[:take])
            left = None if left is None else left - take
        if labels and len(labels) != len(parts[next(iter(parts))]):
            raise DataError("some of the files have labels and some have none")
        joined = {name: _join(name, arrays) for name, arrays in parts.items()}
        return joined, np.concatenate(labels) if labels else None

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


def _check_memory(files: list[ArrayFile], count: int | None, path: Path) -> None:
    headers = [header for file in files for header in file.headers.values() if header.shape]
    rows = [min(header.shape[0], count or header.shape[0]) for header in headers]
    needed = sum(row * header.row_bytes for row, header in zip(rows, headers, strict=True))
    free = psutil.virtual_memory().available
    if needed > free // 2:
        raise DataError(
            f"the samples take {format_bytes(needed)}; {format_bytes(free)} of memory are free",
            where=str(path),
            remedy="use fewer samples: --set load-data.count=512",
        )


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


def _join(name: str, arrays: list[Array]) -> Array:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise DataError(f"the files differ in the shape of input {name!r}: {sorted(shapes)}")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _fitted(array: Array, value: ir.Value, path: Path, ctx: Context) -> Array:
    """Return ``array`` in the input's type, after checking its shape and its values."""
    where = f"{path}: input {value.name!r}"
    _check_shape(array, value, where)
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(
            f"the value at {list(index)} is {array[index]}",
            where=where,
            remedy=f"repair or leave out sample {index[0]}",
        )
    wanted = np.dtype(value.dtype.numpy()) if value.dtype is not None else array.dtype
    if array.dtype == wanted:
        return array
    converted = _converted(array, wanted)
    if converted is None:
        raise DataError(
            f"its type is {array.dtype}, the model takes {wanted}",
            where=where,
            remedy=f"save it with array.astype({wanted})",
        )
    ctx.note(str(value.name), f"the data was converted from {array.dtype} to {wanted}")
    return converted


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


def _check_shape(array: Array, value: ir.Value, where: str) -> None:
    if value.shape is None:
        return
    wanted = [dim if isinstance(dim, int) else None for dim in value.shape]
    fits = array.ndim == len(wanted) and all(
        dim is None or axis == 0 or dim == length
        for axis, (dim, length) in enumerate(zip(wanted, array.shape, strict=True))
    )
    if not fits:
        raise DataError(
            f"its shape is {list(array.shape)}, the model takes {value.shape}",
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


def _batches(
    arrays: Mapping[str, Array], size: int, inputs: list[ir.Value], ctx: Context, path: Path
) -> Iterator[dict[str, Array]]:
    """Yield slices of ``size`` samples; a last, smaller one only where the batch is dynamic."""
    total = len(next(iter(arrays.values())))
    fixed = any(value.shape and isinstance(value.shape[0], int) for value in inputs)
    if fixed and total < size:
        raise DataError(f"{total} samples do not fill the model's batch of {size}", where=str(path))
    usable = total - total % size if fixed else total
    if usable < total:
        ctx.note("data", f"the last {total - usable} samples do not fill a batch of {size}: unused")
    for start in range(0, usable, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}
