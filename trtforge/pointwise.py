"""PointwiseOp: a custom op that needs no kernel of its own, only an expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import prod
from typing import ClassVar

from trtforge.ops import CustomOp, Example, Launch, Shape, Tactic, ceil_div

PACK = 8
"""Elements that a thread handles at once, for every type: kPack in the kernel."""


@dataclass(frozen=True)
class PointwiseOp(CustomOp):
    """An op that computes each element of ``y`` from the elements of its inputs there.

    All inputs have one shape. A subclass gives ``name``, ``inputs``, ``expression``, ``function``
    and ``reference``; arithmetic is in float32 for every type.
    """

    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "pointwise.cu.jinja"
    tactics: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "block": (256, 128, 512),
        "items": (2, 1, 4),
    }
    expression: ClassVar[str]
    """CUDA: the inputs are floats, numbers and booleans among the attributes constants."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of the first input."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """Launch one block for each ``block * PACK * items`` elements."""
        del inputs
        count, block = prod(outputs[0]), tactic["block"]
        return Launch(max(1, ceil_div(count, block * PACK * tactic["items"])), block, (count,))

    def names(self) -> Mapping[str, object]:
        """Return the expression, the inputs and the constants for the template."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        constants = {name: v for name, v in values.items() if isinstance(v, bool | int | float)}
        inputs = [port.name for port in self.input_ports()]
        return {"expression": self.expression, "inputs": inputs, "constants": constants}

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing, for the attributes' defaults."""
        if any(f.default is MISSING and f.default_factory is MISSING for f in fields(cls)):
            return ()
        sizes: list[Shape] = [(3, 5, 7), (4, 64), (0, 8)]
        small = [Example(cls(), [shape] * len(cls.inputs)) for shape in sizes]
        return [*small, Example(cls(), [(8192, 4096)] * len(cls.inputs), timed=True)]
