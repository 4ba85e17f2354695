"""Which engine may run where: NVIDIA's rules as a table, each with the page that states it.

Nothing here imports TensorRT. A rule looks at one engine on one GPU of one machine and answers
nothing, where all is well or nothing is known, or a sentence that says what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trtforge.bundle.manifest import BundledEngine
from trtforge.environment import Environment, Gpu
from trtforge.quantities import format_bytes

DOCS = "https://docs.nvidia.com/deeplearning"
PORTABILITY = f"{DOCS}/tensorrt/11.4.1/getting-started/support-matrix.html"
COMPATIBILITY = f"{DOCS}/tensorrt/11.1.0/inference-library/engine-compatibility.html"
VERSIONS = f"{DOCS}/tensorrt/latest/reference/support-policies.html"
RTX_COMPATIBILITY = f"{DOCS}/tensorrt-rtx/latest/inference-library/engine-compatibility.html"
RTX_ENGINES = f"{DOCS}/tensorrt-rtx/latest/inference-library/cpu-engines.html"
RTX_MATRIX = f"{DOCS}/tensorrt-rtx/latest/getting-started/support-matrix-1/1.5.html"
DRIVERS = "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"

MINIMUM_DRIVER: Mapping[str, int] = {"11": 450, "12": 525, "13": 580}
"""Oldest driver branch for a major version of CUDA (:data:`DRIVERS`)."""
ACROSS_MAJORS = frozenset({(8, 10), (10, 11)})
"""Versions of engine and runtime, where the engine is version compatible (:data:`PORTABILITY`)."""
RTX_GPUS = frozenset({75, 80, 86, 89, 120, 121})
"""What TensorRT-RTX runs on (:data:`RTX_MATRIX`, :data:`RTX_ENGINES`)."""
FIRST_VERSION_COMPATIBLE = (8, 6)
NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Library:
    """An installed TensorRT."""

    flavor: str
    version: str
    cuda: str
    """Major version of CUDA it was made for; empty: not known."""


@dataclass(frozen=True)
class Place:
    """Where an engine is to run."""

    machine: Environment
    gpu: Gpu | None
    library: Library | None
    """The installed library of the engine's flavor."""

    @property
    def sm(self) -> int | None:
        """Compute capability times ten."""
        return int(self.gpu.compute_capability.replace(".", "")) if self.gpu else None


@dataclass(frozen=True)
class Misfit:
    """A rule that an engine breaks on a machine."""

    rule: str
    cause: str
    remedy: str
    source: str
    """Page that states the rule; empty: it goes without saying."""


Answer = tuple[str, str, str] | None
"""Cause, remedy and source, or None."""


def libraries(machine: Environment) -> Iterator[Library]:
    """Yield the TensorRT libraries among a machine's packages."""
    for flavor in ("tensorrt_rtx", "tensorrt"):
        front = flavor.replace("_", "-")
        found = False
        for cuda in ("13", "12", "11"):
            version = machine.packages.get(f"{front}-cu{cuda}-libs")
            if version:
                found = True
                yield Library(flavor, version, cuda)
        if not found and front in machine.packages:  # of NVIDIA's archives or images
            yield Library(flavor, machine.packages[front], "")


def misfits(engine: BundledEngine, place: Place) -> list[Misfit]:
    """Return every rule that ``engine`` breaks at ``place``."""
    found = []
    for name, rule in RULES.items():
        answer = rule(engine, place)
        if answer is not None:
            found.append(Misfit(name, *answer))
    return found


def _system(engine: BundledEngine, place: Place) -> Answer:
    here = place.machine.platform
    if not engine.platform or engine.platform == here:
        return None
    same_processor = engine.platform.partition("-")[2] == here.partition("-")[2]
    systems = {engine.platform.partition("-")[0], here.partition("-")[0]}
    if engine.flavor == "tensorrt_rtx" and same_processor and systems <= {"linux", "windows"}:
        return None
    source = RTX_ENGINES if engine.flavor == "tensorrt_rtx" else PORTABILITY
    return f"it is for {engine.platform}, and this is {here}", "build it on such a system", source


def _gpu(_engine: BundledEngine, place: Place) -> Answer:
    if place.gpu is not None:
        return None
    remedy = "install the NVIDIA driver, or start the container with --gpus all"
    if place.machine.driver:
        remedy = "make a GPU visible (CUDA_VISIBLE_DEVICES, or the container's device request)"
    return "there is no GPU", remedy, ""


