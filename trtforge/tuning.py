"""What ``trtforge op bench`` found: the fastest tactic of an op, for a GPU and a class of sizes.

A finding is a file of its own, named by everything that decides it: compute capability, op with
attributes, type, code of the kernel, GPU, driver, sizes. An edited kernel or another driver
therefore finds nothing. A build asks for all findings of a target, because no GPU need be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.cache import default_root
from trtforge.kernels import code_digest
from trtforge.op_attributes import write_op
from trtforge.store import atomic_file, digest

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Shape, Tactic


@dataclass(frozen=True)
class Device:
    """A GPU and its driver."""

    name: str
    sm: int
    """Compute capability times ten."""
    driver: str


@dataclass(frozen=True)
class Tuned:
    """The fastest tactic at some sizes."""

    tactic: Tactic
    milliseconds: float
    shapes: tuple[Shape, ...]


def size_class(shapes: Sequence[Shape]) -> str:
    """Return the class of sizes that share a tactic: each dimension as its next power of two.

    ``"8192x4096 4096"`` for shapes (8000, 4096) and (4096,); a scalar is ``"1"``.
    """
    return " ".join("x".join(str(_power(size)) for size in shape) or "1" for shape in shapes)


def _power(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def within(name: str, smallest: Sequence[Shape], largest: Sequence[Shape]) -> bool:
    """Whether a class of sizes lies between two shapes for each input."""
    low, own, high = map(_numbers, (size_class(smallest), name, size_class(largest)))
    return [len(each) for each in low] == [len(each) for each in own] and all(
        a <= b <= c
        for lows, owns, highs in zip(low, own, high, strict=True)
        for a, b, c in zip(lows, owns, highs, strict=True)
    )


def _numbers(name: str) -> list[list[int]]:
    return [list(map(int, part.split("x"))) for part in name.split()]


class Tuning:
    """A folder of findings; many processes may share it.

    Args:
        root: The folder; None: ``tuning`` in trtforge's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = default_root() / "tuning" if root is None else root

    def save(self, device: Device, op: CustomOp, dtype: str, tuned: Tuned) -> Path:
        """Keep a finding, in place of an earlier one for the same device and class of sizes."""
        name = size_class(tuned.shapes)
        owner = re.sub(r"[^\w.]+", "-", f"{device.name}-{device.driver}")
        place = self._folder(op, dtype, device.sm) / f"{owner}.{digest(name.encode())[:16]}.json"
        data = {
            "op": op.name, "dtype": dtype, "device": asdict(device), "sizes": name,
            "tactic": dict(tuned.tactic), "milliseconds": tuned.milliseconds,
            "shapes": tuned.shapes,
        }  # fmt: skip
        with atomic_file(place) as file:
            file.write(json.dumps(data, indent=1).encode())
        return place

    def find(self, op: CustomOp, dtype: str, sm: int) -> dict[str, Tactic]:
        """Return the fastest tactic by class of sizes, on any GPU of a compute capability.

        Where several GPUs or drivers were measured, the latest finding counts. What is damaged, or
        is no tactic of the op any more, is left out.
        """
        files = sorted(self._folder(op, dtype, sm).glob("*.json"), key=_time)
        return {name: tactic for name, tactic in map(_read, files) if _fits(op, tactic)}

    def digest(self) -> str:
        """Return a hash of all findings, which decide what a build makes; empty: there are none."""
        files = sorted(self.root.rglob("*.json"))
        parts = [f"{path.name} {_time(path)}" for path in files]
        return digest("\n".join(parts).encode()) if parts else ""

    def _folder(self, op: CustomOp, dtype: str, sm: int) -> Path:
        key = digest("\0".join((write_op(op), dtype, code_digest(op))).encode())
        return self.root / f"sm_{sm}" / key


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read(path: Path) -> tuple[str, Mapping[str, Any]]:
    try:
        data = json.loads(path.read_bytes())
        return str(data["sizes"]), dict(data["tactic"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", {}


def _fits(op: CustomOp, tactic: Mapping[str, Any]) -> bool:
    return tactic.keys() == op.tactics.keys() and all(
        choice in op.tactics[name] for name, choice in tactic.items()
    )
