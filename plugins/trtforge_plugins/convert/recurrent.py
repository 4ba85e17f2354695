"""Recurrent networks in the layout, with the gates and in the types that TensorRT knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, operand
from trtforge_plugins.convert.rule import Refusal, Rule

BATCH_AND_SECOND = (1, 0, 2)  # [batch, second, size] and back
STATES = (5, 6)  # inputs initial_h and initial_c


class RecurrentLayout(Rule):
    """Write RNN, GRU and LSTM with the batch first as one with the time first, and Transpose."""

    name: ClassVar[str] = "recurrent-layout"
    ops: ClassVar[tuple[str, ...]] = ("GRU", "LSTM", "RNN")
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7 builds layout=1 as if it were layout=0, without a word: "
        "it takes the batch for the time"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__LSTM.html (attribute layout)"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | None:
        """Transpose x and the states before, the results after."""
        if attribute(node, "layout", 0) == 0:
            return None
        inputs = [operand(node, index) for index in range(len(node.inputs))]
        for index in (0, *STATES):
            value = operand(node, index)
            if value is not None:
                inputs[index] = build.op("Transpose", value, perm=BATCH_AND_SECOND)
        kept = {key: one.value for key, one in node.attributes.items() if key != "layout"}
        results = build.ops(node.op_type, len(node.outputs), *inputs, **kept)
        # Y: [time, directions, batch, hidden] to [batch, time, directions, hidden]
        perms = ((2, 0, 1, 3), BATCH_AND_SECOND, BATCH_AND_SECOND)
        return [
            build.op("Transpose", made, perm=perm) if old.name else None
            for old, made, perm in zip(node.outputs, results, perms, strict=False)
        ]


class CoupledGates(Rule):
    """Write an LSTM that forgets what it does not take in (input_forget) with a forget gate.

    1 - sigmoid(x) is sigmoid(-x), so the weights of the forget gate are those of the input gate,
    negated.
    """

    name: ClassVar[str] = "coupled-gates"
    ops: ClassVar[tuple[str, ...]] = ("LSTM",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: Coupled input/forget is unsupported in the LSTM converter"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__LSTM.html (input_forget)"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Negate and concatenate; gates lie in the order input, output, forget, cell."""
        if not attribute(node, "input_forget", 0):
            return None
        gates = attribute(node, "activations", ["Sigmoid"])[::3]
        if any(str(each).lower() != "sigmoid" for each in gates):
            return Refusal("its coupled gates are no sigmoids")
        size = int(attribute(node, "hidden_size"))
        inputs = [operand(node, index) for index in range(len(node.inputs))]
        # Inputs 1 and 2 are weights; 3 has the biases of both, 7 the peepholes without the cell's.
        for index, blocks in ((1, [0]), (2, [0]), (3, [0, 4]), (7, [0])):
            value = operand(node, index)
            if value is not None:
                inputs[index] = self._coupled(value, size, blocks, build, last=index != 7)
        kept = {key: one.value for key, one in node.attributes.items() if key != "input_forget"}
        results = build.ops(node.op_type, len(node.outputs), *inputs, **kept)
        return [made if old.name else None for old, made in zip(node.outputs, results, strict=True)]

    def _coupled(
        self, value: ir.Value, size: int, blocks: Sequence[int], build: Builder, *, last: bool
    ) -> ir.Value:
        """Return weights whose forget part is the input part of the same block, negated."""
        parts = []
        for block in blocks:
            start = block * size
            parts.append(build.slice(value, 1, start, start + 2 * size))
            parts.append(build.op("Neg", build.slice(value, 1, start, start + size)))
            if last:
                parts.append(build.slice(value, 1, start + 3 * size, start + 4 * size))
        return build.op("Concat", *parts, axis=1)


class BfloatGru(Rule):
    """Compute a GRU of bfloat16 in float32, and round its results."""

    name: ClassVar[str] = "bfloat-gru"
    ops: ClassVar[tuple[str, ...]] = ("GRU",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: 'ElementWiseOperation SUB must have same input types. But they are of "
        "types Float and BFloat16'"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__GRU.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | None:
        """Cast, compute, cast back."""
        if node.inputs[0] is None or node.inputs[0].dtype != ir.DataType.BFLOAT16:
            return None
        inputs = [operand(node, index) for index in range(len(node.inputs))]
        wide = [
            build.cast(value, ir.DataType.FLOAT)
            if value is not None and value.dtype == ir.DataType.BFLOAT16
            else value
            for value in inputs
        ]
        kept = {key: one.value for key, one in node.attributes.items()}
        results = build.ops("GRU", len(node.outputs), *wide, **kept)
        return [
            build.cast(made, ir.DataType.BFLOAT16) if old.name else None
            for old, made in zip(node.outputs, results, strict=True)
        ]
