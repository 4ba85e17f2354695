"""Memory and time of a large model: load, check, clean up, digest and save, in a fresh process.

    python benchmarks/large_model.py --size 3GB --results benchmarks/results/large_model.json

The model is a chain of MatMul nodes whose float32 weights lie in external data. One weight in four
is a copy of an earlier one, and all differ in their last element only, so that ``dedupe-weights``
must read every byte. The claim that is held: peak resident memory is at most 1.3 times the model.
Two figures are taken: the peak of resident memory as the kernel counts it (``ru_maxrss``, which
includes mapped file pages), and the peak of memory that is this process's alone (USS, sampled
every 10 ms).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir

import trtforge
from trtforge import model_file
from trtforge.quantities import ByteSize
from trtforge.weights import model_digest

WIDTH = 2048
WEIGHT_BYTES = 4 * WIDTH * WIDTH
BAR = 1.3


def make_model(size: int, folder: Path) -> Path:
    """Write a model of about ``size`` bytes into ``folder``, in little memory; return its path."""
    count = max(4, size // WEIGHT_BYTES)
    base = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5
    source = ir.val("x", ir.DataType.FLOAT, ["N", WIDTH])
    graph = ir.Graph([source], [], nodes=[], name="chain", opset_imports={"": 21})
    value = source
    with (folder / "weights.bin").open("wb") as data:
        for index in range(count):
            base[-1, -1] = (index - 1 if index % 4 == 3 else index) / count  # products stay finite
            weight = ir.val(f"w{index}", ir.DataType.FLOAT, [WIDTH, WIDTH])
            weight.const_value = ir.ExternalTensor(
                "weights.bin",
                data.tell(),
                WEIGHT_BYTES,
                ir.DataType.FLOAT,
                shape=ir.Shape([WIDTH, WIDTH]),
                name=f"w{index}",
                base_dir=str(folder),
            )
            base.tofile(data)
            graph.register_initializer(weight)
            for op_type, inputs in (("MatMul", [value, weight]), ("Identity", None)):
                node = ir.node(op_type, inputs or [value], name=f"{op_type}_{index}")
                graph.append(node)
                value = node.outputs[0]
                value.name = f"{op_type}_{index}_out"
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", WIDTH])
    graph.append(ir.node("Relu", [value], name="dead"))
    graph.outputs.append(value)
    path = folder / "model.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


class Phases:
    """Seconds by phase, and the peak of memory that belongs to this process alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_uss = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._end.wait(0.01):
            self.peak_uss = max(self.peak_uss, process.memory_full_info().uss)


def measure(path: Path, target: Path) -> dict[str, object]:
    """Do the work in this process and return its figures; sizes in bytes."""
    from trtforge_plugins.clean.dedupe_weights import DedupeWeights
    from trtforge_plugins.clean.drop_dead_code import DropDeadCode
    from trtforge_plugins.clean.drop_identity import DropIdentity

    changes = {}
    with Phases() as phases:
        with phases.phase("load"):
            model = model_file.load(path)
        with phases.phase("check"):
            model_file.check(path)
        ctx = trtforge.Context(model, target.parent, trtforge.Request(str(path)))
        for step in (DropIdentity(), DropDeadCode(), DedupeWeights()):
            with phases.phase(step.name):
                changes[step.name] = step.run(ctx)
        with phases.phase("digest"):
            model_digest(model)
        with phases.phase("save"):
            model_file.save(model, target, external_over=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if _is_mac() else 1024)
    return {
        "changes": changes,
        "seconds": phases.seconds,
        "peak_rss": peak,
        "peak_uss": phases.peak_uss,
        "saved": sum(file.stat().st_size for file in target.parent.iterdir()),
    }


def _is_mac() -> bool:
    return sys.platform == "darwin"  # its ru_maxrss counts bytes, Linux's kibibytes


def run(size: int, folder: Path) -> dict[str, object]:
    """Make the model, measure in a fresh process, and return all figures."""
    path = make_model(size, folder)
    total = sum(file.stat().st_size for file in folder.iterdir())
    target = folder / "saved" / "model.onnx"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(path), str(target)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures = json.loads(done.stdout)
    return {
        "model_bytes": total,
        **figures,
        "rss_ratio": round(figures["peak_rss"] / total, 3),
        "uss_ratio": round(figures["peak_uss"] / total, 3),
        "bar": BAR,
        "machine": {
            "cpus": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
        },
    }


def main() -> int:
    """Run as a script; exit 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=ByteSize, default=ByteSize("3GB"))
    parser.add_argument("--results", type=Path, help="write the figures to this JSON file too")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return 0
    with tempfile.TemporaryDirectory(prefix="trtforge-large-") as folder:
        figures = run(arguments.size, Path(folder))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.results:
        arguments.results.write_text(text + "\n")
    return int(float(str(figures["rss_ratio"])) > BAR)


if __name__ == "__main__":
    sys.exit(main())
