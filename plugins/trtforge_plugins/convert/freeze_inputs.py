"""freeze-inputs: turn inputs that TensorRT needs as constants into constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, RequestError, Step, frozen_inputs
from trtforge.errors import did_you_mean
from trtforge.graph import is_op, label, nodes
from trtforge_plugins.convert.facts import operand

if TYPE_CHECKING:
    from trtforge.artifacts import Array

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_CONSTANTS: Mapping[str, Mapping[int, str]] = MappingProxyType({
    **{op: {1: "axes"} for op in (*_REDUCTIONS, "Squeeze", "Unsqueeze")},
    **{op: {1: "axis"} for op in ("CumSum", "CumProd")},
    "BatchNormalization": {1: "scale", 2: "bias", 3: "mean", 4: "variance"},
    "CenterCropPad": {1: "size"},
    "Col2Im": {1: "image size", 2: "block size"},
    "DFT": {1: "length", 2: "axis"},
    "Dropout": {1: "ratio", 2: "training mode"},
    "Loop": {0: "trip count", 1: "start condition"},
    "OneHot": {1: "depth"},
    "Pad": {3: "axes"},
    "QuantizeLinear": {2: "zero point"},
    "DequantizeLinear": {2: "zero point"},
    "Resize": {1: "region", 2: "scales", 3: "sizes"},
    "STFT": {1: "step", 3: "length"},
    "SequenceAt": {1: "position"},
    "SequenceErase": {1: "position"},
    "SequenceInsert": {2: "position"},
    "Slice": {3: "axes"},
    "Split": {1: "sizes"},
    "SplitToSequence": {1: "sizes"},
    "TensorScatter": {2: "positions"},
    "TopK": {1: "k"},
    "Trilu": {1: "diagonal"},
    "Upsample": {1: "scales"},
})  # fmt: skip
"""Input positions that TensorRT or a rewrite wants as a constant, and what they are."""


@dataclass(frozen=True)
class FreezeInputs(Step):
    """Turn inputs that TensorRT needs as constants (axes, k, sizes) into constants.

    The model loses these inputs: it then serves these values only. They stay on record in its
    metadata, so that comparisons with the model that was given use them.
    """

    name: ClassVar[str] = "freeze-inputs"
    checkpoint: ClassVar[bool] = False  # a quick edit

    values: Mapping[str, Any] = field(default_factory=dict)
    """A number or a (nested) list of numbers for each input to freeze: ``{axes: [1, 2]}``."""

    def run(self, ctx: Context) -> int:
        """Freeze the inputs named in ``values``; return how many.

        Raises:
            RequestError: there is no such input, or the value does not fit its type or shape.
        """
        model = ctx.model
        inputs = {value.name or "": value for value in model.graph.inputs}
        frozen = frozen_inputs.read(model.metadata_props)
        arrays = {}
        for name, given in self.values.items():
            if name in frozen and _equals(frozen[name], given):
                continue  # by an earlier run of this step
            if name in frozen:
                raise RequestError(
                    f"freeze-inputs: {name!r} is frozen to {frozen[name].tolist()}, not to {given}"
                )
            if name not in inputs:
                raise RequestError(
                    f"freeze-inputs: the model has no input {name!r}",
                    remedy=did_you_mean(name, inputs) or f"it has {', '.join(inputs)}",
                )
            arrays[name] = _fitting(inputs[name], given)
        for name, array in arrays.items():
            _freeze(model.graph, inputs[name], array)
        if arrays:
            frozen_inputs.write(model.metadata_props, {**frozen, **arrays})
        for name, why in inputs_to_freeze(model).items():
            ctx.note(name, f"TensorRT may want it as a constant: {why}")
        return len(arrays)


def inputs_to_freeze(model: ir.Model) -> dict[str, str]:
    """Return the inputs of ``model`` that TensorRT or a rewrite wants as constants, and why."""
    found: dict[str, str] = {}
    for node, what, value in wanted_constants(model):
        found.setdefault(value.name or "", f"{what} of {node.op_type} {label(node)}")
    return {v.name: found[v.name] for v in model.graph.inputs if v.name and v.name in found}


def wanted_constants(model: ir.Model) -> Iterator[tuple[ir.Node, str, ir.Value]]:
    """Yield nodes that want a constant, what it is, and the model's input that it comes from."""
    inputs = set(model.graph.inputs)
    for node in nodes(model):
        wanted = _CONSTANTS.get(node.op_type, {}) if node.domain in ("", "ai.onnx") else {}
        for position, what in wanted.items():
            for value in _origins(operand(node, position)):
                if value in inputs:
                    yield node, what, value


def _origins(value: ir.Value | None) -> list[ir.Value]:
    """Return the inputs that ``value`` is computed from; none where it takes more than a little."""
    found: list[ir.Value] = []
    seen: set[ir.Value | None] = {None}
    todo = [value]
    while todo:
        each = todo.pop()
        if each in seen or each is None or each.is_initializer():
            continue
        seen.add(each)
        producer = each.producer()
        if producer is None:
            found.append(each)
        elif is_op(producer, *_SIMPLE):
            todo += producer.inputs
        elif producer.op_type != "Constant":
            return []
    return found


_SIMPLE = (
    "Abs", "Add", "Cast", "Ceil", "Concat", "Div", "Floor", "Identity", "Max", "Min", "Mul", "Neg",
    "Relu", "Reshape", "Squeeze", "Sub", "Unsqueeze",
)  # fmt: skip


def _equals(frozen: Array, given: Any) -> bool:
    try:
        return np.array_equal(frozen, np.asarray(given).astype(frozen.dtype))
    except (TypeError, ValueError):
        return False


def _fitting(value: ir.Value, given: Any) -> Array:
    """Return ``given`` in the type of ``value``, equal and of a shape that it may have."""
    what = f"freeze-inputs: values[{value.name!r}]"
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise RequestError(f"{what}: its rows have different lengths") from error
    if array.dtype.kind not in "fiub" or value.dtype is None:
        raise RequestError(f"{what} is {given!r}, not a number or a list of numbers")
    typed = array.astype(value.dtype.numpy())
    if array.size and value.dtype.is_integer() and not np.array_equal(typed, array):
        raise RequestError(f"{what} is {given!r}, which {value.dtype} cannot hold")
    declared = (
        None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
    )
    fits = declared is None or (
        len(declared) == typed.ndim
        and all(d in (None, n) for d, n in zip(declared, typed.shape, strict=True))
    )
    if not fits:
        raise RequestError(f"{what} has shape {list(typed.shape)}, not {declared}")
    return np.asarray(typed)


def _freeze(graph: ir.Graph, value: ir.Value, array: Array) -> None:
    graph.inputs.remove(value)
    value.const_value = ir.tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)
    graph.initializers[value.name or ""] = value
