"""Judges an environment: which parts fit together, which do not, and what mends them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from trtforge.environment import Environment

FLAVORS = ("tensorrt", "tensorrt-rtx")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True)
class Symptom:
    """One thing that was found."""

    level: Level
    text: str
    remedy: str = ""


def checkup(facts: Environment, *, need_gpu: bool = False) -> list[Symptom]:
    """Return what there is to say about an environment, faults last."""
    found = [*_tensorrt(facts), *_cuda_mix(facts), *_cupy(facts), *_gpu(facts, need_gpu=need_gpu)]
    order = list(Level)
    return sorted(found, key=lambda symptom: order.index(symptom.level))


def _tensorrt(facts: Environment) -> Iterator[Symptom]:
    """TensorRT is three packages: a front, its bindings and its libraries, of one version."""
    found = False
    for flavor in FLAVORS:
        for cuda in ("cu13", "cu12"):
            parts = {
                part: facts.packages.get(f"{flavor}-{cuda}-{part}") for part in ("bindings", "libs")
            }
            if not any(parts.values()):
                continue
            name = f"{flavor}-{cuda}"
            missing = [part for part, version in parts.items() if not version]
            if missing:
                yield Symptom(
                    Level.FAULT,
                    f"{name} is incomplete: the package {name}-{missing[0]} is not installed",
                    f"pip install --force-reinstall {name}",
                )
            elif parts["bindings"] != parts["libs"]:
                yield Symptom(
                    Level.FAULT,
                    f"{name}: bindings {parts['bindings']} and libraries {parts['libs']} differ",
                    f"pip install --force-reinstall {name}=={parts['libs']}",
                )
            else:
                found = True
                yield Symptom(Level.OK, f"{name} {parts['libs']}: bindings and libraries agree")
    if not found:
        yield Symptom(
            Level.FAULT,
            "no usable TensorRT is installed",
            "pip install 'trtforge[cu13]' (TensorRT-RTX; it builds without a GPU)",
        )


def _cuda_mix(facts: Environment) -> Iterator[Symptom]:
    majors = {
        cuda: sorted(name for name in facts.packages if cuda in name or name.endswith(suffix))
        for cuda, suffix in (("cu12", "cuda12x"), ("cu13", "cuda13x"))
    }
    if all(majors.values()):
        listed = "; ".join(f"{cuda}: {', '.join(names)}" for cuda, names in majors.items())
        yield Symptom(
            Level.FAULT,
            f"packages for CUDA 12 and CUDA 13 are mixed ({listed})",
            "keep one: uninstall the packages of the other, then pip install 'trtforge[cu13]'",
        )


def _cupy(facts: Environment) -> Iterator[Symptom]:
    cupy = [name for name in facts.packages if name.startswith("cupy-")]
    if cupy:
        yield Symptom(Level.OK, f"{cupy[0]} {facts.packages[cupy[0]]}: custom kernels can compile")
    else:
        yield Symptom(
            Level.NOTE,
            "CuPy is not installed: custom ops cannot compile their kernels",
            "pip install 'trtforge[cu13]'",
        )


def _gpu(facts: Environment, *, need_gpu: bool) -> Iterator[Symptom]:
    if facts.gpus:
        for gpu in facts.gpus:
            text = f"{gpu.name}, compute capability {gpu.compute_capability}"
            yield Symptom(Level.OK, f"{text}, driver {facts.driver}")
        return
    level = Level.FAULT if need_gpu else Level.NOTE
    cause = "no NVIDIA driver answers" if not facts.driver else f"driver {facts.driver} has no GPU"
    yield Symptom(
        level,
        f"{cause}: engines can be built ahead of time with TensorRT-RTX, but not run here",
        "install the NVIDIA driver, or start the container with --gpus all" if need_gpu else "",
    )
