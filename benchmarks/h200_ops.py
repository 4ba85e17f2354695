"""Custom ops on a GPU: every tactic timed, against the copy bandwidth, torch and torch.compile.

    python benchmarks/h200_ops.py [--only NAME ...] [--out benchmarks/results/h200_ops.json]

Each case checks the kernel's result against PyTorch's first. Times are medians in milliseconds of
many launches on warm caches (triton.testing.do_bench, which clears the L2 cache before each).
"share" is the floor (bytes that must move / measured copy bandwidth) over the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trtforge_ops as ops
from torch.nn import functional
from triton.testing import do_bench

from trtforge import CustomOp, Tactic
from trtforge.kernels import compile_kernel
from trtforge.op_testing import entry_of, launches, load_module
from trtforge.targets import read_target

HALF = torch.float16
TORCH = {"float16": HALF, "float32": torch.float32, "bfloat16": torch.bfloat16,
         "int8": torch.int8, "float8e4m3fn": torch.float8_e4m3fn}  # fmt: skip


@dataclass
class Case:
    """One op at one size, and the same in PyTorch."""

    name: str
    op: CustomOp
    inputs: tuple[torch.Tensor, ...]
    peer: Callable[..., Any]
    tolerance: float = 2e-3
    peer_inputs: tuple[torch.Tensor, ...] | None = None
    extra_bytes: int = 0


@dataclass
class Result:
    """What was measured of a case; milliseconds."""

    name: str
    floor: float
    ours: float
    tactic: Mapping[str, int]
    default: float
    eager: float
    compiled: float
    worst: float
    all: dict[str, float] = field(default_factory=dict)


def random(*shape: int, dtype: torch.dtype = HALF, scale: float = 1.0) -> torch.Tensor:
    """Return normal numbers on the GPU."""
    return (torch.randn(*shape, device="cuda") * scale).to(dtype)


def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Root mean square normalization, computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * w.float()).to(x.dtype)


def add_rms(x: torch.Tensor, r: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the normalized sum, and the sum."""
    total = x + r
    return rms(total, w), total


