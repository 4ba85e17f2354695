"""Runs cells on a Ray cluster: Ray places and retries, and moves the files where it has to.

A node that sees the folders of the machine that started the matrix (the same machine, or a shared
disk) reads and writes there. Others get the files through Ray's object store.

A cell goes to a node whose resources name its GPU: as the node was started,
``ray start --resources='{"sm_89": 1}'``, or as Ray itself finds the GPU, ``accelerator_type:L4``.
TensorRT-RTX builds for GPUs that are not there: a cell whose GPU no node names runs on any node.
https://docs.ray.io/en/latest/ray-core/scheduling/resources.html
https://docs.ray.io/en/latest/ray-core/scheduling/accelerators.html
https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html
"""

from __future__ import annotations

import gc
import io
import os
import secrets
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trtforge.errors import EnvironmentLacks, ExitCode
from trtforge.matrix.cells import Cell
from trtforge.matrix.execute import Outcome, execute

File: TypeAlias = npt.NDArray[np.uint8]
"""Content of a file: Ray maps arrays into its workers, and would copy bytes."""
RETRIES = 3
"""How often Ray starts a task anew whose worker or node died."""
ACCELERATORS = {
    "sm_75": ("T4",),
    "sm_80": ("A100", "A100-40G", "A100-80G"),
    "sm_86": ("A10G",),
    "sm_89": ("L4", "L40S"),
    "sm_90": ("H100", "H200", "H20"),
    "sm_100": ("B200", "GB200"),
    "sm_103": ("B300", "GB300"),
    "sm_120": ("RTX-PRO-6000",),
}
"""Ray's names of the GPUs of each target (``ray.util.accelerators``)."""
_SCRATCH = ".on-ray-"
_SHARE = 0.01  # of the node's mark; the mark places, CPUs limit how many run at a time


class RayCluster:
    """Runs cells on a Ray cluster.

    Args:
        address: Of the cluster; ``auto``: the one that this machine belongs to.
        cpus: CPU cores that a cell takes.

    Raises:
        EnvironmentLacks: Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str = "auto", cpus: float = 1.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise EnvironmentLacks(
                "Ray is not installed", remedy="pip install 'trtforge[ray]'"
            ) from error
        self._ray: Any = ray
        self._cpus = cpus
        if not ray.is_initialized():
            try:
                _reach(address)
                ray.init(address=address, log_to_driver=False, configure_logging=False)
            except OSError as error:  # ConnectionError is one
                where = "on this machine" if address == "auto" else f"at {address}"
                raise EnvironmentLacks(
                    f"there is no Ray cluster {where}",
                    remedy="start one with `ray start --head`, or leave --on ray out",
                ) from error
        # One for all cells: Ray keeps a worker, with all that it has imported, for one function.
        self._task = ray.remote(max_retries=RETRIES)(_run_there)

    def outcomes(
        self, cells: Sequence[Cell], inputs: Path, out: Path
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Yield each cell with its outcome, when it ends; run folders are brought to ``out``."""
        ray = self._ray
        stored: dict[str, Any] = {}
        with _meeting_place(cells, inputs, out) as place:
            waiting = {self._started(cell, place): cell for cell in cells}
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(ready)
                try:
                    made = ray.get(ready)
                except ray.exceptions.RayError as error:
                    yield cell, _given_up(error)
                    continue
                if made is None:  # its node does not see the folders of this machine
                    for name in cell.files:
                        if name not in stored:  # an array: a worker maps it, and copies nothing
                            stored[name] = ray.put(np.fromfile(inputs / name, np.uint8))
                    files = [stored[name] for name in cell.files]
                    waiting[self._started(cell, place, files)] = cell
                    continue
                yield cell, made.brought(out / cell.name)

    def _started(self, cell: Cell, place: Place, files: Sequence[Any] = ()) -> Any:
        """Start a cell, with or without its files, and return Ray's reference to what it makes."""
        nodes = [set(node["Resources"]) for node in self._ray.nodes() if node["Alive"]]
        options = {"num_cpus": self._cpus, "resources": resources(cell.targets, nodes)}
        return self._task.options(**options).remote(cell.as_data(), place, *files)


def _given_up(error: Exception) -> Outcome:
    words = str(error).strip().splitlines()
    why = f"Ray gave it up after {RETRIES} retries: {words[0] if words else error!r}"
    return Outcome(int(ExitCode.ENVIRONMENT_LACKS), 0.0, "", why, RETRIES + 1)


