"""Custom ops on a GPU: every tactic timed, against the copy bandwidth, torch and torch.compile.

    python benchmarks/h200_ops.py [--only NAME ...] [--sizes small medium large]
        [--out benchmarks/results/h200_ops.json]

Each tactic's result is compared with PyTorch's first. Then its launches, on several sets of inputs
and outputs that together do not fit the L2 cache, are captured in a CUDA graph with one set after
the other, and so are PyTorch's: the time of one is the median over replays of the graph, by CUDA
events, divided by the launches. The fastest tactic, eager PyTorch and torch.compile then take turns
for three rounds, whose median counts. "share" is the floor (bytes that must move / measured
bandwidth of a copy of 1 GiB) over the time. What waits for the CPU (torchvision's NMS) is timed
call by call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import torch
from h200_op_cases import HALF, Case, Tensors, every_case

from trtforge import CustomOp, Tactic
from trtforge.kernels import Kernel, compile_kernel
from trtforge.op_attributes import write_op
from trtforge.op_testing import entry_of, load_module
from trtforge.ops import cut_to_counts, launches
from trtforge.targets import read_target

TORCH = {"float16": HALF, "float32": torch.float32, "bfloat16": torch.bfloat16,
         "int8": torch.int8, "int32": torch.int32, "int64": torch.int64, "bool": torch.bool,
         "float8e4m3fn": torch.float8_e4m3fn}  # fmt: skip
CACHE_BYTES = 3 * 60 * 2**20
"""Three times the L2 cache of an H200: what a rotation of buffers must exceed."""
MOST_TACTICS = 80
MODE = "max-autotune-no-cudagraphs"
"""Of torch.compile: both sides are captured in graphs."""


@dataclass
class Result:
    """What was measured of a case; milliseconds."""

    name: str
    floor: float
    ours: float
    tactic: dict[str, int]
    default: float
    eager: float
    compiled: float | None
    worst_error: float
    tactics: dict[str, float] = field(default_factory=dict)


def shapes_of(inputs: Tensors) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of tensors."""
    return tuple(tuple(t.shape) for t in inputs)


def dtype_of(case: Case, inputs: Tensors) -> str:
    """Return ONNX's name of the type that stands for T."""
    given = zip(case.op.input_ports(), inputs, strict=True)
    kind = next(t.dtype for port, t in given if port.dtype == "T")
    return next(name for name, known in TORCH.items() if known == kind)


def tactics(op: CustomOp, dtype: str, shapes: Any) -> list[Tactic]:
    """Return the tactics worth trying: for rows those that hold a row, or nearly."""
    names = list(op.tactics)
    every = [
        dict(zip(names, each, strict=True)) for each in itertools.product(*op.tactics.values())
    ]
    default = dict(op.tactic(dtype, shapes))
    if "lanes" in names:
        held = default["lanes"] * default["items"]
        packs = [t["lanes"] * (t["items"] + t.get("kept", 0)) for t in every]
        every = [t for t, n in zip(every, packs, strict=True) if held <= n <= 2 * held]
    return [default, *(t for t in every if t != default)][:MOST_TACTICS]


@lru_cache(maxsize=8)
def loaded(cubin: bytes) -> Any:
    """Return the module of a kernel: one for all sets of buffers, as an engine has one."""
    return load_module(cubin)


class Launcher:
    """Launches one compiled tactic on tensors that stay where they are."""

    def __init__(self, case: Case, inputs: Tensors, tactic: Tactic, kernel: Kernel) -> None:
        self.op = op = case.op
        shapes, dtype = shapes_of(inputs), dtype_of(case, inputs)
        results = op.shapes(*shapes)
        self.module = loaded(kernel.cubin)
        self.outputs = [
            torch.empty(shape, dtype=TORCH[port.type_for(dtype)], device="cuda")
            for shape, port in zip(results, op.output_ports(), strict=True)
        ]
        self.counts = [torch.empty(1, dtype=torch.int32, device="cuda") for _ in op.counted]
        size = op.workspace(shapes, results)
        self.scratch = [torch.empty(size, dtype=torch.uint8, device="cuda")] if size else []
        self.calls = []
        for launch in launches(op, shapes, results, tactic):
            function = self.module.get_function(entry_of(kernel, launch))
            function.max_dynamic_shared_size_bytes = launch.shared_bytes
            behind = (*self.outputs, *self.counts, *self.scratch)
            arguments = (
                *(np.uint64(t.data_ptr()) for t in inputs),
                *(np.int32(value) for value in launch.scalars),
                *(np.uint64(t.data_ptr()) for t in behind),
            )
            grid, block = (launch.grid,), (launch.block,)
            self.calls.append((function, grid, block, arguments, launch.shared_bytes))

    def __call__(self) -> list[torch.Tensor]:
        """Launch all kernels of the op on PyTorch's stream."""
        with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
            for function, grid, block, arguments, shared in self.calls:
                function(grid, block, arguments, shared_mem=shared)
        return self.outputs

    def results(self) -> list[torch.Tensor]:
        """Return the outputs, counted ones cut to their length."""
        counts = [int(count) for count in self.counts]
        return list(cut_to_counts(self.op, self.outputs, counts))