def swiglu(g: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up."""
    half = g.shape[-1] // 2
    return functional.silu(g[..., :half]) * g[..., half:]


def rope(q: torch.Tensor, c: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Rotate [batch, positions, heads, size]."""
    c, s = torch.cat((c, c), -1)[:, None], torch.cat((s, s), -1)[:, None]
    a, b = q.chunk(2, -1)
    return q * c + torch.cat((-b, a), -1) * s


def group_norm(y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return SiLU of the group norm, channels first."""
    return functional.silu(functional.group_norm(y, 32, w, b))


def group_norm_nhwc(y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return SiLU of the group norm, channels last."""
    return functional.silu(functional.group_norm(y.permute(0, 3, 1, 2), 32, w, b)).permute(
        0, 2, 3, 1
    )


SCORES = {"small": (1, 8, 512), "medium": (4, 16, 1024), "large": (1, 4, 4096)}
IMAGES = {"small": (1, 320, 64), "medium": (2, 640, 64), "large": (8, 320, 128)}
SEQUENCES = {"small": (1, 512), "medium": (2, 2048), "large": (8, 4096)}
SIZES = {"small": (1024, 1024), "medium": (8192, 2560), "large": (16384, 4096)}


def row_cases() -> list[Case]:
    """Return every op at three sizes."""
    cases = []
    for size, (rows, columns) in SIZES.items():
        x, r = random(rows, columns), random(rows, columns)
        w, b, g = random(columns), random(columns), random(rows, 2 * columns)
        by = torch.tensor(2.0, device="cuda")
        scale = torch.tensor(1 / 0.03, device="cuda")
        cases += [
            Case(f"rms_norm {size}", ops.RMSNorm(), (x, w), rms),
            Case(f"add_rms_norm {size}", ops.AddRMSNorm(), (x, r, w), add_rms),
            Case(f"layer_norm {size}", ops.LayerNorm(), (x, w, b),
                 lambda x, w, b: functional.layer_norm(x, (x.shape[-1],), w, b)),
            Case(f"bias_gelu {size}", ops.BiasGelu(approximate="tanh"), (x, b),
                 lambda x, b: functional.gelu(x + b, approximate="tanh"), 4e-3),
            Case(f"swiglu {size}", ops.GatedActivation(), (g,), swiglu, 4e-3),
            Case(f"quantize_int8 {size}", ops.QuantizeInt8(), (x * 30, scale),
                 lambda x, s: torch.clamp(torch.round(x.float() / s), -128, 127).to(torch.int8)),
            Case(f"rms_norm_quantize {size}", ops.RMSNormQuantize(), (x, w, by),
                 lambda x, w, s: (rms(x, w).float() / s).to(torch.float8_e4m3fn), 0.07),
        ]  # fmt: skip
    for size, (batch, heads, length) in {
        "small": (1, 8, 512),
        "medium": (4, 16, 1024),
        "large": (1, 4, 4096),
    }.items():
        x, mask = (
            random(batch, heads, length, length),
            torch.zeros(batch, 1, length, length, dtype=HALF, device="cuda"),
        )
        mask[..., length // 2 :] = -1.0
        cases.append(Case(f"softmax {size}", ops.MaskedSoftmax(), (x, mask),
                          lambda x, m: functional.softmax(x + m, -1)))  # fmt: skip
        one = torch.zeros(batch, 1, 1, length, dtype=HALF, device="cuda")
        cases.append(Case(f"softmax_row_mask {size}", ops.MaskedSoftmax(), (x, one),
                          lambda x, m: functional.softmax(x + m, -1)))  # fmt: skip
    for size, (n, c, s) in {
        "small": (1, 320, 64),
        "medium": (2, 640, 64),
        "large": (8, 320, 128),
    }.items():
        y, w, b = random(n, c, s, s), random(c), random(c)
        nhwc = y.permute(0, 2, 3, 1).contiguous()
        cases += [
            Case(f"group_norm_silu_nchw {size}", ops.GroupNorm(activation="silu"),
                 (y, w, b), group_norm, 6e-3),
            Case(f"group_norm_silu_nhwc {size}", ops.GroupNormNHWC(activation="silu"),
                 (nhwc, w, b), group_norm_nhwc, 6e-3),
            Case(f"instance_norm {size}", ops.InstanceNorm(), (y, w, b),
                 lambda y, w, b: functional.instance_norm(y, weight=w, bias=b), 6e-3),
        ]  # fmt: skip
    for size, (n, length) in SEQUENCES.items():
        q, c, s = random(n, length, 32, 128), random(length, 64), random(length, 64)
        cases.append(
            Case(f"rope {size}", ops.RotaryEmbedding(heads_last=True), (q, c, s), rope, 6e-3)
        )
    return cases


def tactics(op: CustomOp, dtype: str, shapes: tuple[tuple[int, ...], ...]) -> list[Tactic]:
    """Return the tactics worth trying: for rows those that hold a row, or nearly."""
    names = list(op.tactics)
    every = [
        dict(zip(names, each, strict=True)) for each in itertools.product(*op.tactics.values())
    ]
    default = op.tactic(dtype, shapes)
    if "lanes" not in names:
        return every
    held = default["lanes"] * default["items"]
    return [t for t in every if t["lanes"] * t["items"] in (held, 2 * held, held // 2)]


class Launcher:
    """Launches one compiled tactic on tensors that stay where they are."""

    def __init__(self, case: Case, tactic: Tactic) -> None:
        op, shapes = case.op, tuple(tuple(t.shape) for t in case.inputs)
        results = op.shapes(*shapes)
        dtype = next(k for k, v in TORCH.items() if v == case.inputs[0].dtype)
        target = read_target("".join(map(str, torch.cuda.get_device_capability())))
        kernel = compile_kernel(op, dtype, target, tactic=tactic)
        self.module = load_module(kernel.cubin)
        kinds = [TORCH[port.type_for(dtype)] for port in op.output_ports()]
        self.outputs = [
            torch.empty(shape, dtype=kind, device="cuda")
            for shape, kind in zip(results, kinds, strict=True)
        ]
        size = op.workspace(shapes, results)
        self.scratch = torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")
        self.calls = []
        for launch in launches(op, shapes, results, tactic):
            function = self.module.get_function(entry_of(kernel, launch))
            function.max_dynamic_shared_size_bytes = launch.shared_bytes
            pointers = [np.uint64(t.data_ptr()) for t in case.inputs]
            scalars = [np.int32(value) for value in launch.scalars]
            outs = [np.uint64(t.data_ptr()) for t in self.outputs]
            work = [np.uint64(self.scratch.data_ptr())] if size else []
            arguments = (*pointers, *scalars, *outs, *work)
            self.calls.append(
                (function, (launch.grid,), (launch.block,), arguments, launch.shared_bytes)
            )

    def __call__(self) -> None:
        """Launch all kernels of the op."""
        for function, grid, block, arguments, shared in self.calls:
            function(grid, block, arguments, shared_mem=shared)


def median(run: Callable[[], Any], rep: int = 60) -> float:
    """Return the median time of ``run`` in milliseconds."""
    return float(do_bench(run, warmup=15, rep=rep, return_mode="median"))


def copy_bandwidth() -> float:
    """Return the bandwidth of a large copy: bytes read and written per second."""
    a = torch.randn(2**29, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    return a.numel() * 4 / median(lambda: b.copy_(a), 200) * 1e3


def worst_error(ours: list[torch.Tensor], expected: Any) -> float:
    """Return the largest difference, relative to 1 + the expected magnitude."""
    expected = expected if isinstance(expected, tuple) else (expected,)
    errors = []
    for a, b in zip(ours, expected, strict=True):
        difference = (a.float() - b.float()).abs() / (1 + b.float().abs())
        errors.append(float(difference.max()))
    return max(errors)


def measure(case: Case, bandwidth: float, *, compiled_too: bool) -> Result:
    """Time every tactic of one case, and PyTorch."""
    peer_inputs = case.peer_inputs or case.inputs
    times: dict[str, float] = {}
    worst, best = 0.0, None
    shapes = tuple(tuple(t.shape) for t in case.inputs)
    dtype = next(k for k, v in TORCH.items() if v == case.inputs[0].dtype)
    expected = case.peer(*peer_inputs)
    for tactic in tactics(case.op, dtype, shapes):
        launcher = Launcher(case, tactic)
        launcher()
        error = worst_error(launcher.outputs, expected)
        worst = max(worst, error)
        if not error <= case.tolerance:
            raise AssertionError(f"{case.name} {tactic}: off by {error}")
        key = " ".join(f"{k}={v}" for k, v in tactic.items())
        times[key] = median(launcher)
        if best is None or times[key] < times[best[0]]:
            best = (key, tactic)
    assert best is not None
    default = " ".join(f"{k}={v}" for k, v in case.op.tactic(dtype, shapes).items())
    outputs = launcher.outputs
    nbytes = sum(t.numel() * t.element_size() for t in (*case.inputs, *outputs)) + case.extra_bytes
    eager = median(lambda: case.peer(*peer_inputs))
    compiled = float("nan")
    if compiled_too:
        torch.compiler.reset()
        function = torch.compile(case.peer, mode="max-autotune-no-cudagraphs")
        function(*peer_inputs)
        compiled = median(lambda: function(*peer_inputs))
    again = Launcher(case, best[1])
    ours = median(again, 120)
    return Result(
        case.name,
        nbytes / bandwidth * 1e3,
        ours,
        best[1],
        times[default],
        eager,
        compiled,
        worst,
        times,
    )


def describe(r: Result) -> str:
    """Return one line: milliseconds, and the share of the floor in them."""
    times = {"ours": r.ours, "default": r.default, "eager": r.eager, "compiled": r.compiled}
    shares = " ".join(f"{name} {ms:.4f} ({r.floor / ms:.2f})" for name, ms in times.items())
    return f"{r.name:28} floor {r.floor:.4f} {shares} {dict(r.tactic)} error {r.worst:.1e}"


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    print(f"copy: {bandwidth / 1e9:.0f} GB/s", flush=True)
    results = []
    for case in row_cases():
        if args.only and not any(case.name.startswith(name) for name in args.only):
            continue
        try:
            r = measure(case, bandwidth, compiled_too=not args.no_compile)
        except Exception as error:  # noqa: BLE001  # one kernel's failure must not cost the others' times
            print(f"{case.name}: FAILED {type(error).__name__}: {error}"[:600], flush=True)
            continue
        results.append(r)
        print(describe(r), flush=True)
    if args.out:
        record = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": torch.cuda.get_device_name(),
            "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
            "copy_gb_per_s": bandwidth / 1e9,
            "results": [asdict(r) for r in results],
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
