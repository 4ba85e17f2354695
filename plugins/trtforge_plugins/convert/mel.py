"""The matrix of mel filters, computed where its parameters are run-time inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.rule import Refusal, Rule

_FLOAT = ir.DataType.FLOAT


class MelWeights(Rule):
    """Compute the matrix of mel filters from run-time parameters, in the declared shape."""

    name: ClassVar[str] = "mel-weights"
    ops: ClassVar[tuple[str, ...]] = ("MelWeightMatrix",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Compare each bin with the edges of each filter."""
        shape, dtype = static_shape(node.outputs[0]), node.outputs[0].dtype
        if shape is None or dtype is None or any(each is None for each in node.inputs[:5]):
            return Refusal(
                "the shape of its result is a run-time value and the model declares none"
            )
        given = [build.reshape(each, []) for each in node.inputs[:5] if each is not None]
        _, length, rate, low, high = (build.cast(each, _FLOAT) for each in given)
        edges = self._edges(length, rate, low, high, shape[1], build)
        lower, centre, upper = (build.slice(edges, 0, i, i + shape[1]) for i in range(3))
        bins = np.arange(shape[0], dtype=np.float32)[:, None]
        at = build.const(bins)
        rise, fall = build.op("Sub", centre, lower), build.op("Sub", upper, centre)
        rising = build.op("Div", build.op("Sub", at, lower), self._not_zero(rise, build))
        falling = build.op("Div", build.op("Sub", upper, at), self._not_zero(fall, build))
        before = build.op("Not", build.op("Greater", at, centre))
        within = build.op("And", before, build.op("Not", build.op("Less", at, lower)))
        steep = build.op("Equal", rise, 0)
        first = build.op("Where", steep, 1, rising)
        after = build.op("Not", build.op("Less", at, centre))
        beyond = build.op("And", after, build.op("Less", at, upper))
        result = build.op("Where", beyond, falling, build.op("Where", within, first, 0))
        return [build.cast(result, dtype)]

    def _edges(  # noqa: PLR0913, PLR0917  # the parameters of the operator
        self, length: ir.Value, rate: ir.Value, low: ir.Value, high: ir.Value, count: int,
        build: Builder,
    ) -> ir.Value:  # fmt: skip
        """Return the bins at which the filters begin, evenly spaced in mel."""
        first, last = (
            build.op("Mul", build.op("Log", build.op("Add", build.op("Div", hertz, 700), 1)),
                     2595 / math.log(10))
            for hertz in (low, high)
        )  # fmt: skip
        step = build.op("Div", build.op("Sub", last, first), count + 2)
        mel = build.op("Add", build.op("Mul", step, np.arange(count + 2, dtype=np.float32)), first)
        power = build.op("Exp", build.op("Mul", mel, math.log(10) / 2595))
        hertz = build.op("Mul", build.op("Sub", power, 1), 700)
        scaled = build.op("Mul", hertz, build.op("Add", length, 1))
        return build.op("Floor", build.op("Div", scaled, rate))

    def _not_zero(self, value: ir.Value, build: Builder) -> ir.Value:
        return build.op("Where", build.op("Equal", value, 0), 1, value)
