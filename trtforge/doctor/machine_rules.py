"""Limits of the container and of the process, memory and disk."""

from __future__ import annotations

from collections.abc import Iterator

from trtforge.doctor.facts import Facts
from trtforge.doctor.limits import Limits
from trtforge.doctor.symptom import Symptom, fault, note, ok
from trtforge.quantities import format_bytes

GIB = 2**30
MEMORY = 4 * GIB
"""A BERT-base takes 1.6 GB to build, and its conversion as much again."""
SHARED_MEMORY = GIB
"""Ray, Triton and PyTorch's loaders pass data there; Docker's default is 64 MB."""
DISK = 2 * GIB
OPEN_FILES = 4096


def memory(facts: Facts) -> Iterator[Symptom]:
    """Judge the main memory that is left, and the container's limit."""
    limits = facts.limits
    if limits.memory_limit is not None and limits.memory_limit < facts.environment.memory:
        limit, whole = format_bytes(limits.memory_limit), format_bytes(facts.environment.memory)
        yield ok("memory-limit", f"this process may use {limit} of the machine's {whole}")
    if limits.memory_free is not None and limits.memory_free < MEMORY:
        remedy = "end other programs, or use a machine with more memory"
        if limits.memory_limit is not None:
            remedy = _more_memory(limits)
        yield note(
            "memory-low",
            f"{format_bytes(limits.memory_free)} of main memory can be taken; builds of large "
            f"models want {format_bytes(MEMORY)} and more",
            remedy,
        )


def _more_memory(limits: Limits) -> str:
    if limits.container == "kubernetes":
        return "raise resources.limits.memory of the pod"
    if limits.container:
        return f"start the container with a larger --memory: {limits.container} run --memory=16g"
    return "raise the control group's memory.max (systemd-run -p MemoryMax=16G)"


def shared_memory(facts: Facts) -> Iterator[Symptom]:
    """Judge ``/dev/shm``."""
    limits = facts.limits
    if limits.shared_memory is None or limits.shared_memory >= SHARED_MEMORY:
        return
    remedy = "mount -o remount,size=1g /dev/shm"
    if limits.container == "kubernetes":
        remedy = "mount an emptyDir with medium: Memory at /dev/shm"
    elif limits.container:
        remedy = f"start the container with {limits.container} run --shm-size=1g"
    yield note(
        "shared-memory-small",
        f"the shared memory has {format_bytes(limits.shared_memory)}; Ray, Triton and loaders of "
        "data pass arrays there",
        remedy,
    )


def process_limits(facts: Facts) -> Iterator[Symptom]:
    """Judge what ``ulimit`` says."""
    limits = facts.limits
    if limits.address_space is not None:
        yield fault(
            "address-space-limited",
            f"this process may map {format_bytes(limits.address_space)} only; CUDA maps far more "
            "addresses than memory",
            "ulimit -v unlimited",
        )
    if limits.open_files is not None and limits.open_files < OPEN_FILES:
        yield note(
            "open-files-few",
            f"this process may open {limits.open_files} files",
            "ulimit -n 65536",
        )
    if facts.environment.gpus and limits.locked_memory is not None:
        remedy = "ulimit -l unlimited"
        if limits.container in ("docker", "podman"):
            remedy = f"start the container with {limits.container} run --ulimit memlock=-1"
        yield note(
            "locked-memory-limited",
            f"this process may lock {format_bytes(limits.locked_memory)} of memory; NVIDIA's "
            "containers ask for no limit",
            remedy,
        )


def folders(facts: Facts) -> Iterator[Symptom]:
    """Judge the folders that runs write to."""
    for each in facts.limits.folders:
        if not each.writable:
            cache = each.purpose == "cache"
            variable = "TRTFORGE_CACHE" if cache else "TMPDIR"
            remedy = f"let {variable} name a folder that can be written"
            if each.purpose == "runs":
                remedy = "run trtforge in a folder that can be written, or give --out"
            yield fault(
                "folder-read-only",
                f"the folder for {each.purpose}, {each.path}, cannot be written",
                remedy,
            )
        elif each.free < DISK:
            yield note(
                "disk-low",
                f"{format_bytes(each.free)} are free for {each.purpose} in {each.path}",
                "free some space, or move it: TRTFORGE_CACHE (cache), TMPDIR (temporary files), "
                "--out (runs)",
            )
