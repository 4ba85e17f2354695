"""Whether the arrays of a file fit the inputs of a model: names, shapes, types, values, size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import psutil

from trtforge import Context, DataError
from trtforge.array_files import ArrayFile
from trtforge.errors import did_you_mean
from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    from trtforge.artifacts import Array

CHECKED_BYTES = 8 * 2**20
"""How much is read at a time while the data is checked."""


def arrays_of_inputs(file: ArrayFile, inputs: list[str]) -> dict[str, str]:
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


def sample_count(file: ArrayFile, keys: Mapping[str, str]) -> int:
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


def read_labels(file: ArrayFile, key: str, samples: int) -> Array:
    """Return one integer class label for each sample."""
    header = file.headers[key]
    if header.dtype.kind not in "iu" or header.shape != (samples,):
        raise DataError(
            f"labels {key!r} are {header.dtype}{list(header.shape)}; "
            f"one integer for each of the {samples} samples is expected",
            where=str(file.path),
        )
    return file.read(key, samples)


def check_memory(file: ArrayFile, keys: Iterable[str], batch: int) -> None:
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


def type_name(value: ir.Value) -> str:
    """Return the name of the NumPy type that an input takes."""
    return np.dtype(value.dtype.numpy()).name if value.dtype is not None else "float32"


def check_samples(file: ArrayFile, key: str, value: ir.Value, rows: int, ctx: Context) -> None:
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
