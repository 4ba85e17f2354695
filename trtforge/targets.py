"""The GPUs an engine can be made for, and the types their tensor cores take.

Which type builds for which compute capability was measured with TensorRT-RTX 1.7.1 (see
``docs/targets.md``); names follow NVIDIA's compute capability list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trtforge.errors import RequestError, did_you_mean

_COMMON = frozenset({"float32", "float16", "int8"})
_AMPERE = _COMMON | {"bfloat16", "int4"}
_ADA = _AMPERE | {"float8e4m3fn"}
_BLACKWELL = _ADA | {"float4e2m1"}


@dataclass(frozen=True, order=True)
class Target:
    """A compute capability, for example ``sm_86``."""

    sm: int
    family: str
    dtypes: frozenset[str]
    """Types that TensorRT compiles natively for it, in ONNX's spelling, lower case."""

    @property
    def name(self) -> str:
        """The name a recipe uses: ``sm_86``."""
        return f"sm_{self.sm}"

    def __str__(self) -> str:
        return self.name


KNOWN = {
    target.name: target
    for target in (
        Target(75, "Turing (T4, RTX 20)", _COMMON),
        Target(80, "Ampere (A100, A30)", _AMPERE),
        Target(86, "Ampere (A10, A40, RTX 30)", _AMPERE),
        Target(87, "Ampere (Jetson Orin)", _AMPERE),
        Target(89, "Ada (L4, L40S, RTX 40)", _ADA),
        Target(90, "Hopper (H100, H200)", _ADA),
        Target(100, "Blackwell (B200)", _BLACKWELL),
        Target(103, "Blackwell (B300)", _BLACKWELL),
        Target(110, "Blackwell (Thor)", _BLACKWELL),
        Target(120, "Blackwell (RTX 50, RTX PRO)", _BLACKWELL),
        Target(121, "Blackwell (GB10)", _BLACKWELL),
    )
}


def read_target(text: str) -> Target:
    """Read ``sm_86``, ``sm86``, ``SM86``, ``8.6`` or ``86``.

    Raises:
        RequestError: there is no such compute capability here.
    """
    digits = re.fullmatch(r"(?:sm_?)?(\d+)(?:\.(\d))?", str(text).strip().lower())
    name = f"sm_{digits[1]}{digits[2] or ''}" if digits else str(text)
    if name not in KNOWN:
        hint = did_you_mean(name, KNOWN)
        raise RequestError(
            f"unknown target {text!r}.{' ' + hint if hint else ''}",
            remedy=f"use one of {', '.join(KNOWN)}",
        )
    return KNOWN[name]