def launchers(case: Case, sets: Sequence[Tensors], tactic: Tactic, store: Path) -> list[Launcher]:
    """Return what launches a tactic, for each set of inputs."""
    kernel = compile_kernel(case.op, dtype_of(case, sets[0]), target(), store, tactic=tactic)
    return [Launcher(case, inputs, tactic, kernel) for inputs in sets]


def target() -> Any:
    """Return the compute capability of the GPU."""
    return read_target("".join(map(str, torch.cuda.get_device_capability())))


def time_graph(calls: Sequence[Callable[[], Any]], replays: int = 25) -> float:
    """Return the median time of one of ``calls``, which a graph runs one after the other."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph, kept = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]  # results stay alive, so that each has its own memory
    times = time_calls([graph.replay], replays)
    del kept
    return times / len(calls)


def time_calls(calls: Sequence[Callable[[], Any]], repeats: int) -> float:
    """Return the median time of one of ``calls``, each timed by itself."""
    for call in calls:
        call()
    times = []
    for _ in range(repeats):
        for call in calls:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def time_all(case: Case, calls: Sequence[Callable[[], Any]]) -> float:
    """Time PyTorch's or our calls in the way that the case allows."""
    return time_graph(calls) if case.graph else time_calls(calls, 10)


def in_turn(
    case: Case, rivals: dict[str, Sequence[Callable[[], Any]]], rounds: int = 3
) -> dict[str, float]:
    """Return the median of several rounds, in each of which all are timed one after the other."""
    taken = [{name: time_all(case, calls) for name, calls in rivals.items()} for _ in range(rounds)]
    return {name: statistics.median(one[name] for one in taken) for name in rivals}


