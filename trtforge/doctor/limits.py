"""What this process may use: memory, shared memory, files, addresses, disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NONE = 2**60
"""Control groups of version 1 write a number above this for no limit."""


@dataclass(frozen=True)
class Folder:
    """A folder that runs write to."""

    purpose: str
    path: str
    free: int
    """Bytes."""
    writable: bool


@dataclass(frozen=True)
class Limits:
    """Limits of this process, in bytes; None: there is none, or it is not known."""

    container: str = ""
    """``docker``, ``podman``, ``kubernetes``, or empty."""
    memory_limit: int | None = None
    """Of the control group, which ends processes that pass it."""
    memory_free: int | None = None
    """What this process can still take."""
    shared_memory: int | None = None
    """Size of ``/dev/shm``."""
    locked_memory: int | None = None
    address_space: int | None = None
    open_files: int | None = None
    """A number of files."""
    folders: tuple[Folder, ...] = ()


def read_limits(root: Path = Path("/")) -> Limits:
    """Read the limits; ``root`` is where ``/proc``, ``/sys`` and ``/dev`` lie."""
    import psutil

    groups = list(_group_limits(root))
    left = [free for _, free in groups]
    return Limits(
        container=_container(root),
        memory_limit=min((limit for limit, _ in groups), default=None),
        memory_free=min([int(psutil.virtual_memory().available), *left]),
        shared_memory=_size(root / "dev" / "shm"),
        folders=tuple(_folders()),
        **_process_limits(),
    )


def _container(root: Path) -> str:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    return "podman" if (root / "run" / ".containerenv").exists() else ""


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and rest of each control group above this process.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (``memory.max``, ``memory.current``);
    file pages that nobody uses are given back before the limit ends anything.
    """
    lines = _text(root / "proc" / "self" / "cgroup").splitlines()
    tree = root / "sys" / "fs" / "cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        parts = Path(path.strip("/"))
        if not controllers:
            for group in (parts, *parts.parents):
                yield from _group(tree / group, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            for group in {parts, Path()}:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
                yield from _group(tree / "memory" / group, *names)


def _group(folder: Path, limit_name: str, usage_name: str) -> Iterator[tuple[int, int]]:
    limit, usage = _text(folder / limit_name).strip(), _text(folder / usage_name).strip()
    if not limit.isdigit() or not usage.isdigit() or int(limit) > _NONE:
        return
    given_back = 0
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            given_back = int(value)
    yield int(limit), max(0, int(limit) - int(usage) + given_back)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _size(folder: Path) -> int | None:
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def _process_limits() -> dict[str, int | None]:
    names = {"locked_memory": "MEMLOCK", "address_space": "AS", "open_files": "NOFILE"}
    found: dict[str, int | None] = {}
    with suppress(ImportError):  # Windows has none
        import resource

        for field, name in names.items():
            soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
            found[field] = None if soft == resource.RLIM_INFINITY else soft
    return found


def _folders() -> Iterator[Folder]:
    from platformdirs import user_cache_path

    chosen = os.environ.get("TRTFORGE_CACHE")
    cache = Path(chosen).absolute() if chosen else user_cache_path("trtforge")
    for purpose, place in (
        ("cache", cache),
        ("temporary files", Path(tempfile.gettempdir())),
        ("runs", Path.cwd()),
    ):
        there = next(folder for folder in (place, *place.parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        yield Folder(purpose, str(place), free, os.access(there, os.W_OK | os.X_OK))
