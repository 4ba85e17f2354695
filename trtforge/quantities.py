"""Shapes, shape ranges and sizes as people write them: ``1x3x224x224``, ``4GiB``.

The classes are plain subclasses of ``tuple`` and ``int``, so that step authors use them as field
types without importing pydantic; pydantic finds the two ``__get_pydantic_*__`` methods by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trtforge.errors import RequestError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_SHAPE = re.compile(r"\[?\s*\d+(?:\s*[x,]\s*\d+)*\s*\]?")
MAX_DIM = 2**31 - 1  # TensorRT's own limit for one dimension


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _schema(parse: Any) -> Any:
    from pydantic_core import core_schema  # deferred: authors need not have pydantic loaded

    def validate(value: object) -> object:
        try:
            return parse(value)
        except RequestError as error:
            raise ValueError(str(error)) from error

    return core_schema.no_info_plain_validator_function(
        validate, serialization=core_schema.to_string_ser_schema()
    )


class ByteSize(int):
    """A number of bytes, written ``4GiB``, ``512MiB``, ``1.5GB`` or as a plain integer."""

    def __new__(cls, value: str | int) -> Self:
        """Parse ``value``; raises :class:`RequestError` when it is no size."""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RequestError(f"{value!r} is not a size", remedy="write it like 4GiB or 512MiB")
        match = _SIZE.fullmatch(str(value))
        if not match or match[2].upper() not in UNITS:
            raise RequestError(f"{value!r} is not a size", remedy="write it like 4GiB or 512MiB")
        size = float(match[1]) * UNITS[match[2].upper()]
        if size >= 2**63:
            raise RequestError(
                f"{_short(str(value))!r} is more than any machine has",
                remedy="write it like 4GiB or 512MiB",
            )
        return super().__new__(cls, round(size))

    def __str__(self) -> str:
        return format_bytes(int(self))

    __repr__ = __str__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Let pydantic read a size from text or a number."""
        return _schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        """Describe a size for editors."""
        text = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KMGT]i?B|B)?$"}
        return {"anyOf": [text, {"type": "integer", "minimum": 0}], "examples": ["4GiB"]}


def format_bytes(count: int) -> str:
    """Write a number of bytes as ``512MiB``: exact where a unit divides it, else 3 digits."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count // size}{unit}" if count % size == 0 else f"{count / size:.2f}{unit}"
    return f"{count}B"


def percent(share: float) -> str:
    """Write a share; 100 % and 0 % stand only for all and nothing."""
    text = f"{share:.2%}"
    if text == "100.00%" and share < 1.0:
        return "> 99.99%"
    if text == "0.00%" and share > 0.0:
        return "< 0.01%"
    return text


class Dims(tuple[int, ...]):
    """A static shape, written ``1x3x224x224``, ``[1,3,224,224]`` or as a list of integers."""

    __slots__ = ()

    def __new__(cls, value: str | int | Iterable[int]) -> Self:
        """Parse ``value``; raises :class:`RequestError` when it is no shape."""
        wrong = RequestError(
            f"{value!r} is not a shape", remedy="write it like 1x3x224x224 or [1,3,224,224]"
        )
        if isinstance(value, bool):
            raise wrong
        if isinstance(value, int):
            value = (value,)
        if isinstance(value, str):
            if value.strip() in ("", "[]", "scalar"):
                return super().__new__(cls, ())
            if not _SHAPE.fullmatch(value.strip()):
                raise wrong
            value = [int(digits) for digits in re.findall(r"\d+", value)]
        try:
            dims = list(value)
        except TypeError:
            raise wrong from None
        if any(isinstance(dim, bool) or not isinstance(dim, int) for dim in dims):
            raise wrong
        if any(not 0 <= dim <= MAX_DIM for dim in dims):
            raise RequestError(
                f"{value!r}: a dimension is outside 0..{MAX_DIM}",
                remedy="TensorRT takes no larger dimension; check the shape",
            )
        return super().__new__(cls, dims)

    def __str__(self) -> str:
        return "x".join(map(str, self)) or "scalar"

    __repr__ = __str__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Let pydantic read a shape from text or a list."""
        return _schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        """Describe a shape for editors."""
        text = {"type": "string", "pattern": r"^\d+(x\d+)*$|^\[.*\]$|^scalar$"}
        numbers = {"type": "array", "items": {"type": "integer", "minimum": 0}}
        return {"anyOf": [text, numbers, {"type": "integer"}], "examples": ["1x3x224x224"]}


@dataclass(frozen=True)
class ShapeRange:
    """The smallest, the usual and the largest shape of one input: TensorRT's profile of it."""

    min: Dims
    opt: Dims
    max: Dims

    def __post_init__(self) -> None:
        """Refuse different ranks and ``min <= opt <= max`` broken in any dimension."""
        if not len(self.min) == len(self.opt) == len(self.max):
            raise RequestError(
                f"min {self.min}, opt {self.opt} and max {self.max} have different ranks",
                remedy="give all three the rank of the input",
                code="bad-profile",
            )
        for axis, (low, mid, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not low <= mid <= high:
                raise RequestError(
                    f"dimension {axis}: min {low}, opt {mid}, max {high} are not in order",
                    remedy="make min <= opt <= max in each dimension",
                    code="bad-profile",
                )

    @classmethod
    def read(cls, value: object) -> ShapeRange:
        """Read ``{min, opt, max}``, one shape for all three, or ``min:opt:max`` as text.

        Raises:
            RequestError: the value is none of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value.count(":") == 2:
            return cls(*(Dims(part) for part in value.split(":")))
        if isinstance(value, dict):
            keys = set(value)
            if keys != {"min", "opt", "max"}:
                raise RequestError(
                    "a shape range has min, opt and max; "
                    f"found {', '.join(map(str, value)) or 'nothing'}",
                    remedy="write {min: 1x3x224x224, opt: 8x3x224x224, max: 32x3x224x224}",
                )
            return cls(Dims(value["min"]), Dims(value["opt"]), Dims(value["max"]))
        if isinstance(value, str | int | list | tuple):
            fixed = Dims(value)
            return cls(fixed, fixed, fixed)
        raise RequestError(f"{value!r} is neither a shape nor {{min, opt, max}}")

    @property
    def is_fixed(self) -> bool:
        """Whether min, opt and max are the same shape."""
        return self.min == self.max

    def __str__(self) -> str:
        return str(self.min) if self.is_fixed else f"{self.min}:{self.opt}:{self.max}"
