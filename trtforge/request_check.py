"""Holds the shapes that a recipe names against the model's inputs, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtforge.errors import RequestError, did_you_mean
from trtforge.quantities import ShapeRange

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.context import Request


def check_profiles(model: ir.Model, request: Request, *, will_build: bool) -> None:
    """Refuse profiles that do not fit the model.

    Raises:
        RequestError: an unknown input, another rank, another static dimension, or a dynamic input
            without a shape although the recipe builds an engine.
    """
    inputs = {
        value.name or "": value
        for value in model.graph.inputs
        if (value.name or "") not in model.graph.initializers
    }
    for profile in request.profiles:
        for name, shapes in profile.items():
            if name not in inputs:
                hint = did_you_mean(name, inputs) or f"It has: {', '.join(inputs)}."
                raise RequestError(
                    f"the model has no input {name!r}. {hint}",
                    where="shapes",
                    remedy="correct the name in the recipe's `shapes`, or in --shape",
                )
            if not _may_be_a_shape(inputs[name]):
                _check_range(name, inputs[name].shape, shapes)
    if will_build:
        _refuse_missing(inputs, request.profiles or ({},))


def _may_be_a_shape(value: ir.Value) -> bool:
    """Whether a range may stand for the values of ``value``: TensorRT's shape inputs.

    Which integer inputs decide shapes is only known after parsing; the backend judges these.
    """
    is_integer = value.dtype is not None and value.dtype.name in ("INT32", "INT64")
    return is_integer and value.shape is not None and len(value.shape) <= 1


def _check_range(name: str, declared: ir.Shape | None, shapes: ShapeRange) -> None:
    if declared is None:
        return
    if len(declared) != len(shapes.opt):
        raise RequestError(
            f"{shapes} has rank {len(shapes.opt)}, but the model's input has rank "
            f"{len(declared)} ({_text(declared)})",
            where=f"shapes, input {name!r}",
            remedy=f"write {len(declared)} dimensions, for example {_example(declared)}",
        )
    for axis, dim in enumerate(declared.dims):
        if isinstance(dim, int) and not shapes.min[axis] == dim == shapes.max[axis]:
            raise RequestError(
                f"dimension {axis} is {dim} in the model ({_text(declared)}), but {shapes} asks "
                "for another",
                where=f"shapes, input {name!r}",
                remedy=f"write {dim} there, or export the model with that dimension dynamic",
            )


def _refuse_missing(
    inputs: Mapping[str, ir.Value], profiles: tuple[Mapping[str, ShapeRange], ...]
) -> None:
    for profile in profiles:
        missing = [
            name
            for name, value in inputs.items()
            if name not in profile and (value.shape is None or not value.shape.is_static())
        ]
        if missing:
            first = inputs[missing[0]]
            raise RequestError(
                f"the input {missing[0]!r} is dynamic ({_text(first.shape)}) and the recipe gives "
                "no shape for it",
                remedy=f"add to the recipe: shapes: {{{missing[0]}: {_example(first.shape)}}}, "
                f"or give --shape '{missing[0]}=MIN:OPT:MAX'",
            )


def _text(shape: ir.Shape | None) -> str:
    if shape is None:
        return "of unknown rank"
    return "x".join(str(dim if isinstance(dim, int) else dim.value or "?") for dim in shape.dims)


def _example(shape: ir.Shape | None) -> str:
    if shape is None:
        return "{min: …, opt: …, max: …}"

    def filled(dynamic: int) -> str:
        return "x".join(str(dim if isinstance(dim, int) else dynamic) for dim in shape.dims)

    return f"{{min: {filled(1)}, opt: {filled(8)}, max: {filled(32)}}}"
