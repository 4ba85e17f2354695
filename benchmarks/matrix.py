"""A matrix of 12 runs: one after the other, two at a time here, and on Ray with two workers.

    python benchmarks/matrix.py [--rounds 3] [--go-on] [--ways one two halves ray]

A worker has one core in all of them, so that the only difference is how many there are. They take
turns, each with an empty step cache, and include the start of their processes, all imports and the
way of the files. Ray's cluster (a head without CPUs, two raylets with one each) is there and at
rest before the clock starts, as a cluster is; the first cells import trtforge there. Its workers
have the priority that all others have (``RAY_worker_niceness=0``), and work in the folders that
they see, as on one machine or with a shared disk, or ("ray apart") get files and give run folders
by Ray's object store. Ideal is half of the time that one worker takes for the same cells.

Beside it stand two commands that know nothing of each other, with half of the cells each
("halves": what the machine allows); one process on all cores; and by how much a core is slower when
the other one works, too (a matrix product and a loop in Python).

Writes ``benchmarks/results/matrix.json``, after each round; ``--go-on`` keeps the rounds that are
in it. No GPU is used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from trtforge.matrix.cells import Cell, read_matrix
from trtforge.matrix.execute import Outcome
from trtforge.matrix.local import LocalProcesses
from trtforge.matrix.on_ray import Place, RayCluster
from trtforge.matrix.runs import Runner, run_matrix

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "matrix.json"
MATRIX = """
models:
  bert: {model: bert.onnx, shapes: {input_ids: 1x128, attention_mask: 1x128, token_type_ids: 1x128}}
  mini: {model: mini.onnx, shapes: {input_ids: 1x128, attention_mask: 1x128, token_type_ids: 1x128}}
  resnet: {model: resnet.onnx, shapes: {image: 1x3x224x224}}
recipes: [fp16, bf16]
targets: [sm_86, sm_89]
"""
BAR = 1.15
REST = 10.0  # seconds after which the processes of a new cluster have come to rest


def inputs(folder: Path) -> tuple[Cell, ...]:
    """Write BERT-base, a smaller one and ResNet-50 with random weights; return the cells."""
    sys.path.insert(0, str(ROOT / "tests"))
    import models

    folder.mkdir()
    onnx.save(models.bert(models.BertSize(12, 768, 12, 3072, 30522, 512)), folder / "bert.onnx")
    onnx.save(models.bert(models.BertSize(6, 384, 12, 1536, 30522, 512)), folder / "mini.onnx")
    onnx.save(models.resnet50(), folder / "resnet.onnx")
    (folder / "matrix.yaml").write_text(MATRIX)
    return read_matrix(folder / "matrix.yaml")


@contextmanager
def on_core(*numbers: int) -> Iterator[None]:
    """Let what is started in the block run on these of this process's cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number] for number in numbers})
    yield
    os.sched_setaffinity(0, cores)


@contextmanager
def one() -> Iterator[Runner]:
    """One process on one core."""
    with on_core(0):
        yield LocalProcesses(1)


@contextmanager
def one_on_all() -> Iterator[Runner]:
    """One process on all cores."""
    yield LocalProcesses(1)


@contextmanager
def two() -> Iterator[Runner]:
    """Two processes; `LocalProcesses` shares the cores among them."""
    with on_core(0, 1):
        yield LocalProcesses(2)