def copy_bandwidth() -> float:
    """Return the bandwidth of a copy of 1 GiB: bytes read and written per second."""
    a = torch.randn(2**29, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    return a.numel() * 4 / time_calls([lambda: b.copy_(a)], 50) * 1e3


def worst_error(ours: list[torch.Tensor], expected: Any) -> float:
    """Return the largest difference, relative to 1 + the expected one; NaN where shapes differ."""
    expected = expected if isinstance(expected, tuple) else (expected,)
    errors = []
    for a, b in zip(ours, expected, strict=True):
        if a.shape != b.shape:
            return float("nan")
        difference = (a.float() - b.float()).abs() / (1 + b.float().abs())
        errors.append(float(difference.max()))
    return max(errors)


def bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    """Return the bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def measure(case: Case, bandwidth: float, store: Path, args: argparse.Namespace) -> Result:
    """Check and time every tactic of one case, and PyTorch."""
    first = case.make()
    choices = tactics(case.op, dtype_of(case, first), shapes_of(first))
    choices = choices[:1] if args.default_only else choices
    (probe,) = launchers(case, [first], choices[0], store)
    probe()
    nbytes = bytes_of(first) + bytes_of(probe.results())
    count = min(64, max(2, -(-CACHE_BYTES // nbytes)))
    sets = [first, *(case.make() for _ in range(count - 1))]
    expected = case.expected(first)
    times: dict[str, float] = {}
    best, worst = choices[0], 0.0
    for tactic in choices:
        started = launchers(case, sets, tactic, store)
        for output in started[0].outputs:  # what is not written shows
            output.view(torch.uint8).fill_(0xA5)
        started[0]()
        error = worst_error(started[0].results(), expected)
        worst = max(worst, error)
        if not error <= case.tolerance:
            raise AssertionError(f"{case.name} {tactic}: off by {error}")
        times[describe_tactic(tactic)] = time_all(case, started)
        if times[describe_tactic(tactic)] < times[describe_tactic(best)]:
            best = tactic
    rivals: dict[str, Sequence[Callable[[], Any]]] = {
        "ours": launchers(case, sets, best, store),
        "eager": [lambda inputs=inputs: case.peer(*inputs) for inputs in sets],
    }
    if case.compiled and not args.no_compile:
        torch.compiler.reset()
        fast = torch.compile(case.peer, mode=MODE, dynamic=False)
        fast(*first)
        rivals["compiled"] = [lambda inputs=inputs: fast(*inputs) for inputs in sets]
    taken = in_turn(case, rivals)
    return Result(
        case.name, nbytes / bandwidth * 1e3, taken["ours"], dict(best),
        times[describe_tactic(choices[0])], taken["eager"], taken.get("compiled"), worst, times,
    )  # fmt: skip


def describe_tactic(tactic: Tactic) -> str:
    """Return the tactic on one line."""
    return " ".join(f"{name}={value}" for name, value in tactic.items())


def describe(r: Result) -> str:
    """Return one line: milliseconds, and the share of the floor in them."""
    times = {"ours": r.ours, "default": r.default, "eager": r.eager, "compiled": r.compiled}
    shares = " ".join(f"{name} {ms:.4f} ({r.floor / ms:.2f})" for name, ms in times.items() if ms)
    faster = min(filter(None, (r.eager, r.compiled))) / r.ours
    return (
        f"{r.name:27} floor {r.floor:.4f} {shares} x{faster:.2f} eager x{r.eager / r.ours:.1f} "
        f"[{describe_tactic(r.tactic)}] error {r.worst_error:.0e}"
    )


def compile_one(op: CustomOp, dtype: str, tactic: Tactic, arch: str, store: Path) -> None:
    """Compile one kernel into the store."""
    compile_kernel(op, dtype, read_target(arch), store, tactic=tactic)


def compile_all(cases: Sequence[Case], store: Path, *, default_only: bool) -> None:
    """Compile what will be needed, on all cores."""
    arch = "".join(map(str, torch.cuda.get_device_capability()))
    jobs = []
    for case in cases:
        inputs = case.make()
        dtype = dtype_of(case, inputs)
        choices = tactics(case.op, dtype, shapes_of(inputs))[: 1 if default_only else None]
        jobs += [(case.op, dtype, choice, arch, store) for choice in choices]
    seen = {(write_op(job[0]), job[1], str(dict(job[2]))): job for job in jobs}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(compile_one, *job) for job in seen.values()]:
            job.result()


def compile_peer(name: str, sizes: list[str]) -> None:
    """Let torch.compile fill its cache for one case."""
    case = next(case for case in every_case(sizes) if case.name == name)
    torch.compile(case.peer, mode=MODE, dynamic=False)(*case.make())


def compile_peers(cases: Sequence[Case], sizes: list[str]) -> None:
    """Compile PyTorch's functions side by side; which were fastest meanwhile is forgotten."""
    names = [case.name for case in cases if case.compiled]
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(compile_peer, name, sizes) for name in names]:
            job.exception()  # it will fail again where it is measured
    for choice in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.best_config"):
        choice.unlink()


def driver() -> str:
    """Return the version of the NVIDIA driver."""
    import pynvml

    pynvml.nvmlInit()
    return str(pynvml.nvmlSystemGetDriverVersion())


def record(bandwidth: float, results: list[Result]) -> dict[str, Any]:
    """Return what is kept of a run."""
    import torchvision
    import triton

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python benchmarks/h200_ops.py",
        "device": torch.cuda.get_device_name(),
        "driver": driver(),
        "versions": {
            "torch": torch.__version__, "torchvision": torchvision.__version__,
            "triton": triton.__version__, "cupy": cupy.__version__, "cuda": torch.version.cuda,
        },
        "copy_gb_per_s": bandwidth / 1e9,
        "unit": "milliseconds, medians of graph replays over buffers larger than the L2 cache",
        "results": [asdict(r) for r in results],
    }  # fmt: skip


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of names")
    parser.add_argument("--sizes", nargs="*", default=["small", "medium", "large"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--default-only", action="store_true", help="only what is not tuned")
    args = parser.parse_args()
    torch.manual_seed(0)
    start = time.perf_counter()
    cases = [
        case
        for case in every_case(args.sizes)
        if not args.only or any(case.name.startswith(name) for name in args.only)
    ]
    bandwidth = copy_bandwidth()
    print(f"copy: {bandwidth / 1e9:.0f} GB/s", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/inductor")
        compile_all(cases, Path(folder), default_only=args.default_only)
        if not args.no_compile:
            compile_peers(cases, args.sizes)
        print(f"compiled: {time.perf_counter() - start:.0f} s", flush=True)
        for case in cases:
            try:
                results.append(measure(case, bandwidth, Path(folder), args))
            except Exception as error:  # noqa: BLE001  # one kernel's failure must not cost the others' times
                print(f"{case.name}: FAILED {type(error).__name__}: {error}"[:600], flush=True)
                continue
            print(describe(results[-1]), flush=True)
            torch.cuda.empty_cache()
            if args.out:  # each time, so that a later failure costs no times
                args.out.write_text(json.dumps(record(bandwidth, results), indent=1) + "\n")


if __name__ == "__main__":
    main()
