"""Times one network of ``h200_models.py``: every tool's models, and torch.compile.

    python benchmarks/h200_model_rows.py warm NAME PRECISION
    python benchmarks/h200_model_rows.py measure NAME FOLDER [--compile] [--skip N] [--launches]

``measure`` prints a row as JSON in each line, ``warm`` fills torch.compile's cache on disk. Without
a GPU it takes the CPU and its clock, so that the script can be tried.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from h200_model_files import OPS, PRECISIONS, TOOLS, architecture, inputs
from h200_model_judge import deviation, differs
from h200_model_sessions import MODES, Bound, Mode, compiled, used_memory

from trtforge.timing_statistics import interval

if TYPE_CHECKING:
    from architectures.architecture import Architecture
    from torch import Tensor, nn

PEERS = ("raw", "onnxsim", "onnxslim")
COMPILED = "torch.compile"
CASES = tuple((batch, precision) for batch in (1, 32) for precision in PRECISIONS)
"""The rows of a network, in the order in which they are measured."""
ROUNDS, ROUND_SECONDS = 25, 0.01


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


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each case from ``options.skip`` on."""
    network, feeds, truth, known = Network(name), {}, {}, 0
    for index, (batch, precision) in enumerate(CASES[options.skip :]):
        if batch != known:
            (feeds, truth), known = network.at(batch), batch
        folder = options.folder / f"{name}.{precision}"
        head = {"model": name, "precision": precision, "batch": batch}
        if not (folder / "failed.json").is_file():
            yield {**head, "reason": "no such model: its preparation failed"}
            continue
        modes = MODES[-1:] if options.launches and not index else MODES
        row = Row(network, precision, folder, (feeds, truth), modes)
        yield {**head, **row.measured(compile_too=options.compile)}
        del row
        gc.collect()


class Row:
    """All tools' models of one precision and batch.

    Args:
        network: The module.
        precision: One of ``PRECISIONS``.
        folder: Where the models are.
        data: Inputs, and torch's outputs in float32.
        modes: How they may be run, the most wanted first.
    """

    def __init__(
        self,
        network: Network,
        precision: str,
        folder: Path,
        data: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
        modes: Sequence[Mode],
    ) -> None:
        self.network, self.precision, self.folder = network, precision, folder
        self.feeds, self.truth = data
        self.failed: dict[str, str] = json.loads((folder / "failed.json").read_text())
        self.notes = [] if len(modes) > 1 else ["capturing it ended the process"]
        self.mode, self.bound = self._bind(modes)

    def _bind(self, modes: Sequence[Mode]) -> tuple[Mode, dict[str, Bound]]:
        """Start every tool's model in the first mode that takes all that run at all."""
        self._runs("raw")  # loads kernels, for which the first one would pay
        for mode in modes:
            found = {}
            for tool in (tool for tool in TOOLS if tool not in self.failed):
                try:
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

    def measured(self, *, compile_too: bool) -> dict[str, Any]:
        """Return the row: times, memory, differences; with those of torch.compile, if wanted."""
        runs: dict[str, Callable[[], Any]] = {t: self.bound[t] for t in TOOLS if t in self.bound}
        memory = {tool: bound.memory for tool, bound in self.bound.items()}
        outputs = {tool: bound.outputs() for tool, bound in self.bound.items()}
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
        exact = {name: value.cpu().numpy() for name, value in self.truth.items()}
        return {
            "run as": str(self.mode),
            "notes": self.notes,
            "failed": self.failed,
            "differs": differs(self.precision, outputs, exact),
            "error": {t: round(deviation(found, exact), 6) for t, found in outputs.items()},
            "nodes": {tool: sum(counts.values()) for tool, counts in operators.items()},
            "same nodes": [t for t in PEERS if operators.get(t) == mine],
            "memory": memory,
            **times(runs),
        }


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


def warm(name: str, precision: str) -> None:
    """Compile for every batch, so that ``measure`` finds the kernels on disk."""
    network = Network(name)
    for batch in dict(CASES):
        feeds, _ = network.at(batch)
        network.compiled(feeds, precision)


def main() -> None:
    """Do the job of the command line."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    warming = jobs.add_parser("warm")
    warming.add_argument("name")
    warming.add_argument("precision")
    measuring = jobs.add_parser("measure")
    measuring.add_argument("name")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--compile", action="store_true", help="with torch.compile")
    measuring.add_argument("--skip", type=int, default=0, help="rows that there are already")
    measuring.add_argument("--launches", action="store_true", help="the first without a CUDA graph")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "CPU"
    if torch.cuda.is_available():
        torch.cuda.set_stream(torch.cuda.Stream())
        device = torch.cuda.get_device_name()
    started = time.perf_counter()
    with torch.no_grad():
        if options.job == "warm":
            warm(options.name, options.precision)
            return
        for row in measure(options.name, options):
            spent = round(time.perf_counter() - started, 1)
            print(json.dumps({**row, "device": device, "seconds": spent}), flush=True)
            started = time.perf_counter()


if __name__ == "__main__":
    main()
