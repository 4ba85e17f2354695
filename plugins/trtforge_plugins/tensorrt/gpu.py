"""The GPU that CUDA would use here, asked from the driver itself: no CUDA package is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Values of CUdevice_attribute in cuda.h.
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """A GPU and its driver."""

    name: str
    sm: int
    """Compute capability times ten: 86."""
    driver: str
    """What tells one driver from another."""


@cache
def current() -> Gpu | None:
    """Return the first GPU that ``CUDA_VISIBLE_DEVICES`` leaves, or None.

    No CUDA context is made, so this takes no GPU memory.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    )
    if failed:
        return None
    kernel_module = _DRIVER.read_text().partition("\n")[0] if _DRIVER.is_file() else ""
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10} {kernel_module}".strip()
    return Gpu(name.value.decode(errors="replace"), major.value * 10 + minor.value, driver)