class Halves:
    """Two commands, each for every other cell, a core and a step cache."""

    def outcomes(
        self, cells: Sequence[Cell], inputs: Path, out: Path
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Start both, wait for both, and yield all cells."""
        caches = [f"{os.environ['TRTFORGE_CACHE']}-{number}" for number in range(2)]
        processes = []
        for number, cache in enumerate(caches):
            with on_core(number):
                command = [sys.executable, __file__, "--half", str(number), str(inputs), str(out)]
                environment = {**os.environ, "TRTFORGE_CACHE": cache}
                processes.append(subprocess.Popen(command, env=environment))
        assert not any(process.wait() for process in processes)
        for number in range(2):
            rows = json.loads((out / f"half-{number}" / "matrix.json").read_text())["rows"]
            for cell, row in zip(cells[number::2], rows, strict=True):
                yield cell, Outcome(**row["outcome"])


def half(number: int, inputs: Path, out: Path) -> None:
    """Run every other cell, the larger ones first."""
    cells = read_matrix(inputs / "matrix.yaml")[number::2]
    run_matrix(cells, inputs, out / f"half-{number}", LocalProcesses(1))


@contextmanager
def halves() -> Iterator[Runner]:
    """Two commands that know nothing of each other."""
    yield Halves()


class Apart(RayCluster):
    """A cluster whose nodes do not see the folders of this machine, and say so when asked."""

    def _started(self, cell: Cell, place: Place, files: Sequence[Any] = ()) -> Any:
        return super()._started(cell, place, files) if files else self._ray.put(None)


@contextmanager
def on_ray(kind: type[RayCluster] = RayCluster) -> Iterator[Runner]:
    """A cluster of two raylets with one worker each."""
    import ray
    from ray.cluster_utils import Cluster

    # Ray's own name for it; 15 otherwise: what else runs here would go first.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for number in range(2):
        with on_core(number):
            cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    time.sleep(REST)
    yield kind(cluster.address)
    ray.shutdown()
    cluster.shutdown()


WAYS: dict[str, Callable[[], AbstractContextManager[Runner]]] = {
    "one": one,
    "two": two,
    "halves": halves,
    "ray": on_ray,
    "ray apart": partial(on_ray, Apart),
    "one on all cores": one_on_all,
}


def measure(folder: Path, cells: Sequence[Cell], name: str) -> dict[str, Any]:
    """Return the wall time of the matrix and what its cells took, in seconds."""
    with TemporaryDirectory(prefix=f"matrix-{name}-", dir=folder) as scratch:
        os.environ["TRTFORGE_CACHE"] = str(Path(scratch) / "cache")
        began = time.perf_counter()
        with WAYS[name]() as runner:
            started = time.perf_counter()
            rows = run_matrix(cells, folder / "inputs", Path(scratch) / "out", runner)
            ended = time.perf_counter()
    assert all(row.outcome.exit_code == 0 for row in rows), rows
    return {
        "seconds": round(ended - started, 2),
        "start_of_cluster": round(started - began, 2),
        "cells": {row.cell: row.outcome.seconds for row in rows},
    }


SPIN = """
import sys, time, numpy
square = numpy.random.default_rng(0).random((600, 600), numpy.float32)
times = []
for job in (lambda: sum(range(20_000_000)), lambda: [square @ square for _ in range(60)]):
    started = time.perf_counter()
    job()
    times.append(time.perf_counter() - started)
print(*times)
"""


def slower_together() -> dict[str, float]:
    """Return how much longer work takes on one core while the other one does the same."""

    def start(core: int) -> subprocess.Popen[str]:
        single = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with on_core(core):
            return subprocess.Popen(
                [sys.executable, "-c", SPIN], stdout=subprocess.PIPE, text=True, env=single
            )

    def times(*processes: subprocess.Popen[str]) -> list[float]:
        found = [list(map(float, each.communicate()[0].split())) for each in processes]
        return [sum(each) / len(each) for each in zip(*found, strict=True)]

    alone = zip(times(start(0)), times(start(1)), strict=True)
    both = times(start(0), start(1))
    slower = [now / (sum(each) / 2) for now, each in zip(both, alone, strict=True)]
    return dict(zip(("loop", "matrix product"), (round(each, 2) for each in slower), strict=True))


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--half", nargs=3)
    options = parser.parse_args()
    if options.half:
        number, place, out = options.half
        half(int(number), Path(place), Path(out))
        return
    rounds = json.loads(RESULT.read_text())["rounds"] if options.go_on else []
    with TemporaryDirectory(prefix="trtforge-matrix-") as scratch:
        folder = Path(scratch)
        cells = inputs(folder / "inputs")
        for _ in range(options.rounds):
            rounds.append({name: measure(folder, cells, name) for name in options.ways})
            print({name: each["seconds"] for name, each in rounds[-1].items()}, flush=True)
            write(rounds, len(cells))


def write(rounds: Sequence[dict[str, Any]], cells: int) -> None:
    """Write what was measured, and print how far it is from the ideal."""
    ratios = {
        name: [
            each[name]["seconds"] / (each["one"]["seconds"] / 2) for each in rounds if name in each
        ]
        for name in ("two", "halves", "ray", "ray apart")
    }
    measured = {name: values for name, values in ratios.items() if values}
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {name: version(name) for name in ("trtforge", "tensorrt-rtx", "ray")},
        "slower_together": slower_together(),
        "cells": cells,
        "bar": BAR,
        "to_ideal": {name: round(median(values), 3) for name, values in measured.items()},
        "to_ideal_of_each_round": {
            name: [round(value, 3) for value in values] for name, values in measured.items()
        },
        "rounds": rounds,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["to_ideal"], indent=2))


if __name__ == "__main__":
    main()
