"""Chooses the engine file for each kind of GPU, or the files of the ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trtforge.errors import RequestError
from trtforge.triton.source import Plan, Source


def plans_of(source: Source, version: str) -> list[Plan]:
    """Return the engines of one TensorRT that Triton's backend can load.

    Raises:
        RequestError: there is none, or they are of several versions and none is named.
    """
    flavors = {plan.flavor for plan in source.plans}
    able = [plan for plan in source.plans if plan.flavor == "tensorrt"]
    if not able:
        raise RequestError(
            "Triton's TensorRT backend loads engines of TensorRT only, and "
            f"{source.where} has {', '.join(sorted(flavors)) or 'none at all'}",
            remedy="serve the ONNX model (--backend onnxruntime), or run the recipe on the target "
            "with `--set tensorrt.flavor=tensorrt` and export that run",
        )
    if any(plan.part for plan in able):
        raise RequestError(
            f"{source.where} holds a chain of engines",
            remedy="pack each part as a bundle of its own and export all of them in order",
        )
    versions = sorted({plan.version for plan in able})
    if version or len(versions) > 1:
        able = [plan for plan in able if plan.version == version]
    if not able:
        named = f"no engine is of TensorRT {version}; " if version else ""
        raise RequestError(
            f"{named}{source.where} has engines of TensorRT {', '.join(versions)}",
            remedy="name the version of your Triton with --tensorrt",
        )
    return able


def engine_files(
    plans: Sequence[Plan],
) -> tuple[dict[str, Callable[[Path], object]], dict[str, str], str]:
    """Return the files, the file for each compute capability, and the one for all others.

    Where no engine is for all others, Triton finds none for them and says so, rather than
    load one that does not fit.
    """
    files: dict[str, Callable[[Path], object]] = {}
    by_capability: dict[str, str] = {}
    for_others = ""
    for plan in sorted(plans, key=lambda plan: plan.generality):
        name = f"model.{'.'.join(plan.targets) or 'any'}.plan"
        wanted = False
        for target in plan.targets:
            wanted |= by_capability.setdefault(_capability(target), name) == name
        anywhere = plan.hardware_compatibility == "ampere_plus" or not plan.targets
        if anywhere and not for_others:
            for_others, wanted = name, True
        if wanted:
            files.setdefault(name, plan.copy)
    if len(files) == 1:
        for_others = next(iter(files))
    return files, dict(sorted(by_capability.items())), for_others


def _capability(target: str) -> str:
    number = target.removeprefix("sm_")
    return f"{number[:-1]}.{number[-1]}"


def onnx_files(source: Source) -> dict[str, Callable[[Path], object]]:
    """Return the model as one file, or as a folder of that name, as Triton wants several files."""
    if len(source.onnx) == 1:
        return dict(source.onnx)
    return {f"model.onnx/{name}": copy for name, copy in source.onnx.items()}
