"""The groups of operators that ``cast`` treats alike."""

from __future__ import annotations

import onnx_ir as ir

FLOAT = ir.DataType.FLOAT
FLEXIBLE = ("Cast", "QuantizeLinear", "DequantizeLinear")
"""Operators that convert anyway: they take the type of their neighbours."""
MOVERS = (
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators whose results hold nothing but values of their inputs."""
HEAVY = (
    "Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "GRU", "Gemm", "If", "LSTM",
    "Loop", "MatMul", "RNN", "Scan",
)  # fmt: skip
"""Operators that hold so much work that a saved Cast is no reason to run them in float32."""
