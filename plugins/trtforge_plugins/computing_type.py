"""In which type an engine layer multiplies, read from its kind, its name and the types it reads.

TensorRT prints no such fact; the rules here were derived from real dumps of TensorRT-RTX 1.7.1
(some are golden files under ``tests/data/layer_dumps``) and from public examples of TensorRT 10's:

- ``gemm``, ``correlation``, ``deconv`` and TensorRT 10's ``Cask...`` kinds multiply in the type of
  their first input; a multi-head attention kernel in the type that Q, K and V share.
- A fusion is named after its operations in order, four letters each: ``__myl_CastMulCastFc_...``.
  A ``Cast`` before the contraction (``Fc``, ``Corr``) converts an operand, so that INT8 or FP8 is
  storage only: such a layer multiplies in a floating-point type.
- A small product may be spelled out as ``Mul`` and ``Sum``: such a kernel uses floating point.
"""

from __future__ import annotations

import re
from enum import IntEnum

from trtforge import EngineLayer

FLOATS = frozenset({"float16", "bfloat16", "float32"})
QUANTIZED = frozenset({"int4", "int8", "float4e2m1", "float8e4m3fn"})

_DEDICATED = re.compile(r"gemm|correlation|conv|matrixmultiply|fullyconnected", re.IGNORECASE)
_FUSION = re.compile(r"__myl_([A-Za-z0-9]+)_")
_CONTRACTION = re.compile(r"Fc|Corr|Conv|Deco|Gemm|MatM")


class Evidence(IntEnum):
    """How a layer shows that it multiplies matrices, from the clearest on."""

    DEDICATED = 0
    """A layer for nothing else: matrix product, convolution, attention."""
    FUSED = 1
    """A fusion with a contraction among its operations."""
    SPELLED_OUT = 2
    """Element-wise products that are summed."""


def evidence(layer: EngineLayer) -> Evidence | None:
    """Return how ``layer`` shows that it multiplies matrices, or None when it does not."""
    if _is_attention(layer) or _DEDICATED.search(layer.kind):
        return Evidence.DEDICATED
    operations = _operations(layer)
    if _CONTRACTION.search(operations):
        return Evidence.FUSED
    return Evidence.SPELLED_OUT if "Mul" in operations else None


def computing_types(layer: EngineLayer) -> frozenset[str]:
    """Return the types, in ONNX's spelling, in which ``layer`` may multiply; empty: not known.

    More than one stands for a layer that reads several floating-point types.
    """
    if _is_attention(layer):
        return _attention_types(layer)
    found = evidence(layer)
    if found is Evidence.DEDICATED:
        return _dedicated_types(layer)
    if found is Evidence.FUSED:
        return _fused_types(layer)
    return _operand_floats(layer) if found is Evidence.SPELLED_OUT else frozenset()


def _is_attention(layer: EngineLayer) -> bool:
    return "_mha" in layer.name or "_mha" in layer.tactic or "mha" in layer.kind.lower()


def _operations(layer: EngineLayer) -> str:
    match = _FUSION.match(layer.name)
    return match[1] if match else ""


def _dedicated_types(layer: EngineLayer) -> frozenset[str]:
    operands = [tensor.dtype for tensor in layer.inputs + layer.constants]
    if not operands:
        return frozenset()
    first, others = operands[0], operands[1:]
    if first in QUANTIZED and others and first not in others:
        return frozenset()  # a lone quantized operand proves nothing
    return frozenset({first}) & (QUANTIZED | FLOATS)


def _attention_types(layer: EngineLayer) -> frozenset[str]:
    """Q, K and V must share one type; a mask may have another, but no quantized one."""
    types = [tensor.dtype for tensor in layer.inputs]
    if not types or types.count(types[0]) < 3:
        return frozenset()
    strangers = set(types) & QUANTIZED - {types[0]}
    return frozenset() if strangers else frozenset({types[0]}) & (QUANTIZED | FLOATS)


def _fused_types(layer: EngineLayer) -> frozenset[str]:
    operations = _operations(layer)
    contraction = _CONTRACTION.search(operations)
    before = operations[: contraction.start()] if contraction else operations
    types = [tensor.dtype for tensor in layer.inputs + layer.constants]
    quantized = [dtype for dtype in types if dtype in QUANTIZED]
    if quantized and "Cast" not in before:
        shared = len(quantized) >= 2 and len(set(quantized)) == 1
        return frozenset(quantized) if shared else frozenset()
    return _operand_floats(layer)


def _operand_floats(layer: EngineLayer) -> frozenset[str]:
    operands = layer.inputs + layer.constants
    floats = frozenset(tensor.dtype for tensor in operands) & FLOATS
    return floats or frozenset(tensor.dtype for tensor in layer.outputs) & FLOATS
