"""Will TensorRT take this model? Parses it without building, and names every refused node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from trtforge import BuildError, RequestError, Target, TrtforgeError
from trtforge.diagnosis import Finding
from trtforge.worker import WorkerFailure
from trtforge_plugins.convert.freeze_inputs import wanted_constants
from trtforge_plugins.tensorrt.known_failures import evidence
from trtforge_plugins.tensorrt.known_failures import find as find_known
from trtforge_plugins.tensorrt.model_checks import check_types, prepared

Parse = Callable[[ir.Model], Sequence[Mapping[str, Any]]]
"""Parses a model and returns the refused nodes (see ``adapter.Session.parse``)."""


def findings(model: ir.Model, targets: Sequence[Target], parse: Parse) -> Iterator[Finding]:
    """Yield every reason for which TensorRT refuses ``model``; a crash of its parser is one.

    Args:
        model: Stays as it is.
        targets: GPUs whose types the model must keep to.
        parse: Asks TensorRT.
    """
    try:
        ready = prepared(model)
    except (BuildError, RequestError) as error:
        yield _of_model("misread-model", error)
        return
    try:
        check_types(ready, targets)
    except RequestError as error:
        yield _of_model("type-of-target", error)
    try:
        refused = parse(ready)
    except WorkerFailure as error:
        yield _of_model(f"parser-{error.cause.value}", error)
        return
    freezable = _freezable(ready) if refused else {}
    for each in refused:
        yield _of_node(each, freezable.get((each["node"], each["op"]), {}))


def _freezable(model: ir.Model) -> dict[tuple[str, str], dict[str, str]]:
    """Return, by name and operator of a node, inputs of the model that it may want as constants.

    Each with an example of a value. TensorRT's refusals of nodes without names name none.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for node, _, value in wanted_constants(model):
        scalar = value.shape is not None and not len(value.shape)
        examples = found.setdefault((node.name or "", node.op_type), {})
        examples[value.name or ""] = "1" if scalar else "[1]"
    return found


def _of_node(refused: Mapping[str, Any], freezable: Mapping[str, str]) -> Finding:
    known = next(iter(find_known([refused["text"]])), None)
    return Finding(
        code=known.code if known else refused["code"].lower().replace("_", "-") or "refused",
        node=refused["node"],
        op=refused["op"],
        cause=known.cause.format(op=refused["op"]) if known else refused["text"],
        evidence=evidence(refused),
        remedy=_freezing(freezable) or (known.remedy if known else ""),
    )


def _freezing(inputs: Mapping[str, str]) -> str:
    if not inputs:
        return ""
    values = ", ".join(f"{name}: {value}" for name, value in inputs.items())
    return (
        f"where it wants a constant, freeze {' and '.join(map(repr, inputs))} to a value of yours: "
        f"`freeze-inputs: {{values: {{{values}}}}}` first in the recipe, "
        f"or --set 'freeze-inputs.values={{{values}}}'"
    )


def _of_model(code: str, error: TrtforgeError) -> Finding:
    return Finding(code, node="", op="", cause=error.what, remedy=error.remedy)
