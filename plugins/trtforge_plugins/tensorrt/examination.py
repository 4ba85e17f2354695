"""Will TensorRT take this model? Parses it without building, and names every refused node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from trtforge import BuildError, CustomOp, Request, RequestError, Substitute, TrtforgeError
from trtforge.diagnosis import Finding
from trtforge.graph import nodes
from trtforge.worker import WorkerFailure
from trtforge_plugins.convert.freeze_inputs import wanted_constants
from trtforge_plugins.fuse.substitutes import find_substitute
from trtforge_plugins.tensorrt.asked import (
    NO_KERNELS,
    Parsed,
    of_ranges,
    of_targets,
    ranges_asked_for,
    usual_shapes,
)
from trtforge_plugins.tensorrt.builder_rules import refused_by_builder
from trtforge_plugins.tensorrt.known_failures import cause_of, evidence
from trtforge_plugins.tensorrt.model_checks import check_types, prepared

Parse = Callable[[ir.Model], Parsed]
"""Parses a model."""

CODES = {
    "misread-model": (
        "TensorRT would build another network than the model says",
        "TensorRT's parser takes a part of the model for something else, without a word",
        ("give the operator another name or a function as its body", "see docs/conversion.md"),
    ),
    "parser-crashed": (
        "TensorRT's parser crashed",
        "the parser ended its process",
        ("find the part that does it with `trtforge bisect MODEL --build`",),
    ),
    "parser-timed-out": (
        "TensorRT's parser took too long",
        "the parser passed the time limit",
        ("raise the option time_limit of the step `tensorrt`",),
    ),
    "parser-out-of-memory": (
        "TensorRT's parser used up the memory",
        "the parser passed the memory limit, or the memory of the machine",
        ("use a machine with more memory",),
    ),
    "parser-killed": (
        "The process that parses was killed",
        "somebody killed the process that parses, and not for its memory",
        ("look for who ends processes on this machine, and run it again",),
    ),
    "parser-raised": (
        "TensorRT's parser raised an error",
        "the process that parses failed with an error that is not TensorRT's",
        ("look at the log that the error names",),
    ),
    "no-nodes": (
        "The model has no nodes",
        "the model only hands through what it gets, so there is nothing to build",
        ("export the model again, with the part that computes",),
    ),
    "target-not-built": (
        "This TensorRT does not build for the target",
        NO_KERNELS,
        ("name other targets (docs/targets.md)", "use TensorRT itself on a machine with that GPU"),
    ),
    "refused": (
        "The parser refuses a node for a reason that no rule explains",
        "the cause is in TensorRT's own words",
        (
            "rewrite the node with the recipe `convert` (`make-convertible`)",
            "cut it out with `trtforge bisect MODEL --build`, and report what is left",
        ),
    ),
}
"""What an examination finds beside what the rules explain: title, cause and remedies by code."""


def findings(
    model: ir.Model,
    request: Request,
    parse: Parse,
    ops: Mapping[str, type[CustomOp]] = MappingProxyType({}),
) -> Iterator[Finding]:
    """Yield every reason for which TensorRT refuses ``model``; a crash of its parser is one.

    Args:
        model: Stays as it is.
        request: GPUs whose types the model must keep to, and ranges that must fit its inputs.
        parse: Asks TensorRT.
        ops: Custom ops, which may take the place of refused nodes.
    """
    try:
        ready = prepared(model)
    except (BuildError, RequestError) as error:
        yield _of_model(error.code if error.code in CODES else "misread-model", error)
        return
    try:
        check_types(ready, request.targets)
    except RequestError as error:
        yield _of_model("type-of-target", error)
    try:
        parsed = parse(ready)
    except WorkerFailure as error:
        yield _of_model(f"parser-{error.cause.value}", error)
        return
    yield from of_targets(ready, request.targets, parsed)
    inputs, profiles = ranges_asked_for(ready, request, parsed)
    yield from of_ranges(ready, inputs, profiles)
    told = dict.fromkeys(_of_nodes(model, ready, parsed.refused, ops))
    yield from told
    places = {finding.node for finding in told if finding.node}
    for each in refused_by_builder(ready, usual_shapes(inputs, profiles)):
        if each.node not in places:
            yield each


def _of_nodes(
    model: ir.Model,
    ready: ir.Model,
    refused: Sequence[Mapping[str, Any]],
    ops: Mapping[str, type[CustomOp]],
) -> Iterator[Finding]:
    """Yield a finding for each node that the parser refuses."""
    freezable = _freezable(ready) if refused else {}
    replaceable = _replaceable(model, refused, ops) if refused else {}
    for each in refused:
        place = (each["node"], each["op"])
        first = (*_freezing(freezable.get(place, {})), *_replacing(replaceable.get(place, "")))
        yield _of_node(each, first)


def _freezable(model: ir.Model) -> dict[tuple[str, str], dict[str, str]]:
    """Return, by name and operator of a node, inputs of the model that it may want as constants.

    Each with an example of a value. TensorRT's refusals of nodes without names name none.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for node, _, value in wanted_constants(model):
        examples = found.setdefault((node.name or "", node.op_type), {})
        examples[value.name or ""] = _example(value)
    return found


def _example(value: ir.Value) -> str:
    """Return a value that has the type and the length of an input."""
    one = "1.0" if value.dtype is not None and value.dtype.is_floating_point() else "1"
    if value.shape is not None and not len(value.shape):
        return one
    length = value.shape[0] if value.shape is not None and len(value.shape) == 1 else 1
    return f"[{', '.join([one] * (length if isinstance(length, int) else 1))}]"


def _replaceable(
    model: ir.Model, refused: Sequence[Mapping[str, Any]], ops: Mapping[str, type[CustomOp]]
) -> dict[tuple[str, str], str]:
    """Return, by name and operator of a node, the custom op that may take its place."""
    places = {(each["node"], each["op"]) for each in refused}
    found = {}
    for node in nodes(model):
        place = (node.name or "", node.op_type)
        substitute = find_substitute(model, node, ops.values()) if place in places else ""
        if isinstance(substitute, Substitute):
            found[place] = substitute.op.name
    return found


def _replacing(op: str) -> tuple[str, ...]:
    if not op:
        return ()
    step = f"`use-custom-ops: {{ops: [{op!r}]}}`"
    return (f"let the custom op {op} compute it: the step {step} before the build",)


def _of_node(refused: Mapping[str, Any], first: Sequence[str]) -> Finding:
    known = cause_of(refused["text"])
    operator = refused["op"] or "an operator"
    return Finding(
        code=known.rule.code if known else "refused",
        node=refused["node"],
        op=refused["op"],
        cause=known.rule.cause.format(op=operator) if known else refused["text"],
        evidence=evidence(refused),
        remedies=(*first, *(known.rule.remedies if known else CODES["refused"][2])),
    )


def _freezing(inputs: Mapping[str, str]) -> tuple[str, ...]:
    if not inputs:
        return ()
    values = ", ".join(f"{name}: {value}" for name, value in inputs.items())
    advice = (
        f"where it wants a constant, freeze {' and '.join(map(repr, inputs))} to a value of yours: "
        f"`freeze-inputs: {{values: {{{values}}}}}` first in the recipe, "
        f"or --set 'freeze-inputs.values={{{values}}}'"
    )
    return (advice,)


def _of_model(code: str, error: TrtforgeError) -> Finding:
    return Finding(code, node="", op="", cause=error.what, remedies=(error.remedy,))
