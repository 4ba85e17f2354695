"""Facts of this machine: what a report must name so that a result can be understood later."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "trtforge", "numpy", "onnx", "onnx-ir", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu",
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu12-bindings",
    "tensorrt-cu13-bindings", "tensorrt-cu12-libs", "tensorrt-cu13-libs", "tensorrt-rtx",
    "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-libs", "tensorrt-rtx-cu13-libs",
    "cupy-cuda12x", "cupy-cuda13x", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-ml-py", "torch", "tensorflow", "tf2onnx",
    "ray",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVIDIA's management library sees it."""

    name: str
    compute_capability: str
    """For example ``9.0``."""
    memory: int
    """Bytes in all."""
    free: int
    """Bytes free now."""
    pci: str = ""
    """Place on the bus, by which CUDA finds it too: ``0000:65:00.0``; empty: not known."""


@dataclass(frozen=True)
class Environment:
    """This machine and its packages."""

    python: str
    system: str
    machine: str
    cores: int
    memory: int
    """Bytes of main memory."""
    packages: dict[str, str]
    """Name to version, for the packages that matter here."""
    driver: str
    """Version of the NVIDIA driver, or empty."""
    gpus: tuple[Gpu, ...]
    cuda: str = ""
    """Newest CUDA that the driver serves, for example ``13.0``; empty: no driver, or not known."""

    @property
    def platform(self) -> str:
        """System and processor as engines name them: ``linux-x86_64``."""
        return platform_name(self.system.partition(" ")[0], self.machine)


def platform_name(system: str, machine: str) -> str:
    """Return ``linux-x86_64`` and the like; one name for each processor on every system."""
    processors = {"amd64": "x86_64", "arm64": "aarch64"}
    return f"{system.lower()}-{processors.get(machine.lower(), machine.lower())}"


def usable_cores() -> int:
    """Return how many cores this process may use: a container or a matrix may allow it fewer."""
    if hasattr(os, "sched_getaffinity"):  # Linux has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def this_platform() -> str:
    """Return the system and processor of this machine: ``linux-x86_64``."""
    return platform_name(platform.system(), platform.machine())


def environment() -> Environment:
    """Read the facts of this machine."""
    import psutil

    driver, cuda, gpus = _nvidia()
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cores=os.cpu_count() or 1,
        memory=int(psutil.virtual_memory().total),
        packages=installed_packages(),
        driver=driver,
        gpus=gpus,
        cuda=cuda,
    )


def installed_packages() -> dict[str, str]:
    """Return the installed packages that matter, with their versions."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return dict(sorted(found.items()))


def _nvidia() -> tuple[str, str, tuple[Gpu, ...]]:
    """Return the versions of driver and CUDA and the GPUs, or nothing where there is no driver."""
    try:
        import pynvml
    except ImportError:
        return "", "", ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "", "", ()
    try:
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return driver, f"{cuda // 1000}.{cuda % 1000 // 10}", tuple(map(_gpu, handles))
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Gpu:
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        memory=int(memory.total),
        free=int(memory.free),
        pci=_text(pynvml.nvmlDeviceGetPciInfo(handle).busId)[-12:].lower(),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