@dataclass(frozen=True)
class Place:
    """Folders of the machine that started the matrix, which a node may see as well."""

    inputs: Path
    scratch: Path
    """Run folders come to be here: its name is new, so a node that has it sees the same disk."""
    files: Mapping[str, tuple[int, int]]
    """Size and time of change, in nanoseconds, of each file of the matrix."""

    def is_seen(self, cell: Cell) -> bool:
        """Whether this node sees the files of ``cell`` and may write run folders."""
        try:
            seen = all(_look(self.inputs / name) == self.files[name] for name in cell.files)
        except OSError:
            return False
        return seen and os.access(self.scratch, os.W_OK)


@dataclass(frozen=True)
class Made:
    """What a worker made of a cell."""

    outcome: Mapping[str, Any]
    folder: Path | None
    """Run folder on the disk that both see."""
    packed: File | None = None
    """Run folder as a tar file."""

    def brought(self, target: Path) -> Outcome:
        """Put the run folder in its place and return the outcome."""
        if self.folder is not None and self.folder.is_dir():
            self.folder.rename(target)
        if self.packed is not None:
            with tarfile.open(fileobj=io.BytesIO(self.packed.data)) as archive:
                archive.extractall(target, filter="data")
        return Outcome(**self.outcome)


@contextmanager
def _meeting_place(cells: Sequence[Cell], inputs: Path, out: Path) -> Iterator[Place]:
    """Make a folder for the run folders of nodes that see it, and remove it at the end."""
    for left in out.glob(f"{_SCRATCH}*"):  # by a command that was killed
        shutil.rmtree(left, ignore_errors=True)
    scratch = (out / f"{_SCRATCH}{secrets.token_hex(8)}").absolute()
    scratch.mkdir(parents=True)
    files = {name: _look(inputs / name) for cell in cells for name in cell.files}
    try:
        yield Place(inputs.absolute(), scratch, files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _look(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _reach(address: str) -> None:
    """Connect once: Ray itself would try for many minutes.

    Raises:
        OSError: nobody listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def resources(targets: Sequence[str], nodes: Sequence[AbstractSet[str]]) -> dict[str, float]:
    """Return the marks to ask for: those of the node that has marks of the most targets.

    Only marks that one node has together: no node could take a task that asks for others. Marks
    that somebody gave go before what Ray found.

    Args:
        targets: Of one cell.
        nodes: Names of each living node's resources.
    """
    marks = [[_mark(target, node) for target in targets] for node in nodes]
    found = [[mark for mark in each if mark is not None] for each in marks]
    best = max(found, key=lambda each: (len(each), len({*each} & {*targets})), default=[])
    return dict.fromkeys(best, _SHARE)


def _mark(target: str, node: AbstractSet[str]) -> str | None:
    """Return what says that a node has the GPU of a target; None: nothing does."""
    known = (target, *(f"accelerator_type:{each}" for each in ACCELERATORS.get(target, ())))
    return next((mark for mark in known if mark in node), None)


def _run_there(data: Mapping[str, Any], place: Place, *contents: File) -> Made | None:
    """Run a cell on the node that Ray chose.

    Without ``contents``, those of the cell's files, only where the node sees ``place``; else None.
    """
    cell = Cell.from_data(data)
    if not contents:
        if not place.is_seen(cell):
            return None
        folder = place.scratch / f"{cell.name}-{secrets.token_hex(4)}"  # a dead worker's is another
        return Made(_executed(cell, place.inputs, folder), folder)
    with tempfile.TemporaryDirectory(prefix="trtforge-cell-") as scratch:
        inputs, out = Path(scratch) / "inputs", Path(scratch) / "run"
        for name, content in zip(cell.files, contents, strict=True):
            file = inputs / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.data)
        return Made(_executed(cell, inputs, out), None, _packed(out))


def _executed(cell: Cell, inputs: Path, out: Path) -> dict[str, Any]:
    outcome = execute(cell, inputs, out)
    gc.collect()  # a build process lasts as long as the step that started it
    return vars(replace(outcome, machine=_node_name() or outcome.machine))


def _packed(folder: Path) -> File:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        if folder.is_dir():
            archive.add(folder, arcname=".")
    return np.frombuffer(packed.getbuffer(), np.uint8)


def _node_name() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())[:12]
