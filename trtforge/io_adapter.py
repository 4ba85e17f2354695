"""Inputs and outputs whose type a pass had to change: what they were, and how data is converted.

TensorRT has no uint16 input, for example. A pass may give it another type that holds every value;
it says so in the model's metadata under :data:`KEY`, as JSON by the name of the input or output::

    {"pixels": {"given": "UINT16", "now": "INT32"}}

Feeds are converted by :func:`to_model`, results by :func:`from_model`. Nothing is lost, or a
:class:`~trtforge.errors.DataError` names the value. uint64 keeps its bits in an int64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge.errors import DataError, ModelError

if TYPE_CHECKING:
    from trtforge.artifacts import Array

KEY = "trtforge.io_adapter"
"""Key in the model's metadata."""


@dataclass(frozen=True)
class Adapted:
    """The types of one input or output, by ONNX's names."""

    given: str
    """In the model that was given, for example ``UINT16``."""
    now: str
    """In the model that carries the entry, for example ``INT32``."""


def read(metadata: Mapping[str, str]) -> dict[str, Adapted]:
    """Return the entries of a model's metadata by input and output; none where there is no key.

    Raises:
        ModelError: the entry is damaged.
    """
    try:
        data = json.loads(metadata.get(KEY, "{}"))
        entries = {str(name): Adapted(**entry) for name, entry in data.items()}
        for entry in entries.values():
            dtype_of(entry.given), dtype_of(entry.now)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(f"metadata {KEY!r} of the model is damaged: {error}") from error
    return entries


def write(metadata: MutableMapping[str, str], entries: Mapping[str, Adapted]) -> None:
    """Put ``entries`` into a model's metadata."""
    metadata[KEY] = json.dumps({name: asdict(entry) for name, entry in sorted(entries.items())})


def to_model(entries: Mapping[str, Adapted], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return ``feeds`` of the given model as feeds of the model with ``entries``.

    Arrays that have the new type already, and inputs without an entry, pass as they are.

    Raises:
        DataError: a value has no equal in the new type.
    """
    return {
        name: _converted(name, array, dtype_of(entries[name].now)) if name in entries else array
        for name, array in feeds.items()
    }


def from_model(entries: Mapping[str, Adapted], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of the model with ``entries`` in the given model's types.

    Raises:
        DataError: a value has no equal in the given type.
    """
    return {
        name: _converted(name, array, dtype_of(entries[name].given)) if name in entries else array
        for name, array in outputs.items()
    }


def dtype_of(name: str) -> np.dtype[Any]:
    """Return NumPy's type for ONNX's name: ``UINT16``."""
    return np.dtype(ir.DataType[name].numpy())


def _converted(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype:
        return array
    if {array.dtype, dtype} == {np.dtype(np.uint64), np.dtype(np.int64)}:
        return array.view(dtype)
    result = array.astype(dtype)
    back = result.astype(array.dtype)
    kept = (back == array) | (_is_nan(array) & _is_nan(back))
    wrong = np.atleast_1d(~kept)
    if wrong.any():
        value = np.atleast_1d(array)[wrong].flat[0]
        raise DataError(
            f"{name!r} holds {value}, which {dtype} cannot",
            remedy="give data that fits the type",
        )
    return result


def _is_nan(array: Array) -> Array:
    """ml_dtypes' narrow floats have no kind of their own, so a NaN is told by not being itself."""
    return np.not_equal(array, array)
