"""What each attempt of `fit-memory` changes in real networks, and what is chosen for a budget.

    python benchmarks/fit_memory.py [--work FOLDER] [--only NAME...] [--budgets BUDGET...]

Five networks at the sizes people deploy (``memory_models.py``), random weights, SM 89, no GPU:
TensorRT states its totals when it builds. Each gets a range of batches from 1 over 2 to 8, and
three budgets, as shares of what the engine needs as asked:

- ``batch``: 70 % of the activations. The search must find the largest batch that fits: it and the
  next larger one are built.
- ``total``: 45 % of the total, weights included.
- ``none``: 1 MiB, which nothing gives. Every attempt is made, in the stated order, and measured.

The model is also split into two and four parts, which run under ONNX Runtime and are held against
the whole. Writes ``results/fit_memory.json``; networks and budgets that were not asked for stay as
they are in it. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import onnx_ir as ir
from memory import TARGET, exported, shapes
from memory_models import DEPLOYED
from trtforge_plugins.clean import FoldConstants
from trtforge_plugins.memory import FitMemory
from trtforge_plugins.memory import fit_memory as fitting
from trtforge_plugins.memory.attempts import Setup
from trtforge_plugins.memory.split import split
from trtforge_plugins.memory.trials import Built, Trials
from trtforge_plugins.tensorrt import TensorRT

from trtforge import ByteSize, Context, Dims, Request, Requirements, ShapeRange
from trtforge.chain import Chain
from trtforge.chain_runner import ChainRunner
from trtforge.compare import compare
from trtforge.feeds import synthesize
from trtforge.reference import Reference
from trtforge.targets import read_target
from trtforge.testing import apply

RESULT = Path(__file__).parent / "results" / "fit_memory.json"
NETWORKS = ("resnet-50", "mobilenet-v2", "u-net", "bert-base", "gpt-2")
BUDGETS = ("batch", "total", "none")
BATCHES = (1, 2, 8)
MOST_PARTS = 4


class Watched(Trials):
    """Trials that write down each build."""

    rows: list[dict[str, Any]]

    def build(self, text: str, setup: Setup) -> Built | None:
        """Build, take the time, and write down what TensorRT says."""
        started = time.perf_counter()
        built = super().build(text, setup)
        row = {"attempt": text, "seconds": round(time.perf_counter() - started, 1)}
        self.rows.append(row | ({"built": False} if built is None else _figures(built)))
        return built

    def judge(self, built: Built) -> bool:
        """Judge, and write down whether it is kept."""
        before = self.best
        fits = super().judge(built)
        row = next(row for row in reversed(self.rows) if row["attempt"] == built.text)
        row["kept"] = self.best is not before
        return fits


def _figures(built: Built) -> dict[str, Any]:
    result = built.result
    memory = result if isinstance(result, Chain) else result.memory
    return {
        "activation": memory.activation,
        "total": memory.total,
        "engine_size": result.size,
        "fits": built.fits,
    }


def asked(name: str, folder: Path, require: Requirements) -> tuple[ir.Model, Request]:
    """Return the network, and a request for a range of batches."""
    network = DEPLOYED[name]
    model, _, _ = apply(FoldConstants(), exported(name, network, folder))
    points = [shapes(network, batch) for batch in BATCHES]
    profile = {key: ShapeRange(*(Dims(point[key]) for point in points)) for key in points[0]}
    return model, Request(f"{name}.onnx", (profile,), (read_target(TARGET),), require)


def as_asked(name: str, folder: Path) -> dict[str, int]:
    """Return the figures of the engine without a budget."""
    model, request = asked(name, folder, Requirements())
    with tempfile.TemporaryDirectory() as scratch:
        built = TensorRT().build(model, Context(model, Path(scratch), request))
    assert built.memory.activation
    assert built.memory.total
    return {"activation": built.memory.activation, "total": built.memory.total}


def fit(name: str, budget: str, need: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """Return every attempt on one network with one budget, and what was chosen."""
    require = {
        "batch": Requirements(activation_memory=ByteSize(need["activation"] * 7 // 10)),
        "total": Requirements(total_memory=ByteSize(need["total"] * 45 // 100)),
        "none": Requirements(total_memory=ByteSize("1MiB")),
    }[budget]
    model, request = asked(name, folder, require)
    Watched.rows = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        ctx = Context(model, Path(scratch), request)
        FitMemory(most_parts=MOST_PARTS).run(ctx)
    limits = {"activation": require.activation_memory, "total": require.total_memory}
    return {
        "network": name,
        "budget": budget,
        "limit": {key: int(limit) for key, limit in limits.items() if limit is not None},
        "seconds": round(time.perf_counter() - started, 1),
        "chosen": next(n.text for n in reversed(ctx.notes) if n.text.startswith("chosen: ")),
        "notes": [note.text for note in ctx.notes if _says_more(note.text)],
        "rows": Watched.rows,
    }


def _says_more(note: str) -> bool:
    """Whether a note tells of a search, or why something could not be tried."""
    return note.startswith(("batch: ", "shapes: ")) or ": not possible: " in note


def splits(name: str, folder: Path) -> list[dict[str, Any]]:
    """Return how near the outputs of the parts are to those of the whole."""
    model, request = asked(name, folder, Requirements())
    feeds = synthesize(model, request.profiles[0], samples=1).feeds
    whole = [Reference(model).run(feed) for feed in feeds]
    found = []
    for parts in (2, MOST_PARTS):
        with tempfile.TemporaryDirectory() as scratch:
            chain = split(model, request, parts, Path(scratch), "one")
            runner = ChainRunner(chain)
            outputs = compare(whole, [runner.run(feed) for feed in feeds])
        lowest = min(each.sqnr_db for each in outputs)
        equal = not any(each.problem for each in outputs) and lowest == float("inf")
        sqnr = None if lowest == float("inf") else round(lowest, 1)
        found.append({"network": name, "parts": parts, "equal": equal, "sqnr_db": sqnr})
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--budgets", nargs="*", choices=BUDGETS, default=BUDGETS)
    parser.add_argument("--result", type=Path, default=RESULT, metavar="FILE")
    options = parser.parse_args()
    fitting.Trials = Watched  # type: ignore[misc]  # the step makes its trials itself
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        for name in options.only:
            need = as_asked(name, folder)
            for budget in options.budgets:
                run = fit(name, budget, need, folder)
                print(json.dumps(run, indent=1), flush=True)
                write(options.result, [run], splits(name, folder) if budget == "none" else [])


def write(
    file: Path, runs: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]
) -> None:
    """Put ``runs`` and ``parts`` into ``file``, beside those of other networks and budgets."""
    stored = json.loads(file.read_text()) if file.is_file() else {}
    known = {(row["network"], row["budget"]): row for row in (*stored.get("runs", ()), *runs)}
    split_up = {(row["network"], row["parts"]): row for row in (*stored.get("splits", ()), *parts)}
    packages = ("trtforge", "tensorrt-rtx", "torch", "onnxruntime")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "target": TARGET,
        "versions": {name: version(name) for name in packages},
        "batches": BATCHES,
        "runs": [known[key] for key in product(NETWORKS, BUDGETS) if key in known],
        "splits": [split_up[key] for key in sorted(split_up)],
    }
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
