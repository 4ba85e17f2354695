"""Inputs that became constants: their values stay on record, so that comparisons can use them.

TensorRT needs some inputs (axes, k, sizes) as constants. A pass that makes them constants says so
in the model's metadata under :data:`KEY`, as JSON by the name of the input::

    {"axes": {"type": "INT64", "shape": [1], "values": [1]}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge.errors import DataError, ModelError

if TYPE_CHECKING:
    from trtforge.artifacts import Array

    Arrays = Mapping[str, Array]

KEY = "trtforge.frozen_inputs"
"""Key in the model's metadata."""


def read(metadata: Mapping[str, str]) -> dict[str, Array]:
    """Return the values of a model's frozen inputs by name; none where there is no key.

    Raises:
        ModelError: the entry is damaged.
    """
    try:
        data = json.loads(metadata.get(KEY, "{}"))
        return {str(name): _array(**entry) for name, entry in data.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(f"metadata {KEY!r} of the model is damaged: {error}") from error


def write(metadata: MutableMapping[str, str], values: Arrays) -> None:
    """Put the values of all frozen inputs into a model's metadata."""
    entries = {
        name: {
            "type": ir.DataType.from_numpy(array.dtype).name,
            "shape": list(array.shape),
            "values": array.reshape(-1).tolist(),
        }
        for name, array in sorted(values.items())
    }
    metadata[KEY] = json.dumps(entries)


def without(frozen: Arrays, feed: Arrays) -> dict[str, Array]:
    """Return ``feed`` of the model as it was, as a feed of the model with ``frozen`` inputs.

    Raises:
        DataError: it has another value for a frozen input.
    """
    for name in frozen.keys() & feed.keys():
        if not np.array_equal(feed[name], frozen[name]):
            raise DataError(
                f"the model's input {name!r} is frozen to {_shown(frozen[name])}, and the data "
                f"says {_shown(np.asarray(feed[name]))}",
                remedy="leave it out of the data, or freeze the other value",
            )
    return {name: array for name, array in feed.items() if name not in frozen}


def _array(type: str, shape: list[int], values: list[Any]) -> Array:  # noqa: A002  # a key of the JSON
    return np.asarray(values).astype(ir.DataType[type].numpy()).reshape(shape)


def _shown(array: Array) -> str:
    text = str(array.tolist())
    return text if len(text) <= 40 else f"{text[:40]} …"
