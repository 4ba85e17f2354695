"""Driver, GPU, CUDA toolkit, NVRTC and cuDNN, and whether they are of one CUDA."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from trtforge.bundle.compatibility import MINIMUM_DRIVER, RTX_GPUS, libraries, numbers
from trtforge.doctor.facts import Facts
from trtforge.doctor.symptom import Level, Symptom, fault, note, ok

START = "install the NVIDIA driver, or start the container with --gpus all"
MINE = ("tensorrt", "cupy-")
"""Packages that one process loads together."""


def cuda_mix(facts: Facts) -> Iterator[Symptom]:
    """Judge whether packages of two major versions of CUDA are together."""
    majors = _by_major(facts.environment.packages)
    loaded = {
        major: [name for name in names if name.startswith(MINE)] for major, names in majors.items()
    }
    if all(loaded.get(major) for major in ("12", "13")):
        listed = "; ".join(f"cu{major}: {', '.join(names)}" for major, names in loaded.items())
        yield fault(
            "cuda-mixed",
            f"packages for CUDA 12 and CUDA 13 are mixed ({listed})",
            f"keep one: pip uninstall -y {' '.join(loaded['12'])}, then "
            "pip install 'trtforge[cu13]'",
        )


def _by_major(packages: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(packages):
        match = re.search(r"-cu(?:da)?(1[123])x?(?:-|$)", name)
        if match:
            found.setdefault(match[1], []).append(name)
    return found


def driver(facts: Facts, *, need_gpu: bool) -> Iterator[Symptom]:
    """Judge the driver: whether there is one, answers, and is new enough."""
    machine, installed = facts.environment, facts.installation
    if not machine.driver and installed.driver_loaded:
        remedy = "pip install nvidia-ml-py"
        if "not installed" not in installed.nvml:
            remedy = "restart the machine or the container: the driver was changed under it"
        yield fault(
            "nvml-silent",
            f"there is an NVIDIA driver, but its management library does not answer: "
            f"{installed.nvml or 'no reason given'}",
            remedy,
        )
    if not machine.driver:
        text = "no NVIDIA driver answers: engines can be built ahead of time with TensorRT-RTX, "
        level = Level.FAULT if need_gpu else Level.NOTE
        yield Symptom("driver-missing", level, f"{text}but not run here", START if need_gpu else "")
        return
    yield from _driver_age(facts)


def _driver_age(facts: Facts) -> Iterator[Symptom]:
    branch = numbers(facts.environment.driver)[:1]
    for library in libraries(facts.environment):
        oldest = MINIMUM_DRIVER.get(library.cuda)
        if oldest is not None and branch < (oldest,):
            yield fault(
                "driver-old",
                f"{library.flavor} {library.version} is for CUDA {library.cuda}, which needs "
                f"driver {oldest} or later; this is {facts.environment.driver}",
                f"update the NVIDIA driver to {oldest} or later"
                + (", or pip install 'trtforge[cu12]' instead" if library.cuda == "13" else ""),
            )


def gpus(facts: Facts, *, need_gpu: bool) -> Iterator[Symptom]:
    """Judge the GPUs: whether there are any, which library runs on them, and their memory."""
    machine = facts.environment
    if machine.driver and not machine.gpus:
        level = Level.FAULT if need_gpu else Level.NOTE
        remedy = "start the container with --gpus all"
        yield Symptom("gpu-missing", level, f"driver {machine.driver} has no GPU", remedy)
    hidden = facts.installation.visible_devices
    if machine.gpus and hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        yield Symptom(
            "gpu-hidden",
            Level.FAULT if need_gpu else Level.NOTE,
            f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU from CUDA",
            "unset CUDA_VISIBLE_DEVICES",
        )
    for gpu in machine.gpus:
        text = f"{gpu.name}, compute capability {gpu.compute_capability}, driver {machine.driver}"
        yield ok("gpu", text)
        if gpu.free < gpu.memory // 10:
            yield note(
                "gpu-memory-low",
                f"{gpu.name} has {gpu.free:,} of {gpu.memory:,} bytes free",
                "end what holds the memory; nvidia-smi lists the processes",
            )
    yield from _beyond_rtx(facts)


def _beyond_rtx(facts: Facts) -> Iterator[Symptom]:
    flavors = {library.flavor for library in libraries(facts.environment)}
    if flavors != {"tensorrt_rtx"}:
        return
    for gpu in facts.environment.gpus:
        if int(gpu.compute_capability.replace(".", "")) not in RTX_GPUS:
            yield note(
                "gpu-not-for-rtx",
                f"TensorRT-RTX does not run on {gpu.name}; it can only build for other GPUs here",
                "pip install tensorrt-cu13",
            )


def toolkit(facts: Facts) -> Iterator[Symptom]:
    """Judge CUDA toolkits, of which none is needed, against the driver."""
    newest = numbers(facts.environment.cuda)
    for each in facts.installation.toolkits:
        if newest and numbers(each.version)[:2] > newest:
            yield note(
                "toolkit-newer",
                f"the CUDA toolkit {each.version} in {each.folder} is newer than CUDA "
                f"{facts.environment.cuda} of the driver, which does not read its PTX",
                f"update the driver, or install the toolkit {facts.environment.cuda}",
            )
        else:
            yield ok("toolkit", f"CUDA toolkit {each.version} in {each.folder}")


def nvrtc(facts: Facts) -> Iterator[Symptom]:
    """Judge NVRTC, with which CuPy compiles kernels: of CuPy's own CUDA, or none."""
    packages = facts.environment.packages
    cupy = next((name for name in packages if name.startswith("cupy-cuda")), None)
    if cupy is None:
        return
    major = cupy.removeprefix("cupy-cuda").removesuffix("x")
    found = [packages[name] for name in packages if name.startswith("nvidia-cuda-nvrtc")]
    found += [each.version for each in facts.installation.libraries if each.name == "libnvrtc"]
    fitting = [each for each in found if each.partition(".")[0] == major]
    package = "nvidia-cuda-nvrtc-cu12" if major == "12" else "nvidia-cuda-nvrtc"
    if fitting:
        yield ok("nvrtc", f"NVRTC {fitting[0]} fits {cupy}")
    elif found:
        yield fault(
            "nvrtc-other-cuda",
            f"{cupy} needs NVRTC of CUDA {major}, and there is {', '.join(found)}",
            f"pip install '{package}=={major}.*'",
        )
    else:
        yield note(
            "nvrtc-missing",
            f"{cupy} finds no NVRTC of CUDA {major}: custom ops cannot compile their kernels",
            f"pip install '{package}=={major}.*'",
        )


def cudnn(facts: Facts) -> Iterator[Symptom]:
    """Judge cuDNN, which only ONNX Runtime's CUDA provider needs: of version 9."""
    packages = facts.environment.packages
    found = [packages[name] for name in packages if name.startswith("nvidia-cudnn-cu")]
    found += [each.version for each in facts.installation.libraries if each.name == "libcudnn"]
    for each in found[:1]:
        yield ok("cudnn", f"cuDNN {each}")
    if "onnxruntime-gpu" in packages and not any(each.startswith("9") for each in found):
        cause = f"there is cuDNN {found[0]}" if found else "there is no cuDNN"
        major = "12" if _by_major(packages).get("12") else "13"
        yield note(
            "cudnn-missing",
            f"onnxruntime-gpu needs cuDNN 9, and {cause}: the CUDA provider may not load",
            f"pip install nvidia-cudnn-cu{major}",
        )
