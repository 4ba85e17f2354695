"""GatedActivation: SwiGLU and GeGLU (Shazeer, 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, prod
from typing import Any, Literal

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.strips import TACTICS, strip_launch, strip_tactic

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class GatedActivation(CustomOp):
    """``y = act(gate) * up``; ``gate`` and ``up`` are the halves of the last axis of ``x``."""

    name = "trtforge::GatedActivation"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "gated_activation.cu.jinja"
    tactics = TACTICS
    function = """
        {% set parts = "up, gate" if gate_last else "gate, up" %}
        {{ parts }} = Split <axis = -1{% if opset >= 18 %}, num_outputs = 2{% endif %}> (x)
        {% if activation == "silu" %}
        share = Sigmoid (gate)
        active = Mul (gate, share)
        {% else %}
        wide = Cast <to = 1> (gate)
        half = Constant <value_float = 0.5> ()
        one = Constant <value_float = 1.0> ()
        {% if activation == "gelu" %}
        root = Constant <value_float = 0.7071067812> ()
        inner = Mul (wide, root)
        curve = Erf (inner)
        {% else %}
        cubic = Constant <value_float = 0.044715> ()
        root = Constant <value_float = 0.7978845608> ()
        square = Mul (wide, wide)
        cube = Mul (square, wide)
        scaled_cube = Mul (cube, cubic)
        sum = Add (wide, scaled_cube)
        inner = Mul (sum, root)
        curve = Tanh (inner)
        {% endif %}
        shifted = Add (curve, one)
        scaled = Mul (shifted, wide)
        halved = Mul (scaled, half)
        active = CastLike (halved, x)
        {% endif %}
        y = Mul (active, up)
    """

    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    """``silu`` makes SwiGLU, ``gelu`` (by the error function) and ``gelu_tanh`` make GeGLU."""
    gate_last: bool = False
    """Whether the gate is the second half, as in diffusion models, instead of the first."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x`` with half of the last axis."""
        return ((*inputs[0][:-1], inputs[0][-1] // 2),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One strip of a row per block."""
        rows, columns = prod(outputs[0][:-1]), outputs[0][-1]
        return strip_launch(rows, columns, tactic, (rows, columns))

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Give small tensors more threads."""
        del dtype
        return strip_tactic(prod(inputs[0]))

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        halves = np.split(inputs[0].astype(np.float64), 2, axis=-1)
        gate, up = reversed(halves) if self.gate_last else halves
        if self.activation == "silu":
            active = gate / (1 + np.exp(-gate))
        elif self.activation == "gelu":
            active = 0.5 * gate * (1 + np.vectorize(erf, otypes=[np.float64])(gate / np.sqrt(2)))
        else:
            active = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return ((active * up).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(3, 5, 14)]),
            Example(cls("gelu"), [(4, 64)]),
            Example(cls("gelu_tanh"), [(4, 64)]),
            Example(cls(), [(8192, 8192)], timed=True),
        ]
