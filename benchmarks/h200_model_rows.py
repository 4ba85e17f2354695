"""Times one network of ``h200_models.py``: every tool's models, and torch.compile.

    python benchmarks/h200_model_rows.py {warm,measure} NAME FOLDER [compile]

``measure`` prints a row as JSON in each line, ``warm`` fills torch.compile's cache on disk. Without
a GPU it takes the CPU and its clock, so that the script can be tried.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from h200_model_files import OPS, PRECISIONS, TOOLS, architecture, inputs
from h200_model_sessions import MODES, Bound, Mode, Outputs, compiled, used_memory

from trtforge.timing_statistics import interval

if TYPE_CHECKING:
    from architectures.architecture import Architecture
    from torch import Tensor, nn

PEERS = ("raw", "onnxsim", "onnxslim")
COMPILED = "torch.compile"
BATCHES = (1, 32)
ROUNDS, ROUND_SECONDS = 25, 0.01
# Largest difference of an output from the raw model's, in shares of its largest value: float32
# without TF32 but in another order of sums; Q/DQ: such a difference turns into steps of 1/127,
# which later layers carry on. In float16 a model may be at most twice as far from the float32
# outputs as the raw float16 model is, or within float16's own step.
NEAR = {"float32": 1e-3, "qdq": 5e-2}
HALF_STEP = 2.0**-10


class Network:
    """A network on the device, with its inputs of one batch."""

    def __init__(self, name: str) -> None:
        self.architecture: Architecture = architecture(name)
        self.module: nn.Module = self.architecture.module().to(_device())

    def at(self, batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return inputs and outputs of this batch."""
        feeds = {n: t.to(_device()) for n, t in inputs(self.architecture, batch).items()}
        with _everything_on_device():
            return feeds, self.named(self.module(**feeds))

    def named(self, found: Any) -> dict[str, Tensor]:
        """Return the outputs by name."""
        tensors = found if isinstance(found, tuple | list) else (found,)
        return dict(zip(self.architecture.outputs, tensors, strict=True))

    def compiled(self, feeds: Mapping[str, Tensor], precision: str) -> Callable[[], Any]:
        """Return the module as torch compiles it, run by calling."""
        with _everything_on_device():
            return compiled(self.module, feeds, precision)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _everything_on_device() -> Iterator[None]:
    """Let what a module makes while it runs lie where its weights do."""
    import torch

    torch.set_default_device(_device())
    try:
        yield
    finally:
        torch.set_default_device("cpu")


