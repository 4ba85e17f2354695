"""Value ranges as other tools write them: TensorRT's calibration cache and ONNX Runtime's JSON."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from trtforge import DataError, Range, Ranges

Format = Literal["tensorrt", "onnxruntime", "json"]
LEVELS = 127.0
_HEADER = re.compile(r"TRT-\d+-(\w+)")
_LINE = re.compile(r"(?P<name>.+): (?P<scale>[0-9a-fA-F]{1,8})")
_WRITTEN_AS = "TRT-100000-EntropyCalibration2"
"""Readers look at the algorithm; TensorRT 11, which might compare versions, reads none any more."""


def read(path: Path) -> tuple[dict[str, Range], str]:
    """Return the ranges by tensor name and the method that made them.

    Known are TensorRT's calibration cache, the JSON of ONNX Runtime's ``save_tensors_data`` and
    ``write_calibration_table``, and JSON of ``{tensor: [low, high]}`` or ``{tensor: amax}``.

    Raises:
        DataError: the file cannot be read, is none of these, or holds a number that is no range.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("it is no text", where=str(path), remedy=_KNOWN) from error
    header = _HEADER.match(text)
    if header:
        return _from_tensorrt(text, path), header[1]
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "it is neither a calibration cache nor JSON", where=str(path), remedy=_KNOWN
        ) from error
    return _from_json(data, path)


_KNOWN = "give a TensorRT calibration cache, ONNX Runtime's JSON, or {tensor: [low, high]} as JSON"


def _from_tensorrt(text: str, path: Path) -> dict[str, Range]:
    """Read ``name: scale`` lines: float32 in hexadecimal, big-endian, leading zeros left out.

    The scale is the largest magnitude / 127 (sample ``sampleINT8`` of TensorRT 8, "Calibration
    file").
    """
    found = {}
    for number, line in enumerate(text.splitlines()[1:], 2):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise DataError(f"line {number} is not `tensor: scale in hexadecimal`", where=str(path))
        (scale,) = struct.unpack("!f", bytes.fromhex(match["scale"].zfill(8)))
        name = match["name"]
        found[name] = _checked(name, -scale * LEVELS, scale * LEVELS, path)
    return found


def _from_json(data: Any, path: Path) -> tuple[dict[str, Range], str]:
    method = "file"
    if isinstance(data, dict) and data.get("CLS") == "TensorsData":
        told = data.get("calibration_method")
        method = str(told.get("value")).rpartition(".")[2] if isinstance(told, dict) else method
        data = data.get("data")
    if not isinstance(data, dict):
        raise DataError("it holds no ranges by tensor name", where=str(path), remedy=_KNOWN)
    found = {}
    for name, entry in data.items():
        match entry:
            case {"lowest": low, "highest": high} | [low, high]:
                low, high = _number(low), _number(high)
            case int() | float():
                low, high = -abs(entry), abs(entry)
            case _:
                low = high = None
        if low is None or high is None:
            raise DataError(f"tensor {name!r} has no range", where=str(path), remedy=_KNOWN)
        found[name] = _checked(name, low, high, path)
    return found, method


def _number(value: Any) -> float | None:
    """Return a number that may be wrapped, as NumPy scalars are: ``{"data": 1.5, …}``."""
    if isinstance(value, dict):
        value = value.get("data")
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _checked(name: str, low: float, high: float, path: Path) -> Range:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise DataError(f"tensor {name!r} has the range {low:g}..{high:g}", where=str(path))
    return Range(low, high)


def text_of(ranges: Ranges, kind: Format) -> str:
    """Return the content of a file."""
    return _WRITERS[kind](ranges)


def _tensorrt(ranges: Ranges) -> str:
    lines = [_WRITTEN_AS]
    for name, found in ranges.by_tensor.items():
        lines.append(f"{name}: {struct.pack('!f', found.amax / LEVELS).hex()}")
    return "\n".join(lines) + "\n"


def _onnxruntime(ranges: Ranges) -> str:
    def array(value: float) -> dict[str, Any]:
        return {"data": value, "dtype": "float32", "CLS": "numpy.array"}

    tensors = {
        name: {"lowest": array(found.low), "highest": array(found.high), "CLS": "TensorData"}
        for name, found in ranges.by_tensor.items()
    }
    method = {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"}
    data = {
        "CLS": "TensorsData",
        "data": tensors,
        "calibration_method": method,
        "smooth_quant": False,
    }
    return json.dumps(data, indent=1) + "\n"


def _json(ranges: Ranges) -> str:
    data = {name: [found.low, found.high] for name, found in ranges.by_tensor.items()}
    return json.dumps(data, indent=1) + "\n"


_WRITERS: Mapping[str, Callable[[Ranges], str]] = MappingProxyType(
    {"tensorrt": _tensorrt, "onnxruntime": _onnxruntime, "json": _json}
)
