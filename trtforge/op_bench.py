"""Times the tactics of a custom op and keeps the fastest (:mod:`trtforge.tuning`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trtforge.errors import StepError
from trtforge.kernel_source import KernelError, numpy_type
from trtforge.op_testing import make_inputs, shapes_of
from trtforge.tuning import Device, Tuned, Tuning

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.ops import CustomOp, Example, Shape, Tactic


class Timer(Protocol):
    """Times kernels on a GPU."""

    @property
    def device(self) -> Device:
        """The GPU."""

    def copy_bandwidth(self) -> float:
        """Return how fast memory is copied: bytes read and written, per second."""

    def milliseconds(
        self, op: CustomOp, inputs: Sequence[Array], dtype: str, tactic: Tactic
    ) -> float:
        """Return the median time of the op's kernels, with a cold L2 cache.

        Raises:
            KernelError: it does not compile or cannot be started.
        """

    def check(self, example: Example, dtype: str, tactic: Tactic) -> str:
        """Return how the kernel differs from the reference at an example; empty: it does not."""


@dataclass(frozen=True)
class Timing:
    """A tactic and what came of it."""

    tactic: Tactic
    milliseconds: float = float("inf")
    problem: str = ""
    """Why it cannot be used; empty: it can."""


@dataclass(frozen=True)
class Benchmark:
    """An op at one size and type: all tactics, the fastest first."""

    op: CustomOp
    dtype: str
    shapes: tuple[Shape, ...]
    device: Device
    size: int
    """Bytes of the inputs and outputs: what must move at least."""
    copy_bandwidth: float
    """Bytes per second."""
    default: Tactic
    """What the op takes without tuning."""
    timings: tuple[Timing, ...]

    @property
    def best(self) -> Timing:
        """The fastest tactic that can be used."""
        return self.timings[0]

    @property
    def default_milliseconds(self) -> float:
        """The time without tuning; infinite: that tactic cannot be used."""
        return next(t.milliseconds for t in self.timings if dict(t.tactic) == dict(self.default))

    @property
    def bandwidth(self) -> float:
        """Bytes per second at the fastest tactic."""
        return self.size / self.best.milliseconds * 1e3

    @property
    def share(self) -> float:
        """The time of copying these bytes over the time taken."""
        return self.bandwidth / self.copy_bandwidth


def bench_op(
    example: Example,
    dtype: str,
    timer: Timer,
    *,
    checks: Sequence[Example] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Benchmark:
    """Time each tactic of an op.

    Args:
        example: The op and its inputs.
        dtype: The type that stands for T.
        timer: The GPU.
        checks: Small examples of the op, at which the fastest tactic must equal the reference.
        progress: Told how many tactics are timed, and of how many.

    Raises:
        StepError: no tactic can be used; the message has the first cause.
    """
    op, shapes = example.op, shapes_of(example.inputs)
    inputs = make_inputs(op, example.inputs, dtype, np.random.default_rng(0))
    default = dict(op.tactic(dtype, shapes))
    tactics, timings = list(_tactics(op, default)), list[Timing]()
    for done, tactic in enumerate(tactics):
        progress(done, len(tactics))
        try:
            timings.append(Timing(tactic, timer.milliseconds(op, inputs, dtype, tactic)))
        except KernelError as error:
            timings.append(Timing(tactic, problem=error.what))
    progress(len(tactics), len(tactics))
    ranked = _checked(sorted(timings, key=lambda each: each.milliseconds), dtype, timer, checks)
    if ranked[0].problem:
        raise StepError(
            f"custom op {op.name}: no tactic can be used for {dtype}: {ranked[0].problem}",
            remedy="`trtforge op check` says what is wrong with the kernel",
        )
    size = sum(array.nbytes for array in inputs) + sum(
        prod(shape) * numpy_type(port.type_for(dtype)).itemsize
        for shape, port in zip(op.shapes(*shapes), op.output_ports(), strict=True)
    )
    bandwidth = timer.copy_bandwidth()
    return Benchmark(
        op, dtype, shapes, timer.device, size, bandwidth, default, tuple(ranked)
    )  # fmt: skip


def keep(benchmark: Benchmark, tuning: Tuning) -> None:
    """Keep the fastest tactic for later builds and launches."""
    best = benchmark.best
    found = Tuned(best.tactic, best.milliseconds, benchmark.shapes)
    tuning.save(benchmark.device, benchmark.op, benchmark.dtype, found)


def _tactics(op: CustomOp, default: Tactic) -> Iterator[Tactic]:
    """Yield all combinations of choices, the default first."""
    yield default
    for choices in itertools.product(*op.tactics.values()):
        tactic = dict(zip(op.tactics, choices, strict=True))
        if tactic != default:
            yield tactic


def _checked(
    ranked: list[Timing], dtype: str, timer: Timer, checks: Sequence[Example]
) -> list[Timing]:
    """Put tactics that compute something else last, until the first one is right."""
    while not ranked[0].problem:
        told = (timer.check(each, dtype, ranked[0].tactic) for each in checks)
        problem = next(filter(None, told), "")
        if not problem:
            break
        wrong = Timing(ranked[0].tactic, problem=problem)
        ranked = [*ranked[1:], wrong]
    return ranked