def _library(engine: BundledEngine, place: Place) -> Answer:
    if engine.flavor not in NAMES:
        return f"nothing is known of the library {engine.flavor!r}", "use its own tools", ""
    if place.library is not None:
        return None
    name, package = NAMES[engine.flavor], engine.flavor.replace("_", "-")
    cuda = f"-cu{engine.cuda}" if engine.cuda else ""
    return (
        f"{name} is not installed",
        f"pip install {package}{cuda}=={engine.version}",
        "",
    )


def _version(engine: BundledEngine, place: Place) -> Answer:
    if place.library is None or engine.flavor not in NAMES:
        return None
    built, here = numbers(engine.version), numbers(place.library.version)
    if built == here:
        return None
    name, package = NAMES[engine.flavor], engine.flavor.replace("_", "-")
    remedy = f"pip install {package}=={engine.version}, or build anew from the bundle's ONNX model"
    differ = f"it was built by {name} {engine.version}, and {place.library.version} is installed"
    if engine.flavor == "tensorrt_rtx":
        return differ, remedy, RTX_COMPATIBILITY
    if not engine.version_compatible:
        return f"{differ}; it was not built to be version compatible", remedy, VERSIONS
    if built[:2] < FIRST_VERSION_COMPATIBLE:
        return f"{differ}; version compatibility begins with 8.6", remedy, COMPATIBILITY
    if here < built:
        return f"{differ}; engines never run on an older version", remedy, COMPATIBILITY
    if built[0] != here[0] and (built[0], here[0]) not in ACROSS_MAJORS:
        return f"{differ}; that step between major versions is not supported", remedy, PORTABILITY
    return None


def _compute_capability(engine: BundledEngine, place: Place) -> Answer:
    if place.sm is None or place.gpu is None:
        return None
    here, named = f"sm_{place.sm}", ", ".join(engine.targets) or "an unknown GPU"
    remedy = f"build for {here}: add it to the recipe's `targets` and run it again"
    if engine.flavor == "tensorrt_rtx" and place.sm not in RTX_GPUS:
        listed = ", ".join(f"sm_{sm}" for sm in sorted(RTX_GPUS))
        return (
            f"TensorRT-RTX does not run on {place.gpu.name} ({here}), only on {listed}",
            "use TensorRT itself on this GPU: the recipe's `tensorrt: {flavor: tensorrt}`",
            RTX_MATRIX,
        )
    if here in engine.targets:
        return None
    if engine.hardware_compatibility == "ampere_plus" and place.sm >= 80:
        return None
    return f"it is for {named}, and {place.gpu.name} is {here}", remedy, PORTABILITY


def _driver(engine: BundledEngine, place: Place) -> Answer:
    cuda = (place.library.cuda if place.library else "") or engine.cuda
    oldest, branch = MINIMUM_DRIVER.get(cuda), place.machine.driver.partition(".")[0]
    if oldest is None or not branch.isdigit() or int(branch) >= oldest:
        return None
    cause = f"its library needs CUDA {cuda} and driver {oldest} or later"
    return (
        f"{cause}; this is driver {place.machine.driver}",
        f"update the driver to {oldest} or later, or use a TensorRT made for an older CUDA",
        DRIVERS,
    )


def _memory(engine: BundledEngine, place: Place) -> Answer:
    need = needed_memory(engine)
    if place.gpu is None or not need or need <= place.gpu.free:
        return None
    free, everything = format_bytes(place.gpu.free), format_bytes(place.gpu.memory)
    return (
        f"weights and activations need {format_bytes(need)}; {free} of {everything} are free",
        "free GPU memory, use a GPU with more, or narrower shapes in the recipe",
        "",
    )


def needed_memory(engine: BundledEngine) -> int:
    """Return the GPU memory that TensorRT itself stated for an engine, in bytes.

    CUDA's own context, which no TensorRT figure covers, comes on top.
    """
    memory = engine.memory
    return sum(size or 0 for size in (memory.weights, memory.activation, memory.device_persistent))


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers that can be compared: ``10.13.3.9``, also ``10.13.3.9.post1``."""
    parts = []
    for part in version.partition("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


RULES: Mapping[str, Callable[[BundledEngine, Place], Answer]] = {
    "system": _system,
    "gpu": _gpu,
    "library": _library,
    "version": _version,
    "compute-capability": _compute_capability,
    "driver": _driver,
    "memory": _memory,
}
"""What is looked at, in this order."""
