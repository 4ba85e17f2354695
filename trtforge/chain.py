"""A model in parts that run one after another, each an engine of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trtforge.artifacts import Artifact, Engine

Loading = Literal["all", "one"]


@dataclass(frozen=True)
class ChainPart(Artifact):
    """One part of a model."""

    model: Path
    """Its ONNX file."""
    inputs: tuple[str, ...]
    """Inputs of the model, or outputs of earlier parts."""
    outputs: tuple[str, ...]
    """Outputs of the model, or inputs of later parts."""
    profiles: tuple[Mapping[str, str], ...]
    """Shape range of each dynamic input, one mapping for each optimization profile."""
    between: int
    """Bytes, at the largest shapes, of the tensors from part to part that the caller keeps while
    this one runs."""
    engine: Engine | None = None
    """What was built of it."""

    @property
    def activation(self) -> int | None:
        """The engine's block and what the caller keeps beside it; None before it is built."""
        found = self.engine.memory.activation if self.engine else None
        return None if found is None else found + self.between

    @property
    def weights(self) -> int | None:
        """Weights and persistent memory of the engine; None before it is built."""
        memory = self.engine.memory if self.engine else None
        if memory is None or memory.weights is None:
            return None
        return memory.weights + (memory.device_persistent or 0)


@dataclass(frozen=True)
class Chain(Artifact):
    """The parts of a model in the order in which they run."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: tuple[ChainPart, ...]
    loading: Loading = "all"
    """Whether all engines stay on the GPU, or each is loaded when its turn comes."""

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines of the parts, as far as they are built."""
        return tuple(part.engine for part in self.parts if part.engine is not None)

    @property
    def size(self) -> int | None:
        """Bytes of all engine files; None before all are built."""
        if len(self.engines) < len(self.parts):
            return None
        return sum(engine.size for engine in self.engines)

    @property
    def activation(self) -> int | None:
        """The most that tensors need while one part runs; the parts share one block."""
        blocks = [part.activation for part in self.parts]
        known = [block for block in blocks if block is not None]
        return max(known) if known and len(known) == len(blocks) else None

    @property
    def total(self) -> int | None:
        """The most GPU memory in use: :attr:`activation`, and the weights that are loaded."""
        pairs = [(part.activation, part.weights) for part in self.parts]
        known = [(block, held) for block, held in pairs if block is not None and held is not None]
        if not known or len(known) < len(pairs):
            return None
        if self.loading == "one":
            return max(block + held for block, held in known)
        return max(block for block, _ in known) + sum(held for _, held in known)
