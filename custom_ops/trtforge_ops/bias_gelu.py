"""BiasGelu: the bias of a linear layer and its GELU in one kernel."""

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
class BiasGelu(CustomOp):
    """``y = gelu(x + bias)``; the bias, of one dimension, runs along the last axis of ``x``."""

    name = "trtforge::BiasGelu"
    inputs = ("x", "bias")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "bias_gelu.cu.jinja"
    tactics = TACTICS
    function = """
        s = Add (x, bias)
        {% if opset >= 20 %}
        y = Gelu <approximate = "{{ approximate }}"> (s)
        {% else %}
        half = Constant <value_float = 0.5> ()
        half_t = CastLike (half, s)
        one = Constant <value_float = 1.0> ()
        one_t = CastLike (one, s)
        {% if approximate == "tanh" %}
        cubic = Constant <value_float = 0.044715> ()
        cubic_t = CastLike (cubic, s)
        root = Constant <value_float = 0.7978845608> ()
        root_t = CastLike (root, s)
        square = Mul (s, s)
        cube = Mul (square, s)
        scaled_cube = Mul (cube, cubic_t)
        sum = Add (s, scaled_cube)
        inner = Mul (sum, root_t)
        curve = Tanh (inner)
        {% else %}
        root = Constant <value_float = 0.7071067812> ()
        root_t = CastLike (root, s)
        inner = Mul (s, root_t)
        curve = Erf (inner)
        {% endif %}
        shifted = Add (curve, one_t)
        scaled = Mul (shifted, s)
        y = Mul (scaled, half_t)
        {% endif %}
    """

    approximate: Literal["none", "tanh"] = "none"
    """``none``: by the error function; ``tanh``: the approximation that GPT-2 and others use."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

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
        """Compute in float64, then round to the type of ``x``.

        The formulas are those of ONNX's operator Gelu (opset 20).
        """
        v = inputs[0].astype(np.float64) + inputs[1].astype(np.float64)
        if self.approximate == "tanh":
            curve = np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))
        else:
            curve = np.vectorize(erf, otypes=[np.float64])(v / np.sqrt(2))
        return ((0.5 * v * (1 + curve)).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(3, 5, 7), (7,)]),
            Example(cls("tanh"), [(4, 64), (64,)]),
            Example(cls(), [(8192, 4096), (4096,)], timed=True),
        ]