def measure(name: str, work: Path, *, compile_too: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision and batch."""
    network = Network(name)
    for batch in BATCHES:
        feeds, truth = network.at(batch)
        exact = None
        for precision in PRECISIONS:
            folder = work / f"{name}.{precision}"
            head = {"model": name, "precision": precision, "batch": batch}
            if not (folder / "failed.json").is_file():
                yield {**head, "reason": "no such model: its preparation failed"}
                continue
            row = Row(network, precision, folder, feeds, truth)
            if exact is None:
                exact = row.outputs.get("raw")
            yield {**head, **row.measured(exact or {}, compile_too=compile_too)}
            del row
            gc.collect()


class Row:
    """All tools' models of one precision and batch."""

    def __init__(
        self,
        network: Network,
        precision: str,
        folder: Path,
        feeds: Mapping[str, Tensor],
        truth: Mapping[str, Tensor],
    ) -> None:
        self.network, self.precision, self.folder = network, precision, folder
        self.feeds, self.truth = feeds, truth
        self.failed: dict[str, str] = json.loads((folder / "failed.json").read_text())
        self.notes: list[str] = []
        self.mode, self.bound = self._bind()
        self.outputs = {tool: bound.outputs() for tool, bound in self.bound.items()}

    def _bind(self) -> tuple[Mode, dict[str, Bound]]:
        """Start every tool's model in the first mode that takes all that run at all."""
        for mode in MODES:
            found = {}
            for tool in (tool for tool in TOOLS if tool not in self.failed):
                try:
                    self._start("raw", mode)  # loads what the first one would pay for
                    found[tool] = self._start(tool, mode)
                except Exception as error:  # noqa: BLE001  # that a model does not run is the result
                    reason = " ".join(str(error).split())[:300]
                    if tool == OPS or mode == MODES[-1] or not self._runs(tool):
                        self.failed[tool] = reason
                        continue
                    self.notes.append(f"{mode}, {tool}: {reason}")
                    break
            else:
                return mode, found
        raise AssertionError

    def _runs(self, tool: str) -> bool:
        """Whether the model of ``tool`` runs in the last mode."""
        try:
            self._start(tool, MODES[-1])
        except Exception:  # noqa: BLE001  # that it does not is the answer
            return False
        return True

    def _start(self, tool: str, mode: Mode) -> Bound:
        shapes = {name: tuple(value.shape) for name, value in self.truth.items()}
        return Bound(self.folder / f"{tool}.onnx", self.feeds, shapes, mode)

    def measured(self, exact: Outputs, *, compile_too: bool) -> dict[str, Any]:
        """Return the row: times, memory, differences.

        Args:
            exact: The outputs of the raw float32 model.
            compile_too: Whether torch.compile takes part.
        """
        runs: dict[str, Callable[[], Any]] = {t: self.bound[t] for t in TOOLS if t in self.bound}
        memory = {tool: bound.memory for tool, bound in self.bound.items()}
        outputs = dict(self.outputs)
        if compile_too and self.precision != "qdq":
            before = used_memory()
            try:
                runs[COMPILED] = run = self.network.compiled(self.feeds, self.precision)
                found = self.network.named(run())
            except Exception as error:  # noqa: BLE001  # that it does not compile is the result
                self.failed[COMPILED] = " ".join(str(error).split())[:300]
            else:
                memory[COMPILED] = used_memory() - before
                outputs[COMPILED] = {n: v.float().cpu().numpy() for n, v in found.items()}
        operators = {tool: bound.operators for tool, bound in self.bound.items()}
        mine = operators.get("trtforge")
        return {
            "run as": str(self.mode),
            "notes": self.notes,
            "failed": self.failed,
            "differs": differs(self.precision, outputs, exact),
            "nodes": {tool: sum(counts.values()) for tool, counts in operators.items()},
            "same nodes": [t for t in PEERS if operators.get(t) == mine],
            "memory": memory,
            **times(runs),
        }


def distance(found: Outputs, expected: Outputs) -> float:
    """Return the largest difference, in shares of each output's largest value."""
    worst = 0.0
    for name, right in expected.items():
        here = found[name].astype(np.float64)
        if here.shape != right.shape or not np.array_equal(np.isfinite(here), np.isfinite(right)):
            return float("inf")
        wide = np.nan_to_num(right.astype(np.float64))
        error = np.abs(np.nan_to_num(here) - wide).max(initial=0.0)
        worst = max(worst, float(error / (np.abs(wide).max(initial=0.0) or 1.0)))
    return worst


def differs(precision: str, outputs: Mapping[str, Outputs], exact: Outputs) -> dict[str, float]:
    """Return whose outputs are too far from the raw model's, and how far."""
    if precision == "float16":
        far = {tool: distance(found, exact) for tool, found in outputs.items()}
        allowed = max(2 * far["raw"], HALF_STEP)
    else:
        far = {tool: distance(found, outputs["raw"]) for tool, found in outputs.items()}
        allowed = NEAR[precision]
    return {tool: each for tool, each in far.items() if not each <= allowed}


def times(runs: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return milliseconds per run and trtforge's speed beside the others', all in turn.

    Each is a median over the rounds, with the ends of its 95 % confidence interval behind it.
    """
    counts = {tool: _count(run) for tool, run in runs.items()}
    rounds: dict[str, list[float]] = {tool: [] for tool in runs}
    order = list(runs)
    for index in range(ROUNDS):
        turn = index % len(order)
        for tool in order[turn:] + order[:turn]:
            rounds[tool].append(_milliseconds(runs[tool], counts[tool]))
    ms = {tool: _middle(found) for tool, found in rounds.items()}
    if "trtforge" not in rounds:
        return {"ms": ms, "reason": "trtforge's model does not run"}
    ratio = {
        tool: _middle([t / m for t, m in zip(found, rounds["trtforge"], strict=True)])
        for tool, found in rounds.items()
        if tool != "trtforge"
    }
    best = min((tool for tool in PEERS if tool in ratio), key=lambda tool: ratio[tool][0])
    return {"ms": ms, "ratio": ratio, "best": best}


def _middle(found: list[float]) -> list[float]:
    ordered = sorted(found)
    return [round(each, 5) for each in (median(ordered), *(interval(ordered, 0.5) or ()))]


def _count(run: Callable[[], Any]) -> int:
    """Return how many runs fill a round; they warm up as well."""
    for _ in range(3):
        run()
    once = _milliseconds(run, 5) / 1e3
    return max(3, int(ROUND_SECONDS / once))


def _milliseconds(run: Callable[[], Any], count: int) -> float:
    import torch

    if not torch.cuda.is_available():
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) / count * 1e3
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    for _ in range(count):
        run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / count


def warm(name: str) -> None:
    """Compile for every precision and batch, so that ``measure`` finds the kernels on disk."""
    network = Network(name)
    for batch in BATCHES:
        feeds, _ = network.at(batch)
        for precision in ("float32", "float16"):
            network.compiled(feeds, precision)


def main() -> None:
    """Do the job of the command line."""
    import torch

    job, name, folder, *compile_too = sys.argv[1:]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "CPU"
    if torch.cuda.is_available():
        torch.cuda.set_stream(torch.cuda.Stream())
        device = torch.cuda.get_device_name()
    started = time.perf_counter()
    with torch.no_grad():
        if job == "warm":
            warm(name)
            return
        for row in measure(name, Path(folder), compile_too=bool(compile_too)):
            spent = round(time.perf_counter() - started, 1)
            print(json.dumps({**row, "device": device, "seconds": spent}), flush=True)
            started = time.perf_counter()


if __name__ == "__main__":
    main()
