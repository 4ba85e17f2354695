"""Finds what does not fit together at the usual shapes of the ranges that are given.

TensorRT-RTX 1.7.1 looks at the usual shapes (``opt``) alone, and of what ONNX says there, refuses
what it broadcasts or reshapes; products and Concats that do not fit it builds, and they fail when
the engine runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import onnx_ir as ir

from trtforge import Context, Request, RequestError, StepError
from trtforge.diagnosis import Finding, Level
from trtforge.graph import is_op, label, nodes
from trtforge_plugins.clean import InferShapes
from trtforge_plugins.macs import bind_shapes
from trtforge_plugins.tensorrt.failure_rules import rule

_FAIL_LATER = ("MatMul", "Gemm", "Concat", "Einsum")
_PLACE = re.compile(r"\(op_type:(\w+)(?:, node name: ([^)]*))?\)")


def misfits(model: ir.Model, usual: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    """Yield what ONNX's inference refuses at ``usual`` shapes, and not where they are open.

    Args:
        model: Stays as it is.
        usual: The usual shape of each input with a range.
    """
    if not usual:
        return
    try:
        bound = bind_shapes(model, usual)
    except RequestError as error:
        known, found = rule("bad-profile"), f"{error.where}: {error.what}"
        yield Finding(known.code, "", "", known.cause, found, known.remedies, seen_in="model")
        return
    yield from _volumes(bound)
    for text in _refusals(bound) - _refusals(model.clone()):
        place = _PLACE.search(text)
        op, node = (place[1], place[2] or "") if place else ("", "")
        yield _finding(node, op, text, "advice" if op in _FAIL_LATER else "refused")


def _volumes(bound: ir.Model) -> Iterator[Finding]:
    """Yield each Reshape that gives another number of elements than it gets."""
    for node in nodes(bound):
        if not is_op(node, "Reshape") or node.inputs[0] is None:
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None or not (before.is_static() and after.is_static()):
            continue
        if prod(before.numpy()) != prod(after.numpy()):
            yield _finding(label(node), node.op_type, f"{before} becomes {after}", "refused")


def _finding(node: str, op: str, text: str, level: Level) -> Finding:
    known = rule("shapes-do-not-fit")
    remedies = ("change the usual shapes (opt) of the ranges", *known.remedies)
    evidence = f"at the usual shapes: {text}"
    return Finding(known.code, node, op, known.cause, evidence, remedies, level, seen_in="model")


def _refusals(model: ir.Model) -> set[str]:
    """Return what ONNX's inference says against ``model``, which it changes."""
    ctx = Context(model, Path(), Request(source="ranges"))
    try:
        InferShapes().rewrite(model, ctx)
    except StepError as error:
        return {error.what}
    return {note.text for note in ctx.notes}
