"""Tests that need a GPU: collected everywhere, and never skipped in silence."""

from __future__ import annotations

import ctypes

import pytest


def why_no_gpu() -> str:
    """Return why no GPU can be used here, or ``""`` when one can; asks the driver itself."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver sees no GPU"
    return ""


@pytest.fixture(scope="session")
def gpu() -> None:
    """Ask for a GPU."""
    reason = why_no_gpu()
    if reason:
        pytest.skip(f"NOT RUN, so nothing is shown for GPUs: {reason}")


@pytest.fixture(scope="session")
def cuda_provider(gpu: None) -> None:
    """Ask for ONNX Runtime with CUDA."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("NOT RUN: a GPU is here, but ONNX Runtime has no CUDA (onnxruntime-gpu)")
