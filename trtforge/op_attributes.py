"""A custom op with its attributes as text, and back: nothing is lost on the way.

Where other formats would round or cut (TensorRT hands ONNX attributes to plugins as INT32 and
FLOAT32), this canonical JSON keeps every bit: integers of any size, float64, text, lists, and
tensors with their type, float16 and bfloat16 included.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.errors import ModelError

if TYPE_CHECKING:
    from trtforge.ops import CustomOp

_FLOAT, _TENSOR = "float", "tensor"
FIELD = "trtforge"
"""The attribute of a plugin's ONNX node, and the plugin's field, that holds the op as text."""
PLUGIN_VERSION = "1"


def plugin_name(kind: type[CustomOp]) -> str:
    """Return the name of a TensorRT plugin: with the domain, as TensorRT goes by standard names."""
    return kind.name.replace("::", "_").replace(".", "_").replace("-", "_")


def type_name(field: Field[Any]) -> str:
    """Return the type of an attribute as its declaration writes it: ``float``."""
    return field.type if isinstance(field.type, str) else field.type.__name__


def write_op(op: CustomOp) -> str:
    """Return ``op`` as JSON in ASCII: its name and all of its attributes.

    Raises:
        ModelError: an attribute is no bool, integer, float, text, list of these or NumPy array.
    """
    values = {}
    for field in fields(op):
        try:
            values[field.name] = _plain(getattr(op, field.name))
        except TypeError as error:
            raise ModelError(f"custom op {op.name}: attribute {field.name!r} {error}") from error
    return json.dumps({"op": op.name, "attributes": values}, sort_keys=True)


def read_written(text: str, kind: type[CustomOp]) -> CustomOp:
    """Return the op that :func:`write_op` wrote; ``kind`` is its class.

    Raises:
        ModelError: the text is damaged, or of another op or another version of it.
    """
    try:
        data = json.loads(text)
        values = {name: _back(value) for name, value in data["attributes"].items()}
        name = data["op"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the attributes of {kind.name} are damaged: {error}") from error
    known = {field.name for field in fields(kind)}
    if name != kind.name or not known >= values.keys():
        raise ModelError(
            f"these are attributes of {name}: {sorted(values)}; {kind.name} has {sorted(known)}"
        )
    return kind(**values)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {_FLOAT: value.hex()}  # JSON has neither infinities nor NaN
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.names:
            raise TypeError(f"is an array of {value.dtype}, which has no bytes of its own")
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {_TENSOR: [value.dtype.name, list(value.shape), data]}
    raise TypeError(f"is a {type(value).__name__}, which a plugin cannot carry")


def _back(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_back(entry) for entry in value)
    if not isinstance(value, Mapping):
        return value
    if _FLOAT in value:
        return float.fromhex(value[_FLOAT])
    dtype, shape, data = value[_TENSOR]
    return np.frombuffer(base64.b64decode(data), _array_type(dtype)).reshape(shape)


def _array_type(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))
