"""What is installed, beside versions: damaged packages, other libraries, toolkits, the driver."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    PackagePath,
    distributions,
    requires,
    version,
)
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FAMILIES = ("tensorrt", "nvidia-", "cupy-", "onnxruntime")
LIBRARIES = ("libnvinfer", "libtensorrt_rtx", "libcudnn", "libnvrtc", "libcudart")
_SHARED = re.compile(r"\.(so(\.[\d.]+)?|dll|pyd)$")
_LIBRARY = re.compile(r"(lib\w+?)\.so\.([\d.]+)")


@dataclass(frozen=True)
class SharedLibrary:
    """A library of NVIDIA's outside Python's packages."""

    name: str
    version: str
    """As its file name says."""
    folder: str
    on_path: bool
    """Whether ``LD_LIBRARY_PATH`` has the folder, so that it comes before those of packages."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit."""

    version: str
    folder: str


@dataclass(frozen=True)
class Installation:
    """What is installed, beside the versions of packages."""

    damaged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Package to those of its binaries that are not there, or of another size than it says."""
    without_binaries: tuple[str, ...] = ()
    """Packages of TensorRT that hold no compiled file: fronts, which only ask for others."""
    twice: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Package to its versions, where it is installed in several folders."""
    unmet: tuple[str, ...] = ()
    """Requirements of trtforge that are not met, with what is there: ``onnx>=1.20 (1.15)``."""
    libraries: tuple[SharedLibrary, ...] = ()
    toolkits: tuple[Toolkit, ...] = ()
    driver_loaded: bool = False
    """Whether ``libcuda`` is here, whatever NVML says."""
    nvml: str = ""
    """Why NVIDIA's management library does not answer; empty: it does."""
    visible_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES``."""


def read_installation(path: Sequence[str] | None = None) -> Installation:
    """Read the facts; ``path`` is where packages are looked for, ``sys.path`` if None."""
    found = [*distributions(path=list(path))] if path is not None else [*distributions()]
    named = [(canonicalize_name(each.name), each) for each in found if each.name]
    ours = [(name, each) for name, each in named if name.startswith(FAMILIES)]
    return Installation(
        damaged={name: files for name, each in ours if (files := tuple(_damaged(each)))},
        without_binaries=tuple(
            name for name, each in ours if name.startswith("tensorrt") and not any(_binaries(each))
        ),
        twice=_twice(ours),
        unmet=tuple(_unmet()),
        libraries=tuple(_libraries()),
        toolkits=tuple(_toolkits()),
        driver_loaded=_driver_loaded(),
        nvml=_nvml(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _binaries(package: Distribution) -> Iterator[PackagePath]:
    try:
        files = package.files or []
    except (TypeError, ValueError, OSError):  # its list of files is damaged
        files = []
    return (file for file in files if _SHARED.search(file.name))


def _damaged(package: Distribution) -> Iterator[str]:
    for file in _binaries(package):
        place = Path(str(package.locate_file(file)))
        try:
            size = place.stat().st_size
        except OSError:
            yield str(file)
            continue
        if file.size is not None and file.size != size:
            yield str(file)


def _twice(packages: Sequence[tuple[str, Distribution]]) -> dict[str, tuple[str, ...]]:
    """Return packages of several folders; the same folder twice in the path is one."""
    versions: dict[str, dict[str, str]] = {}
    for name, each in packages:
        folder = os.path.realpath(str(each.locate_file("")))
        versions.setdefault(name, {}).setdefault(folder, each.version)
    return {
        name: tuple(by_folder.values())
        for name, by_folder in versions.items()
        if len(set(by_folder.values())) > 1
    }


def _unmet() -> Iterator[str]:
    try:
        lines = requires("trtforge") or []
    except PackageNotFoundError:  # run from its sources
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = [each for name in _names(requirement.name) if (each := _version(name))]
        if not have:
            yield f"{requirement} (not installed)"
        elif not any(requirement.specifier.contains(each, prereleases=True) for each in have):
            yield f"{requirement} ({', '.join(have)})"


def _names(package: str) -> tuple[str, ...]:
    """Return the packages that hold the same modules."""
    return (package, "onnxruntime-gpu") if package == "onnxruntime" else (package,)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _libraries() -> Iterator[SharedLibrary]:
    first = [Path(each) for each in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if each]
    usual = [Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu")]
    toolkits = [Path(each.folder) / "lib64" for each in _toolkits()]
    seen = set()
    for folder in [*first, *usual, *toolkits]:
        names = []
        with suppress(OSError):
            names = sorted(file.name for file in folder.iterdir())
        for name in names:
            match = _LIBRARY.fullmatch(name)
            if match is None or match[1] not in LIBRARIES:
                continue
            real = (folder / name).resolve()
            if real not in seen:  # libnvinfer.so.10 is a link to libnvinfer.so.10.13.3
                seen.add(real)
                text = _LIBRARY.fullmatch(real.name)
                stated = text[2] if text else match[2]
                yield SharedLibrary(match[1], stated, str(folder), folder in first)


def _toolkits() -> Iterator[Toolkit]:
    named = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    compiler = shutil.which("nvcc")
    places = [Path(each) for each in named if each]
    places += [Path(compiler).resolve().parents[1]] if compiler else []
    places += sorted(Path("/usr/local").glob("cuda*"))
    seen = set()
    for place in map(Path.resolve, places):
        if place not in seen:
            seen.add(place)
            stated = _toolkit_version(place)
            if stated:
                yield Toolkit(stated, str(place))


def _toolkit_version(folder: Path) -> str:
    try:
        return str(json.loads((folder / "version.json").read_bytes())["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _driver_loaded() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return False
    return True


def _nvml() -> str:
    try:
        import pynvml
    except ImportError:
        return "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return str(error)
    pynvml.nvmlShutdown()
    return ""
