"""What the first bytes of an engine file say, without TensorRT.

TensorRT plans (8.6 and later): the tag ``0x74727466`` and the version in bytes 24 to 27, if the
number at byte 4 is 0. This is what NVIDIA's own ``trtexec --getPlanVersionOnly`` reads
(https://github.com/NVIDIA/TensorRT, ``samples/common/sampleEngines.cpp``, ``printPlanVersion``).

TensorRT-RTX engines: no public page states the layout. Engines of 1.4, 1.5, 1.6 and 1.7, built for
this purpose, all begin with ``vtrt``, and have the file's size at byte 16 and the version in bytes
24 to 27 (``benchmarks/bundle.py`` looks again, at the installed version only). NVIDIA's own check,
``IRuntime::getEngineValidity``, also reads these 64 bytes only.

The GPUs an engine is for stand in neither header; they are in the bundle's manifest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

SIZE = 64
"""Bytes that are enough for any header."""
_PLAN = 0x74727466
_RTX = int.from_bytes(b"vtrt", "little")


@dataclass(frozen=True)
class PlanHeader:
    """What an engine file says of itself."""

    flavor: Literal["tensorrt", "tensorrt_rtx"]
    version: tuple[int, int, int, int]
    """Major, minor, patch, build; each only its lowest 8 bits."""
    size: int | None
    """Bytes that the file should have; None: not stated."""

    def is_of(self, version: str) -> bool:
        """Whether ``version``, for example ``10.13.3.9``, is the one in the header."""
        parts = [int(part) for part in version.split(".")[:4] if part.isdigit()]
        return bool(parts) and all(
            part & 0xFF == stated for part, stated in zip(parts, self.version, strict=False)
        )

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))


def read_header(data: bytes) -> PlanHeader | None:
    """Return the header at the start of an engine file, or None if it has no known form.

    Args:
        data: The first :data:`SIZE` bytes, or more.
    """
    if len(data) < SIZE:
        return None
    tag, serialization = struct.unpack_from("<II", data)
    version = tuple(data[24:28])
    if serialization != 0:
        return None
    if tag == _PLAN:
        return PlanHeader("tensorrt", version, None)  # type: ignore[arg-type]  # four of them
    if tag == _RTX:
        (size,) = struct.unpack_from("<Q", data, 16)
        return PlanHeader("tensorrt_rtx", version, size)  # type: ignore[arg-type]
    return None
