"""Which nodes give another result each time they run."""

from __future__ import annotations

import onnx_ir as ir

from trtforge.graph import constant, is_op

RANDOM = frozenset({
    "Bernoulli", "Multinomial",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
"""The random operators of the ONNX specification, beside Dropout in training."""


def why_random(
    node: ir.Node, functions: frozenset[ir.OperatorIdentifier] = frozenset()
) -> str | None:
    """Return why ``node`` may give another result each time, or None.

    Args:
        node: Any node.
        functions: The functions of the model that hold such a node, see :func:`random_functions`.
    """
    if is_op(node, *RANDOM):
        return "it gives another result each time"
    if is_op(node, "Dropout") and len(node.inputs) > 2 and node.inputs[2] is not None:
        mode = constant(node.inputs[2])
        if mode is None or mode.any():
            return "it runs, or may run, in training mode"
    if node.op_identifier() in functions:
        return f"function {node.op_type} holds a random operator"
    return None


def random_functions(model: ir.Model) -> frozenset[ir.OperatorIdentifier]:
    """Return the functions of ``model`` that hold a random node, also through other functions."""
    random: frozenset[ir.OperatorIdentifier] = frozenset()
    while True:
        found = frozenset(
            identifier
            for identifier, function in model.functions.items()
            if any(why_random(node, random) for node in function.all_nodes())
        )
        if found == random:
            return random
        random = found
