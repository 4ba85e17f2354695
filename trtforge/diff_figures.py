"""The numbers of the whole that two engines have, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtforge.subject import Subject

WORK = "_macs"
"""How the names of the figures of work by type end: ``int8_macs``."""


@dataclass(frozen=True)
class Figure:
    """One number of the whole, before and after."""

    name: str
    before: float
    after: float
    unit: str = ""
    """``ms``, ``B`` or none."""

    @property
    def change(self) -> float:
        """The difference."""
        return self.after - self.before


def figures(before: Subject, after: Subject) -> Iterator[Figure]:
    """Yield the numbers that both sides have, and the work in each type that one of them has."""
    first, second = _facts(before), _facts(after)
    for name, (value, unit) in first.items():
        if name in second:
            yield Figure(name, value, second[name][0], unit)
    work = _work(before), _work(after)
    for dtype in {**work[0], **work[1]}:
        yield Figure(f"{dtype}{WORK}", work[0][dtype], work[1][dtype])


def _facts(subject: Subject) -> dict[str, tuple[float, str]]:
    found, engine = subject.prediction, subject.engine
    roles = Counter(layer.role for layer in found.layers)
    facts: dict[str, tuple[float, str]] = {}
    if subject.timings is not None:
        facts["latency"] = subject.timings.median_ms, "ms"
    facts |= {
        "floor": (found.floor_ms, "ms"),
        "in_turn": (found.serial_ms, "ms"),
        "layers": (len(found.layers), ""),
        "launches": (found.launches, ""),
        "moves": (roles["moves"], ""),
        "quantizers": (roles["quantizes"], ""),
        "moved": (sum(layer.bytes for layer in found.layers), "B"),
        "macs": (found.macs, ""),
    }
    if engine is not None and engine.flavor != "other":
        memory = engine.memory
        sizes = {
            "engine_size": engine.size,
            "activation_memory": memory.activation,
            "weights": memory.weights,
        }
        facts |= {name: (size, "B") for name, size in sizes.items() if size is not None}
    return facts


def _work(subject: Subject) -> Counter[str]:
    work: Counter[str] = Counter()
    for layer in subject.prediction.layers:
        if layer.macs:
            work[layer.dtype] += layer.macs
    return work
