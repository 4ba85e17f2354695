"""What the GPU did while something was measured: clocks, power, memory, throttling, by NVML.

https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trtforge.quantities import format_bytes

SECONDS = 0.05
"""Between two samples."""
_REASONS = {
    "nvmlClocksThrottleReasonSwPowerCap": "power limit",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "temperature",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "temperature (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""Reasons that make a time say less; an idle GPU or a clock that a user set are none."""


@dataclass(frozen=True)
class GpuSample:
    """One look at the GPU."""

    clock: int
    """Of the multiprocessors, MHz."""
    power: float
    """Watts."""
    memory: int
    """Bytes in use on the whole GPU."""
    reasons: int
    """NVML's bits: why the clock is not higher."""


@contextmanager
def sampled(*, on: bool = True) -> Iterator[Callable[[], tuple[str, ...]]]:
    """Sample the GPU in a thread; what the context gives tells the notes afterwards.

    It is the first of ``CUDA_VISIBLE_DEVICES``, else the machine's first by NVML's order; on a
    machine with different GPUs, CUDA's own order may be another unless ``CUDA_DEVICE_ORDER`` is
    ``PCI_BUS_ID``. Without NVML or a driver there is one note that says so.
    """
    nvml, handle, refusal = _open() if on else (None, None, "")
    samples: list[GpuSample] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            samples.append(_look(nvml, handle))
            done.wait(SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    if nvml is not None:
        thread.start()
    try:
        yield lambda: tuple(notes(samples, nvml)) if nvml is not None else _refused(refusal)
    finally:
        if nvml is not None:
            done.set()
            thread.join()
            nvml.nvmlShutdown()


def _refused(reason: str) -> tuple[str, ...]:
    return (f"clocks and throttling were not looked at: {reason}",) if reason else ()


def _open() -> tuple[Any, Any, str]:
    try:
        import pynvml
    except ImportError:
        return None, None, "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        return pynvml, _handle(pynvml), ""
    except pynvml.NVMLError as error:
        return None, None, f"NVML: {error}"


def _handle(nvml: Any) -> Any:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if first.startswith("GPU-"):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdecimal() else 0)


def _look(nvml: Any, handle: Any) -> GpuSample:
    return GpuSample(
        clock=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        power=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        memory=int(nvml.nvmlDeviceGetMemoryInfo(handle).used),
        reasons=int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
    )


def notes(samples: Sequence[GpuSample], nvml: Any) -> Iterator[str]:
    """Yield what the samples say."""
    if not samples:
        return
    clocks = [sample.clock for sample in samples]
    power = [sample.power for sample in samples]
    memory = max(sample.memory for sample in samples)
    yield (
        f"{len(samples)} samples of the GPU: {min(clocks)} to {max(clocks)} MHz, "
        f"{min(power):.0f} to {max(power):.0f} W, {format_bytes(memory)} in use at most"
    )
    for name, reason in _REASONS.items():
        bit = getattr(nvml, name, 0)
        count = sum(bool(sample.reasons & bit) for sample in samples)
        if count:
            yield f"throttled in {count} of {len(samples)} samples: {reason}"
