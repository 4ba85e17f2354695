"""Runs cells on a Ray cluster: Ray places, retries and moves the files.

A cell goes to a node whose resources name its GPU: as the node was started,
``ray start --resources='{"sm_89": 1}'``, or as Ray itself finds the GPU, ``accelerator_type:L4``.
TensorRT-RTX builds for GPUs that are not there: a cell whose GPU no node names runs on any node.
https://docs.ray.io/en/latest/ray-core/scheduling/resources.html
https://docs.ray.io/en/latest/ray-core/scheduling/accelerators.html
https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html
"""

from __future__ import annotations

import io
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
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
                raise EnvironmentLacks(
                    f"there is no Ray cluster at {address}",
                    remedy="start one with `ray start --head`, or leave --on ray out",
                ) from error

    def outcomes(
        self, cells: Sequence[Cell], inputs: Path, out: Path
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Yield each cell with its outcome, when it ends; run folders are brought to ``out``."""
        ray = self._ray
        stored: dict[str, Any] = {}
        nodes = [set(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        task = ray.remote(max_retries=RETRIES)(_run_there)
        waiting = {}
        for cell in cells:
            for name in cell.files:
                if name not in stored:  # as an array: a worker maps it, and copies nothing
                    stored[name] = ray.put(np.fromfile(inputs / name, np.uint8))
            options = {"num_cpus": self._cpus, "resources": resources(cell.targets, nodes)}
            files = {name: stored[name] for name in cell.files}
            reference = task.options(**options).remote(cell.as_data(), list(files), *files.values())
            waiting[reference] = cell
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ready)
            yield cell, self._brought(ready, out / cell.name)

    def _brought(self, reference: Any, folder: Path) -> Outcome:
        try:
            data, packed = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            words = str(error).strip().splitlines()
            why = f"Ray gave it up after {RETRIES} retries: {words[0] if words else error!r}"
            return Outcome(int(ExitCode.ENVIRONMENT_LACKS), 0.0, "", why, RETRIES + 1)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        return Outcome(**data)


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


def _run_there(
    data: Mapping[str, Any], names: Sequence[str], *contents: File
) -> tuple[dict[str, Any], File]:
    """Run a cell on the node that Ray chose; return its outcome and its run folder, packed."""
    with tempfile.TemporaryDirectory(prefix="trtforge-cell-") as scratch:
        inputs, out = Path(scratch) / "inputs", Path(scratch) / "run"
        for name, content in zip(names, contents, strict=True):
            place = inputs / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.data)
        outcome = execute(Cell.from_data(data), inputs, out)
        outcome = replace(outcome, machine=_node_name() or outcome.machine)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            if out.is_dir():
                archive.add(out, arcname=".")
        return vars(outcome), np.frombuffer(packed.getbuffer(), np.uint8)


def _node_name() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())[:12]
