"""A rule: how a node that TensorRT does not take is written with nodes that it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge_plugins.convert.builder import Builder


@dataclass(frozen=True)
class Refusal:
    """Why a rule leaves a node alone although TensorRT will not take it."""

    reason: str
    """A clause that follows "left alone: "."""


class Rule(ABC):
    """One rewrite of a node. Rules have no state; one object serves every model."""

    name: ClassVar[str]
    """Kebab-case; new nodes carry it as metadata, the report counts by it."""
    ops: ClassVar[tuple[str, ...]]
    """Operators that it looks at: ``Mod``, or ``com.microsoft::BiasGelu`` for other domains."""
    concerns: ClassVar[str]
    """What TensorRT does not take, in TensorRT's words where it has some, and which versions."""
    source: ClassVar[str]
    """The page of the ONNX specification that the rewrite follows."""

    @abstractmethod
    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Return one value per output of ``node``, made with ``build``.

        None in place of a value stands for an output that nobody uses. None in place of all: the
        node is none of this rule's business, TensorRT takes it as it is. A :class:`Refusal`: it
        will not take it, and neither can this rule help.
        """
