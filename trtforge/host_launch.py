"""Custom ops executed on the host: their kernels in memory that ends where their arrays end."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from trtforge.cache import default_root
from trtforge.host_kernels import HostKernel, compile_for_host
from trtforge.kernel_source import numpy_type
from trtforge.ops import cut_to_counts, launches

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.ops import CustomOp, Tactic

KERNELS = "kernels"
"""Folder of compiled kernels in trtforge's cache folder."""
PAGE = mmap.PAGESIZE
UNTOUCHED = 0xFF
"""What outputs and scratch memory hold before the kernel runs: NaN, and -1."""
PROT_NONE, PROT_READ = 0, 1


@dataclass(frozen=True)
class Order:
    """In which order threads run, and on which side of the arrays memory ends."""

    backwards: bool
    at_end: bool
    """Whether arrays end at a page's end, so that most are aligned to their elements only."""


ORDERS = (Order(backwards=False, at_end=False), Order(backwards=True, at_end=True))


class Guarded:
    """Memory between two pages that nobody may touch; it touches one of them.

    Args:
        size: Bytes.
        at_end: Whether it touches the page behind it; else the one before.
    """

    def __init__(self, size: int, *, at_end: bool) -> None:
        self.size = size
        room = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, room + 2 * PAGE)
        self.start = PAGE + (room - size if at_end else 0)
        self._room = (PAGE, PAGE + room)
        self._map[PAGE : PAGE + room] = bytes([UNTOUCHED]) * room
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = self._base + self.start
        self._protect(0, PAGE, PROT_NONE)
        self._protect(PAGE + room, PAGE, PROT_NONE)

    def fill(self, data: bytes) -> None:
        """Write ``data``, which nobody may change from now on."""
        self._map[self.start : self.start + self.size] = data
        self._protect(PAGE, self._room[1] - PAGE, PROT_READ)

    def read(self) -> bytes:
        """Return the content."""
        return self._map[self.start : self.start + self.size]

    def is_whole(self) -> bool:
        """Whether the rest of its pages is as it was."""
        low, high = self._room
        rest = self._map[low : self.start] + self._map[self.start + self.size : high]
        return rest.count(UNTOUCHED) == len(rest)

    def _protect(self, start: int, size: int, protection: int) -> None:
        if size and ctypes.CDLL(None, use_errno=True).mprotect(
            ctypes.c_void_p(self._base + start), ctypes.c_size_t(size), protection
        ):
            raise OSError(ctypes.get_errno(), "mprotect")


def launch_on_host(
    op: CustomOp,
    inputs: Sequence[Array],
    dtype: str,
    order: Order = ORDERS[0],
    *,
    tactic: Tactic | None = None,
) -> tuple[Array, ...]:
    """Execute the kernels of ``op`` on the CPU and return its outputs.

    The compiled kernel is kept in trtforge's cache folder.

    Args:
        op: The op with its attributes set.
        inputs: Its inputs.
        dtype: The type that stands for T.
        order: In which order threads run, and on which side of the arrays memory ends.
        tactic: Constants of the template; None: the op's own choice for these shapes.

    Raises:
        AssertionError: the kernel read or wrote outside its arrays, changed an input, waited for
            ever, or did what C++ leaves undefined.
        KernelError: the kernel does not compile.
        EnvironmentLacks: there is no C++ compiler, or CUDA's headers are not here.
    """
    shapes = tuple(array.shape for array in inputs)
    outputs = op.shapes(*shapes)
    chosen = op.tactic(dtype, shapes) if tactic is None else tactic
    kernel = compile_for_host(op, dtype, default_root() / KERNELS, tactic=chosen)
    kinds = [numpy_type(port.type_for(dtype)) for port in op.output_ports()]
    given = [Guarded(array.nbytes, at_end=order.at_end) for array in inputs]
    for memory, array in zip(given, inputs, strict=True):
        memory.fill(array.tobytes())
    results = [
        Guarded(prod(shape) * kind.itemsize, at_end=order.at_end)
        for shape, kind in zip(outputs, kinds, strict=True)
    ]
    counts = [Guarded(4, at_end=False) for _ in op.counted]
    scratch = [Guarded(op.workspace(shapes, outputs), at_end=False)]
    for launch in launches(op, shapes, outputs, chosen):
        arguments: list[ctypes.c_void_p | ctypes.c_int] = [
            *map(_pointer, given), *map(ctypes.c_int, launch.scalars), *map(_pointer, results),
            *map(_pointer, counts), *(_pointer(memory) for memory in scratch if memory.size),
        ]  # fmt: skip
        kernel.run(launch, arguments, backwards=order.backwards)
    _check_edges(op, kernel, [*results, *counts, *scratch])
    found = [
        np.frombuffer(memory.read(), kind).reshape(shape)
        for memory, kind, shape in zip(results, kinds, outputs, strict=True)
    ]
    return cut_to_counts(op, found, [int.from_bytes(c.read(), sys.byteorder) for c in counts])


def _pointer(memory: Guarded) -> ctypes.c_void_p:
    return ctypes.c_void_p(memory.address)


def _check_edges(op: CustomOp, kernel: HostKernel, written: Sequence[Guarded]) -> None:
    for memory in written:
        if not memory.is_whole():
            raise AssertionError(
                f"{op.name}: kernel {kernel.source.entry} wrote outside its output of "
                f"{memory.size} bytes"
            )
