"""For which GPUs an engine is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from trtforge import EnvironmentLacks, RequestError, Target
from trtforge.targets import KNOWN
from trtforge_plugins.tensorrt import gpu
from trtforge_plugins.tensorrt.library import Library
from trtforge_plugins.tensorrt.model_checks import takers
from trtforge_plugins.tensorrt.target_rules import NOT_BUILT

Compatibility = Literal["none", "ampere_plus", "same_compute_capability"]
"""Other GPUs that an engine of TensorRT 10 or 11 shall also run on."""

COMMON = ("sm_80", "sm_86", "sm_89", "sm_120")
"""Built for where nobody names a target and there is no GPU. Not sm_75: with it in the list,
TensorRT-RTX 1.7 runs INT8 convolutions in another type on all of them."""


def build_targets(
    library: Library, asked: Sequence[Target], model: ir.Model, compatibility: Compatibility
) -> tuple[Target, ...]:
    """Return the targets to build for: those asked for, else this machine's GPU.

    Where there is no GPU, TensorRT-RTX builds for the common targets that take the model's types.

    Raises:
        EnvironmentLacks: the library builds for the GPU of this machine, and there is none.
        RequestError: it builds for the GPU of this machine, and another one is asked for.
    """
    if library.flavor == "tensorrt_rtx" and asked:
        return tuple(asked)
    device = gpu.current()
    if device is None and library.flavor == "tensorrt_rtx":
        return takers(model, [KNOWN[name] for name in COMMON])
    if device is None:
        raise EnvironmentLacks(
            f"{library.title} builds for the GPU of this machine, and there is none",
            remedy="name targets (`targets: [sm_86, sm_89]`) and use TensorRT-RTX, "
            "which needs no GPU to build",
        )
    own = KNOWN.get(f"sm_{device.sm}") or Target(device.sm, device.name, frozenset())
    foreign = [target for target in asked if not _runs_on(target, own, compatibility)]
    if foreign:
        raise RequestError(
            f"{library.title} builds for the GPU of this machine ({own}), not for "
            f"{', '.join(map(str, foreign))}",
            remedy="use TensorRT-RTX, or build on such a GPU",
            code=NOT_BUILT,
        )
    return tuple(asked) or (own,)


def _runs_on(target: Target, here: Target, compatibility: Compatibility) -> bool:
    if compatibility == "ampere_plus":
        return target.sm >= 80
    return target.sm == here.sm


def here() -> list[int]:
    """Return the compute capability of this machine's GPU, where there is one."""
    device = gpu.current()
    return [] if device is None else [device.sm]


def gpu_name(library: Library) -> str:
    """Return the GPU that a build ran on; empty for TensorRT-RTX, which builds without one."""
    device = gpu.current() if library.flavor == "tensorrt" else None
    return device.name if device else ""
