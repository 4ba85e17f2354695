"""Bitwise operators on integers: TensorRT has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]
Operator = Literal["and", "or", "xor"]


@dataclass(frozen=True)
class Bitwise(CustomOp):
    """``y = a & b``, ``a | b`` or ``a ^ b``; ``b`` has the shape of ``a``, or one element."""

    name = "trtforge::Bitwise"
    inputs = ("a", "b")
    outputs = ("y",)
    dtypes = ("int32", "int64", "uint8", "int8")
    kernel = "bitwise.cu.jinja"
    since = 18
    tactics: ClassVar = {"block": (256, 128, 512), "items": (4, 1, 8)}
    function = """
        y = Bitwise{{ operator | capitalize }} (a, b)
    """

    operator: Operator = "and"
    """What is done with each pair of bits."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``a``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """``items`` elements per thread, ``block`` apart."""
        size = prod(inputs[0])
        grid = max(1, ceil_div(size, tactic["block"] * tactic["items"]))
        return Launch(grid, tactic["block"], (size, int(prod(inputs[1]) != 1)))

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Ask NumPy."""
        name = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[self.operator]
        return (name(*inputs),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's BitwiseAnd, -Or and -Xor of one shape, or with one number."""
        operators: dict[str, Operator] = {
            "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
        }  # fmt: skip
        if node.domain or node.op_type not in operators:
            return None
        first, second = (None if v is None else v.shape for v in node.inputs)
        if first is None or second is None or not second.is_static():
            return "the shapes of its inputs are not known"
        if first != second and prod(second.numpy()) != 1:
            return "its inputs are of different shapes"
        return Substitute(cls(operators[node.op_type]), (0, 1))

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls("and"), [(3, 5, 7), (3, 5, 7)]),
            Example(cls("or"), [(4, 64), ()]),
            Example(cls("xor"), [(64,), (64,)]),
            Example(cls(), [(64, 1024, 1024), (64, 1024, 1024)], timed=True),
        ]
