"""Finds TensorRT without importing it: which library, which version, what it needs to start."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from trtforge import EnvironmentLacks

Flavor = Literal["tensorrt", "tensorrt_rtx"]
INSTALL: dict[Flavor, str] = {
    "tensorrt_rtx": "pip install 'trtforge[cu13]'",
    "tensorrt": "pip install tensorrt",
}


@dataclass(frozen=True)
class Library:
    """An installed TensorRT."""

    flavor: Flavor
    version: str

    @property
    def title(self) -> str:
        """How messages call it: ``TensorRT-RTX 1.7.1.116``."""
        name = "TensorRT-RTX" if self.flavor == "tensorrt_rtx" else "TensorRT"
        return f"{name} {self.version}"

    @property
    def cuda(self) -> str:
        """Major version of CUDA that the installed wheels are for; empty: not known."""
        front = self.flavor.replace("_", "-")
        for major in ("13", "12"):
            with suppress(PackageNotFoundError):
                if version(f"{front}-cu{major}-libs") == self.version:
                    return major
        return ""

    def variables(self) -> dict[str, str]:
        """Return the variables that must be set before a process that imports it starts.

        The ONNX parser of TensorRT-RTX opens ``libtensorrt_rtx.so`` when a model has a plugin
        node, and aborts when there is no file of that name; the wheel only has
        ``libtensorrt_rtx.so.1``. A folder with a link of the missing name mends it.
        """
        real = _shared_library(f"{self.flavor}_libs", "libtensorrt_rtx.so.1")
        if real is None:
            return {}
        earlier = os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(_linked(real)), earlier]))}


def installed() -> Iterator[Library]:
    """Yield what is installed; TensorRT-RTX first, as it needs no GPU to build."""
    flavors: tuple[Flavor, ...] = ("tensorrt_rtx", "tensorrt")
    for flavor in flavors:
        stated = _version(flavor)
        if stated is not None:
            yield Library(flavor, stated)


def find(flavor: Literal["auto"] | Flavor = "auto") -> Library:
    """Return the TensorRT of this ``flavor``, or the first one installed.

    Raises:
        EnvironmentLacks: it is not installed.
    """
    found = list(installed())
    for library in found:
        if flavor in ("auto", library.flavor):
            return library
    if flavor == "auto":
        raise EnvironmentLacks(
            "no TensorRT is installed",
            remedy=f"{INSTALL['tensorrt_rtx']} (needs no GPU), or {INSTALL['tensorrt']}",
        )
    others = f" ({', '.join(library.title for library in found)} is)" if found else ""
    raise EnvironmentLacks(
        f"the Python package {flavor} is not installed{others}",
        remedy=f"{INSTALL[flavor]}, or choose another flavor",
    )


def _version(flavor: Flavor) -> str | None:
    """Return the version that the package states in its source, or None if it is not installed.

    Wheels keep it in ``<flavor>_bindings``; builds from NVIDIA's archives in the package itself.
    """
    if find_spec(flavor) is None:
        return None
    for package in (f"{flavor}_bindings", flavor):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            stated = re.search(r'__version__ = "([^"]+)"', Path(spec.origin).read_text("utf-8"))
            if stated:
                return stated[1]
    return "unknown"


def _shared_library(package: str, name: str) -> Path | None:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).resolve().with_name(name)
    return file if file.is_file() else None


def _linked(real: Path) -> Path:
    """Return a folder of the user's own in which ``real`` has its name without the version."""
    from trtforge.cache import default_root

    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    folder = default_root().absolute() / "linker" / name
    try:
        _link(real, folder)
    except OSError:  # a cache that may only be read
        folder = Path(_scratch().name)
        _link(real, folder)
    return folder


def _link(real: Path, folder: Path) -> None:
    link = folder / real.with_suffix("").name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (link.is_symlink() and link.readlink() == real):
        fresh = folder / f".{secrets.token_hex(4)}"
        fresh.symlink_to(real)
        fresh.replace(link)


@cache
def _scratch() -> TemporaryDirectory[str]:
    """Return a folder that goes when this process ends."""
    return TemporaryDirectory(prefix="trtforge-linker-")
