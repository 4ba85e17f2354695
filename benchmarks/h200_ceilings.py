"""The two ceilings of a GPU as measured: how fast memory is copied, and matrices multiplied.

    python benchmarks/h200_ceilings.py [--size 8192] [--out benchmarks/results/h200_ceilings.json]

Needs an NVIDIA GPU, torch and nvidia-ml-py. A copy counts bytes read and written; a product counts
two operations for each multiply-accumulate. Matrices are square, drawn at random (products of zeros
run faster), and larger than the L2 cache. Times are medians of CUDA events with 95 % confidence
intervals; clocks, power and throttling are NVML's samples of the same time.

Two things that the step ``advise`` speaks of are measured as well: float16 products with one
dimension less by one, so that it is no multiple of 8, and how long a kernel that does next to
nothing takes, launched by itself and within a CUDA graph.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from trtforge_plugins.profiling.gpu_samples import sampled

from trtforge.environment import environment
from trtforge.timing_statistics import interval

RESULT = Path(__file__).parent / "results" / "h200_ceilings.json"
COPIED = 2**31  # bytes
WARM_UP, RUNS = 10, 60
CHAIN = 200  # kernels in a row


def seconds(run: Callable[[], object]) -> list[float]:
    """Return the sorted times of ``RUNS`` runs."""
    for _ in range(WARM_UP):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(RUNS)]
    for first, last in events:
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return sorted(first.elapsed_time(last) / 1e3 for first, last in events)


def products(size: int) -> dict[str, Callable[[], Tensor]]:
    """Return a product of two square matrices for each type."""
    left, right = (torch.randn(size, size, device="cuda") for _ in range(2))
    made: dict[str, Callable[[], Tensor]] = {}
    for name, tf32 in (("float32", False), ("tf32", True)):
        made[name] = lambda tf32=tf32: _product(left, right, tf32=tf32)
    for name in ("float16", "bfloat16"):
        a, b = (each.to(getattr(torch, name)) for each in (left, right))
        made[name] = lambda a=a, b=b: a @ b
    a, b = (each.mul(32).round().clamp(-127, 127).to(torch.int8) for each in (left, right))
    made["int8"] = lambda a=a, b=b: torch._int_mm(a, b.t())  # noqa: SLF001  # it has no public name
    c, d = (each.to(torch.float8_e4m3fn) for each in (left, right))
    one = torch.ones((), device="cuda")
    made["float8e4m3fn"] = lambda: torch._scaled_mm(  # noqa: SLF001  # it has no public name
        c, d.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return made


def _product(left: Tensor, right: Tensor, *, tf32: bool) -> Tensor:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return left @ right


def unaligned(size: int) -> dict[str, dict[str, Any]]:
    """Return the rate of float16 products with all dimensions of ``size``, and with one less."""
    found = {}
    sizes = {"none": (0, 0, 0), "rows": (1, 0, 0), "summed": (0, 1, 0), "columns": (0, 0, 1)}
    for name, (rows, summed, columns) in sizes.items():
        a = torch.randn(size - rows, size - summed, device="cuda", dtype=torch.float16)
        b = torch.randn(size - summed, size - columns, device="cuda", dtype=torch.float16)
        work = 2 * (size - rows) * (size - summed) * (size - columns) / 1e12
        found[name] = measured(work, lambda a=a, b=b: a @ b)
    return found


def launches() -> dict[str, float]:
    """Return the microseconds of one kernel on 32 numbers, launched by itself and in a graph."""
    values = torch.zeros(32, device="cuda")

    def chain() -> None:
        for _ in range(CHAIN):
            values.add_(1.0)

    chain()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chain()
    alone, together = (median(seconds(run)) / CHAIN * 1e6 for run in (chain, graph.replay))
    return {"launched": alone, "in a CUDA graph": together}


def measured(amount: float, run: Callable[[], object]) -> dict[str, Any]:
    """Return the amount per second, and what the GPU did meanwhile."""
    with sampled() as gpu:
        try:
            found = seconds(run)
        except RuntimeError as error:  # that this GPU or torch has no such product is the result
            return {"reason": str(error).splitlines()[0]}
        notes = gpu()
    ends = interval(found, 0.5)
    return {
        "rate": amount / median(found),
        "interval": [amount / each for each in reversed(ends)] if ends else None,
        "milliseconds": median(found) * 1e3,
        "notes": notes,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    source, target = (torch.ones(COPIED, dtype=torch.uint8, device="cuda") for _ in range(2))
    copy = measured(2 * COPIED / 1e9, lambda: target.copy_(source))
    work = 2 * options.size**3 / 1e12
    rates = {name: measured(work, run) for name, run in products(options.size).items()}
    driver = environment().driver
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(),
        "driver": driver,
        "versions": {"torch": version("torch"), "cuda": torch.version.cuda},
        "size": options.size,
        "copy_gb_per_s": copy,
        "tera_operations_per_s": rates,
        "float16 products with a dimension less by one": unaligned(options.size),
        "microseconds_of_a_launch": launches(),
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
