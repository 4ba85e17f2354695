"""Which engine layers do no arithmetic: they copy, cast, reorder or cut data, or (de)quantize it.

TensorRT names most such layers by their kind; Myelin names its fusions after their operations, four
letters each: ``__myl_CastTran_myl0_3``. The words below are those of real dumps of TensorRT-RTX
1.7.1 and of TensorRT 10's public examples.
"""

from __future__ import annotations

import re

from trtforge import EngineLayer

_KINDS = frozenset(
    {"cast", "copy", "move", "reformat", "shuffle", "concat", "concatenation", "slice", "transpose"}
)
_FUSION = re.compile(r"__myl_([A-Za-z0-9]+)_")
_WORD = re.compile(r"[A-Z][a-z0-9]*")
_MOVES = frozenset({"Cast", "Conc", "Copy", "Move", "Repl", "Resh", "Slic", "Tran"})
_SCALES = _MOVES | {"Clip", "Div", "Max", "Min", "Mul", "Roun"}
_ROUNDED = frozenset({"int8", "int4", "float8e4m3fn", "float4e2m1"})


def only_moves(layer: EngineLayer) -> bool:
    """Whether ``layer`` only copies, casts or reorders what it reads."""
    words = set(_words(layer))
    return words <= _MOVES if words else layer.kind.lower() in _KINDS


def only_quantizes(layer: EngineLayer) -> bool:
    """Whether ``layer`` does nothing but change between a quantized and a wider type."""
    words = _words(layer)
    if not set(words) <= _SCALES or words.count("Mul") + words.count("Div") != 1:
        return False  # a second product is the model's own
    read = {tensor.dtype for tensor in layer.inputs}
    written = {tensor.dtype for tensor in layer.outputs}
    return bool((read | written) & _ROUNDED) and read != written


def _words(layer: EngineLayer) -> list[str]:
    fused = _FUSION.match(layer.name)
    return _WORD.findall(fused[1]) if fused else []
