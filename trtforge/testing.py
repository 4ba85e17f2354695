"""What authors of steps need in their tests: one call holds a pass to every pass's rules."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge.context import Context, Request
from trtforge.graph import interface, label, nodes
from trtforge.inline_weights import inline
from trtforge.weights import exchanged

if TYPE_CHECKING:
    import onnx

    from trtforge.artifacts import Array
    from trtforge.context import Note
    from trtforge.steps import Step

Feeds = Mapping[str, "Array"]

rules_of_check_pass = (
    "the returned count is true: 0 exactly when nothing changed",
    "inputs and outputs keep names, types, shapes and order",
    "metadata of the model and of the nodes that stay is kept",
    "the model stays valid by onnx.checker",
    "the outputs keep their values, types and shapes under ONNX Runtime",
    "a second run changes nothing",
)
"""What :func:`check_pass` holds a pass to."""


def read_model(model: str | ir.Model | onnx.ModelProto) -> ir.Model:
    """Return ``model`` as a model of its own: ONNX text, a protobuf or a model, which is copied."""
    if isinstance(model, str):
        return ir.from_onnx_text(model)
    if isinstance(model, ir.Model):
        return model.clone()
    return ir.from_proto(model)


def apply(step: Step, model: str | ir.Model | onnx.ModelProto) -> tuple[ir.Model, int, list[Note]]:
    """Run one step on a copy of ``model``.

    Returns:
        The resulting model, the number of changes and the notes.
    """
    with tempfile.TemporaryDirectory(prefix="trtforge-test-") as workdir:
        ctx = Context(read_model(model), Path(workdir), Request(source="test"))
        changes = step.run(ctx)
        return ctx.model, changes, ctx.notes


def run_model(model: ir.Model | onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """Return the outputs of ``model`` under ONNX Runtime on the CPU, its own rewrites turned off.

    With its rewrites on, a difference could come from them instead of the pass under test.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # the order of additions stays the same from run to run
    options.log_severity_level = 3  # errors only
    if isinstance(model, ir.Model):
        with exchanged(model, inline):  # bytes may name no data file
            model = ir.to_proto(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = session.get_outputs()
    arrays = session.run([output.name for output in outputs], dict(feeds))
    return {
        output.name: _as_declared(array, output.type)
        for output, array in zip(outputs, arrays, strict=True)
    }


def _as_declared(array: Array, kind: str) -> Array:
    """Give 8-bit floats their type back; ONNX Runtime returns their bytes."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return array.view(ir.DataType[name.upper()].numpy()) if name.startswith("float8") else array


def check_pass(  # noqa: PLR0913  # each argument is one thing that a test states
    step: Step,
    model: str | ir.Model | onnx.ModelProto,
    feeds: Feeds | Sequence[Feeds] = (),
    *,
    changes: int | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> ir.Model:
    """Hold a pass to every pass's rules (:data:`rules_of_check_pass`) on one model.

    Args:
        step: The pass.
        model: ONNX text, a protobuf or a model; it is not changed.
        feeds: One or several mappings of input name to array; none: values are not compared.
        changes: The count that the pass must return; None: any.
        rtol: Relative tolerance of the outputs; the default asks for the same bits.
        atol: Absolute tolerance of the outputs.

    Returns:
        The rewritten model.

    Raises:
        AssertionError: the pass breaks a rule; the message names the step and the rule.
    """
    before = read_model(model)
    after, count, _ = apply(step, before)
    _check_count(step, before, after, count, changes)
    _check_interface(step, before, after)
    _check_metadata(step, before, after)
    _check_valid(step, after)
    for feed in [feeds] if isinstance(feeds, Mapping) else feeds:
        _check_values(step, run_model(before, feed), run_model(after, feed), rtol, atol)
    again, second, _ = apply(step, after)
    if second or _bytes(again) != _bytes(after):
        raise AssertionError(f"{step.name} is not idempotent: a second run made {second} changes")
    return after


def _bytes(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _check_count(
    step: Step, before: ir.Model, after: ir.Model, count: int, expected: int | None
) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise AssertionError(f"{step.name} returned {count!r}, which is no number of changes")
    changed = _bytes(before) != _bytes(after)
    if bool(count) != changed:
        raise AssertionError(
            f"{step.name} returned {count} changes, but the model "
            f"{'changed' if changed else 'is the same'}"
        )
    if expected is not None and count != expected:
        raise AssertionError(f"{step.name} made {count} changes instead of {expected}")


def _check_interface(step: Step, before: ir.Model, after: ir.Model) -> None:
    for what, old, new in zip(
        ("inputs", "outputs"), interface(before), interface(after), strict=True
    ):
        optional = set(before.graph.initializers) if what == "inputs" else set()
        # An input with a default value may become a constant: no caller must feed it.
        needed = tuple(entry for entry in old if entry[0] not in optional or entry in new)
        if needed != new:
            raise AssertionError(f"{step.name} changed the {what}: {old} became {new}")


def _check_metadata(step: Step, before: ir.Model, after: ir.Model) -> None:
    for what, old, new in (
        ("model", before.metadata_props, after.metadata_props),
        ("graph", before.graph.metadata_props, after.graph.metadata_props),
    ):
        if lost := set(old.items()) - set(new.items()):
            raise AssertionError(f"{step.name} lost metadata of the {what}: {sorted(lost)}")
    kept = {label(node): node.metadata_props for node in nodes(before) if node.metadata_props}
    for node in nodes(after):
        if lost := set(kept.get(label(node), {}).items()) - set(node.metadata_props.items()):
            raise AssertionError(f"{step.name} lost metadata of {label(node)}: {sorted(lost)}")


def _check_valid(step: Step, model: ir.Model) -> None:
    import onnx

    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise AssertionError(f"{step.name} made an invalid model: {error}") from error


def _check_values(
    step: Step, before: Mapping[str, Any], after: Mapping[str, Any], rtol: float, atol: float
) -> None:
    for name, old in before.items():
        new = after[name]
        if not isinstance(old, np.ndarray):  # a sequence, a map or an absent optional
            same = repr(old) == repr(new)
        elif old.shape != new.shape or old.dtype != new.dtype:
            same = False
        elif old.dtype.kind == "f" and (rtol or atol):
            same = np.allclose(old, new, rtol=rtol, atol=atol, equal_nan=True)
        else:
            same = _same_bits(old, new)
        if not same:
            raise AssertionError(f"{step.name} changed output {name!r}:\n{old}\nbecame\n{new}")


def _same_bits(old: Array, new: Array) -> bool:
    if old.dtype.kind != "f":
        return np.array_equal(old, new)
    # NaN equals NaN whatever its payload; zeros must agree in sign.
    return bool(
        np.array_equal(old, new, equal_nan=True)
        and np.array_equal(np.signbit(old[~np.isnan(old)]), np.signbit(new[~np.isnan(new)]))
    )
