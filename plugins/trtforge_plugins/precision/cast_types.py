"""Which type each value has once it is decided which nodes compute in the lower one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from trtforge_plugins.precision import half_range
from trtforge_plugins.precision.cast_operators import FLOAT
from trtforge_plugins.precision.element_types import find_schema, formal

_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that TensorRT and ONNX want in float32: the region and the scales of a Resize."""


@dataclass(frozen=True)
class Decisions:
    """The lower type, and the nodes that stay in float32 with the reason."""

    low: ir.DataType
    versions: Mapping[str, int]
    functions: frozenset[tuple[str, str]]
    """Model-local functions and custom ops that run in the lower type, by domain and name."""
    kept: dict[ir.Node, str]

    def of_input(self, node: ir.Node, index: int) -> ir.DataType:
        """Return the type that a float32 input has from now on."""
        if node in self.kept or index in _FLOAT_INPUTS.get(node.op_type, ()):
            return FLOAT
        return self._of(node, index, outputs=False)

    def of_output(self, node: ir.Node, index: int) -> ir.DataType:
        """Return the type that a float32 output has from now on."""
        return FLOAT if node in self.kept else self._of(node, index, outputs=True)

    def _of(self, node: ir.Node, index: int, *, outputs: bool) -> ir.DataType:
        if (node.domain, node.op_type) in self.functions:
            return self.low
        schema = find_schema(node.domain, node.op_type, self.versions.get(node.domain, 0))
        if schema is None:
            return FLOAT
        variable = formal(schema.outputs if outputs else schema.inputs, index).partition("#")[0]
        if outputs and node.op_type != "If" and variable not in (i.type_str for i in schema.inputs):
            return FLOAT  # an attribute tells the type, which stays
        allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        wanted = f"tensor({half_range.name(self.low)})"
        return self.low if wanted in allowed.get(variable, ()) else FLOAT
