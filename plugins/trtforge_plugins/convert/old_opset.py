"""Models of the opsets 1 to 6, which broadcast by attributes, as models of opset 7."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from trtforge.graph import graphs, label
from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.facts import attribute

TO = 7
"""The first version that broadcasts as NumPy does, and the first that TensorRT takes."""
RULE = "old-opset"
_WITHOUT_MEANING = frozenset(("consumed_inputs", "output_sequence"))
_BROADCASTING = frozenset(
    ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
)
_SAME_BUT_FOR_ATTRIBUTES = _BROADCASTING | {
    "AveragePool",
    "BatchNormalization",
    "Dropout",
    "GRU",
    "Gemm",
    "LSTM",
    "PRelu",
    "RNN",
}
"""What changed in versions 6 and 7; what they lose is looked at attribute by attribute."""


def leave_old_opset(model: ir.Model, version: int) -> str | None:
    """Write ``model`` in opset 7, or return why it stays as it is.

    TensorRT: "Pre-opset 7 broadcasting is unsupported in this version of the ONNX parser". Source:
    the versions of each operator at https://onnx.ai/onnx/operators/.
    """
    found = [node for graph in graphs(model) for node in graph]
    for node in found:
        if reason := _obstacle(node, version):
            return f"{label(node)}: {reason}"
    for node in found:
        if node.domain in ("", "ai.onnx"):
            _renew(node)
    for imports in (
        model.graph.opset_imports,
        *(f.opset_imports for f in model.functions.values()),
    ):
        for domain in imports.keys() & {"", "ai.onnx"}:
            imports[domain] = TO
    return None


def _obstacle(node: ir.Node, version: int) -> str | None:
    """Return why opset 7 cannot say what ``node`` says."""
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, TO)
    except onnx.defs.SchemaError:
        return "opset 7 has no such operator"
    lost = set(node.attributes) - set(schema.attributes) - _WITHOUT_MEANING
    if schema.since_version <= version:
        return None
    if node.op_type not in _SAME_BUT_FOR_ATTRIBUTES:
        changed = lost or schema.since_version != 6 or node.op_type in ("Cast", "Selu", "Tile")
        return f"it changed in version {schema.since_version}" if changed else None
    if node.op_type == "Dropout" and not attribute(node, "is_test", 0):
        return "it drops values at random (is_test is 0)"
    if node.op_type == "BatchNormalization" and len(node.outputs) > 1:
        return "it trains"
    first, second = (*node.inputs, None, None)[:2]
    placed = "axis" in lost or node.op_type == "PRelu"
    if placed and (rank(first) is None or rank(second) is None):
        return "it broadcasts, and the ranks of its inputs are not known"
    return None


def _renew(node: ir.Node) -> None:
    """Give the second operand the dimensions that the attributes mean, and drop those."""
    axis = attribute(node, "axis") if node.op_type in _BROADCASTING else None
    if node.op_type == "PRelu" and rank(node.inputs[1]) == 1:
        axis = 1  # one slope per channel
    if axis is not None:
        _align(node, int(axis))
    known = onnx.defs.get_schema(node.op_type, TO).attributes
    for name in set(node.attributes) - set(known):
        del node.attributes[name]


def _align(node: ir.Node, axis: int) -> None:
    """Add dimensions of 1 behind those of the second operand, which begins at ``axis``."""
    value, other = node.inputs[0], node.inputs[1]
    dims, own = rank(value) or 0, rank(other) or 0
    behind = dims - axis % max(dims, 1) - own
    if other is None or node.graph is None or behind <= 0:
        return
    build = Builder(node, TO, RULE)
    wider = build.op("Unsqueeze", other, axes=list(range(own, own + behind)))
    node.graph.insert_before(node, build.nodes)
    node.replace_input_with(1, wider)
