"""TensorRT's packages: a front, its bindings and its libraries, for one CUDA and of one version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.version import Version

from trtforge.doctor.facts import Facts
from trtforge.doctor.symptom import Level, Symptom, fault, note, ok

FLAVORS = ("tensorrt", "tensorrt-rtx")
MAJORS = ("cu13", "cu12")
OLDEST = Version("10.7")
"""Oldest TensorRT that trtforge builds with."""
LIBRARY_OF = {"tensorrt": "libnvinfer", "tensorrt-rtx": "libtensorrt_rtx"}


def tensorrt(facts: Facts) -> Iterator[Symptom]:
    """Judge the packages of TensorRT and TensorRT-RTX."""
    packages = facts.environment.packages
    usable = False
    for flavor in FLAVORS:
        whole = [cuda for cuda in MAJORS if _parts(packages, flavor, cuda)]
        for cuda in whole:
            found = list(_wheel(packages, flavor, cuda))
            usable |= not any(symptom.level is Level.FAULT for symptom in found)
            yield from found
        if len(whole) > 1:
            yield _two_cudas(packages, flavor)
        if not whole and flavor in packages:
            alone = _front_only(facts, flavor)
            usable |= alone.level is Level.OK
            yield alone
        yield from _front(packages, flavor)
        yield from _other_libraries(facts, flavor)
    if not usable and not any(flavor in packages for flavor in FLAVORS):
        yield fault(
            "tensorrt-missing",
            "no usable TensorRT is installed",
            "pip install 'trtforge[cu13]' (TensorRT-RTX; it builds without a GPU)",
        )


def _parts(packages: Mapping[str, str], flavor: str, cuda: str) -> dict[str, str]:
    """Return the versions of bindings and libraries, of those that are installed."""
    names = {part: f"{flavor}-{cuda}-{part}" for part in ("bindings", "libs")}
    return {part: packages[name] for part, name in names.items() if name in packages}


def _wheel(packages: Mapping[str, str], flavor: str, cuda: str) -> Iterator[Symptom]:
    name, parts = f"{flavor}-{cuda}", _parts(packages, flavor, cuda)
    missing = [part for part in ("bindings", "libs") if part not in parts]
    if missing:
        (there,) = parts.values()
        yield fault(
            "tensorrt-incomplete",
            f"{name} is incomplete: the package {name}-{missing[0]} is not installed",
            f"pip install --force-reinstall {name}=={there}",
        )
    elif parts["bindings"] != parts["libs"]:
        yield fault(
            "tensorrt-mismatch",
            f"{name}: bindings {parts['bindings']} and libraries {parts['libs']} differ",
            f"pip install --force-reinstall {name}=={parts['libs']}",
        )
    elif flavor == "tensorrt" and Version(parts["libs"]) < OLDEST:
        yield fault(
            "tensorrt-old",
            f"{name} {parts['libs']} is older than {OLDEST}, the oldest that trtforge builds with",
            f"pip install --upgrade '{name}>={OLDEST}'",
        )
    else:
        yield ok("tensorrt", f"{name} {parts['libs']}: bindings and libraries agree")


def _two_cudas(packages: Mapping[str, str], flavor: str) -> Symptom:
    others = " ".join(sorted(name for name in packages if name.startswith(f"{flavor}-cu12")))
    keep = packages.get(f"{flavor}-cu13-libs") or packages[f"{flavor}-cu13-bindings"]
    return fault(
        "tensorrt-two-cudas",
        f"{flavor} is installed for CUDA 12 and for CUDA 13; both write to one folder",
        f"pip uninstall -y {others}, then pip install --force-reinstall {flavor}-cu13=={keep}",
    )


def _front_only(facts: Facts, flavor: str) -> Symptom:
    """Judge a front without parts: of NVIDIA's archives, which has binaries itself, or a stub."""
    stated = facts.environment.packages[flavor]
    if flavor in facts.installation.without_binaries:
        return fault(
            "tensorrt-stub",
            f"{flavor} {stated} is a front without bindings and libraries: nothing of TensorRT is "
            "installed",
            f"pip install --force-reinstall --no-cache-dir {flavor}-cu13=={stated}",
        )
    return ok("tensorrt", f"{flavor} {stated}: from NVIDIA's archives, without packages of parts")


def _front(packages: Mapping[str, str], flavor: str) -> Iterator[Symptom]:
    """A front asks pip for its parts without a version, so a later one may come (TRT#3945)."""
    for cuda in MAJORS:
        parts = set(_parts(packages, flavor, cuda).values())
        fronts = {
            name: packages[name]
            for name in (flavor, f"{flavor}-{cuda}")
            if name in packages and parts
        }
        for name, stated in fronts.items():
            if stated not in parts:
                pinned = f"{flavor}-{cuda}"
                yield fault(
                    "tensorrt-drift",
                    f"{name} is {stated}, and its parts are {', '.join(sorted(parts))}",
                    f"pip install --force-reinstall {pinned}=={stated} "
                    f"{pinned}-bindings=={stated} {pinned}-libs=={stated}",
                )
                break


def _other_libraries(facts: Facts, flavor: str) -> Iterator[Symptom]:
    """A library on ``LD_LIBRARY_PATH`` is found before that of the package."""
    packages = facts.environment.packages
    here = {packages[name] for cuda in MAJORS if (name := f"{flavor}-{cuda}-libs") in packages}
    for library in facts.installation.libraries:
        same = any(version.startswith(library.version) for version in here)
        if library.on_path and library.name == LIBRARY_OF[flavor] and here and not same:
            yield note(
                "tensorrt-other-library",
                f"LD_LIBRARY_PATH has {library.name} {library.version} in {library.folder}, and "
                f"the package is {', '.join(sorted(here))}",
                f"take {library.folder} out of LD_LIBRARY_PATH",
            )
