"""What TensorRT says of an engine before it is deserialized, where it can say so.

``IRuntime::getEngineValidity`` (TensorRT-RTX) reads the engine's header and compares it with the
GPU, the driver and itself. TensorRT 10 and 11 have no such call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trtforge import StepError

CAUSES: Mapping[str, str] = {
    "VERSION_MISMATCH": "another version of TensorRT built it",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "its bytes are damaged, or no engine",
    "CUDA_ERROR": "CUDA reported an error while the GPU was asked",
}
"""By TensorRT's names of the bits (``EngineInvalidityDiagnostics``)."""


def refuse_invalid(trt: Any, runtime: Any, plan: bytes, errors: Sequence[str]) -> None:
    """Raise if ``runtime`` calls ``plan`` invalid; do nothing where it cannot be asked.

    Args:
        trt: TensorRT's module.
        runtime: An ``IRuntime``.
        plan: The engine's bytes.
        errors: Where TensorRT's logger puts its errors.

    Raises:
        StepError: with every cause that TensorRT names, and what it logged.
    """
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return
    validity, bits = ask(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    causes = [
        CAUSES.get(name, name)
        for name, bit in trt.EngineInvalidityDiagnostics.__members__.items()
        if int(bits) & int(bit)
    ]
    raise StepError(
        f"TensorRT refuses the engine: {'; '.join([*causes, *errors]) or 'it gives no reason'}",
        remedy="`trtforge bundle preflight` says which engine of a bundle fits this machine; "
        "or build it again here",
    )
