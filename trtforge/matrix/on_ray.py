"""Runs cells on a Ray cluster: Ray places, retries and moves the files.

A cell goes to a node whose resources name its GPU. Nodes say so when they start, as
``ray start --resources='{"sm_89": 1}'``. TensorRT-RTX builds for GPUs that are not there: a cell
whose GPU no node names runs on any node.
https://docs.ray.io/en/latest/ray-core/scheduling/resources.html
https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html
"""

from __future__ import annotations

import io
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtforge.errors import EnvironmentLacks, ExitCode
from trtforge.matrix.cells import Cell
from trtforge.matrix.execute import Outcome, execute

RETRIES = 3
"""How often Ray starts a task anew whose worker or node died."""
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
        marks = {name for node in ray.nodes() if node["Alive"] for name in node["Resources"]}
        task = ray.remote(max_retries=RETRIES)(_run_there)
        waiting = {}
        for cell in cells:
            for name in cell.files:
                if name not in stored:
                    stored[name] = ray.put((inputs / name).read_bytes())
            options = {"num_cpus": self._cpus, "resources": _resources(cell, marks)}
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


def _resources(cell: Cell, marks: set[str]) -> dict[str, float]:
    """Return the marks that a node needs: those of the cell's targets that any node has."""
    return {target: _SHARE for target in cell.targets if target in marks}


def _run_there(
    data: Mapping[str, Any], names: Sequence[str], *contents: bytes
) -> tuple[dict[str, Any], bytes]:
    """Run a cell on the node that Ray chose; return its outcome and its run folder, packed."""
    with tempfile.TemporaryDirectory(prefix="trtforge-cell-") as scratch:
        inputs, out = Path(scratch) / "inputs", Path(scratch) / "run"
        for name, content in zip(names, contents, strict=True):
            place = inputs / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        outcome = execute(Cell.from_data(data), inputs, out)
        outcome = replace(outcome, machine=_node_name() or outcome.machine)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            if out.is_dir():
                archive.add(out, arcname=".")
        return vars(outcome), packed.getvalue()


def _node_name() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())[:12]
