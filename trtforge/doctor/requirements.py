"""What a caller demands of a machine: ``tensorrt>=10.7,sm_86``.

An entry is the name of a GPU's compute capability (``sm_86``), ``gpu``, or something with versions
in pip's notation (PEP 440): ``tensorrt``, ``tensorrt-rtx``, ``driver``, ``cuda`` (the newest that
the driver serves), ``cudnn``, ``toolkit``, ``python``, or a package. ``memory``, ``gpu-memory``,
``shared-memory`` and ``disk`` are compared with sizes: ``gpu-memory>=40GiB``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from trtforge.bundle.compatibility import libraries
from trtforge.doctor.facts import Facts
from trtforge.errors import RequestError
from trtforge.quantities import ByteSize, format_bytes

_ENTRY = re.compile(r"([A-Za-z][\w.-]*?)\s*((?:[<>=!~]=?|===)\s*.+)?")
_SIZE = re.compile(r"(>=|<=|>|<|==)\s*(.+)")
_ORDER: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq,
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """One entry, and whether the machine meets it."""

    entry: str
    met: bool
    found: str
    """What the machine has."""


def hold_against(text: str, facts: Facts) -> list[Answer]:
    """Return an answer for each entry of ``text``.

    Raises:
        RequestError: an entry is not understood.
    """
    return [_answer(entry, facts) for entry in _entries(text)]


def _entries(text: str) -> list[str]:
    """Split at commas; a part that begins with an operator belongs to the one before."""
    entries: list[str] = []
    for part in (each.strip() for each in text.split(",")):
        if entries and re.match(r"[<>=!~]", part):
            entries[-1] += f",{part}"
        elif part:
            entries.append(part)
    if not entries:
        raise RequestError("nothing is required", remedy=_HOW)
    return entries


_HOW = "for example --require 'tensorrt>=10.7,sm_86,gpu-memory>=16GiB'"


def _answer(entry: str, facts: Facts) -> Answer:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise RequestError(f"{entry!r} is no requirement", remedy=_HOW)
    name, versions = match[1], match[2] or ""
    if re.fullmatch(r"sm_\d+", name) or name == "gpu":
        return _gpu(entry, name, versions, facts)
    if name.replace("_", "-") in _SIZES:
        return _size(entry, name.replace("_", "-"), versions, facts)
    return _version(entry, name, versions, facts)


def _gpu(entry: str, name: str, versions: str, facts: Facts) -> Answer:
    if versions:
        raise RequestError(f"{entry!r}: {name} takes no version", remedy=_HOW)
    here = [f"sm_{gpu.compute_capability.replace('.', '')}" for gpu in facts.environment.gpus]
    return Answer(entry, bool(here) if name == "gpu" else name in here, ", ".join(here) or "no GPU")


_SIZES: Mapping[str, Callable[[Facts], list[int]]] = {
    "memory": lambda facts: [
        min(filter(None, (facts.environment.memory, facts.limits.memory_limit)))
    ],
    "gpu-memory": lambda facts: [gpu.memory for gpu in facts.environment.gpus],
    "shared-memory": lambda facts: [facts.limits.shared_memory or 0],
    "disk": lambda facts: [each.free for each in facts.limits.folders],
}


def _size(entry: str, name: str, versions: str, facts: Facts) -> Answer:
    match = _SIZE.fullmatch(versions)
    if match is None:
        raise RequestError(f"{entry!r}: {name} is compared with a size", remedy=_HOW)
    here = _SIZES[name](facts)
    # Any GPU will do; every folder must.
    met = (any if name == "gpu-memory" else all)(
        _ORDER[match[1]](each, ByteSize(match[2])) for each in here
    )
    found = ", ".join(format_bytes(each) for each in here) or "none"
    return Answer(entry, met and bool(here), found)


def _version(entry: str, name: str, versions: str, facts: Facts) -> Answer:
    try:
        wanted = SpecifierSet(versions.replace(" ", ""))
    except InvalidSpecifier as error:
        raise RequestError(f"{entry!r}: {versions} is no version", remedy=_HOW) from error
    have = list(_have(canonicalize_name(name), facts))
    met = any(_contains(wanted, each) for each in have)
    return Answer(entry, met, ", ".join(have) or "none")


def _contains(wanted: SpecifierSet, version: str) -> bool:
    try:
        return wanted.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not wanted


def _have(name: str, facts: Facts) -> Iterator[str]:
    """Yield the versions that the machine has of something."""
    machine = facts.environment
    if name in ("tensorrt", "tensorrt-rtx"):
        flavor = name.replace("-", "_")
        yield from (each.version for each in libraries(machine) if each.flavor == flavor)
    elif name in ("driver", "cuda", "python"):
        yield from filter(None, [str(getattr(machine, name))])
    elif name == "toolkit":
        yield from (each.version for each in facts.installation.toolkits)
    elif name == "cudnn":
        yield from _of(machine.packages, "nvidia-cudnn-cu")
        found = facts.installation.libraries
        yield from (each.version for each in found if each.name == "libcudnn")
    elif name == "cupy":
        yield from _of(machine.packages, "cupy-cuda")
    elif name in machine.packages:
        yield machine.packages[name]
    else:
        yield from _of_any_package(name)


def _of(packages: Mapping[str, str], prefix: str) -> Sequence[str]:
    return [version for name, version in packages.items() if name.startswith(prefix)]


def _of_any_package(name: str) -> Iterator[str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        yield version(name)
    except PackageNotFoundError:
        return
