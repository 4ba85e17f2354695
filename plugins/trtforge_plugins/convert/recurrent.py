"""Recurrent networks in the layout that TensorRT reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, operand
from trtforge_plugins.convert.rule import Rule

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
