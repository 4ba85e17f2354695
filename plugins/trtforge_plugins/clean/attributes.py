"""Attributes of a node, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir


def refers(node: ir.Node) -> bool:
    """Whether an attribute gets its value from the caller of the function that holds the node."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, or ``default`` where the node does not state it.

    Meant for nodes for which :func:`refers` is false.
    """
    found = node.attributes.get(name)
    return default if found is None else found.value


def axes_of(value: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return axes counted from the front: ``-1`` of a rank of 4 is 3."""
    return tuple(int(axis) + rank if axis < 0 else int(axis) for axis in value)
