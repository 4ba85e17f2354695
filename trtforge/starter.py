"""Writes a first recipe for a model: its inputs and shapes filled in, every choice commented."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtforge.importing import open_model
from trtforge.quantities import Dims, ShapeRange
from trtforge.weights import tensors

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.host import Host

BATCHES = (1, 8, 32)
OTHER = (1, 64, 256)


def starter_recipe(model: str, host: Host, folder: Path = Path()) -> str:
    """Return the text of a recipe that builds an FP16 engine of ``model``.

    Args:
        model: A file, a folder, or ``package.module:factory``.
        host: The plugins.
        folder: Where the recipe will lie; its paths start there.

    Raises:
        ModelError: the model cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    with TemporaryDirectory(prefix="trtforge-init-") as scratch:
        ctx = open_model(model, Path(scratch), host)
        inputs = {
            value.name or "": value
            for value in ctx.model.graph.inputs
            if (value.name or "") not in ctx.model.graph.initializers
        }
        shapes = {name: _range(value) for name, value in inputs.items() if _is_dynamic(value)}
        facts = [f"{name}: {_text(value)}" for name, value in inputs.items()]
        weights = sum(tensor.nbytes for tensor in tensors(ctx.model))
    templates = Environment(
        loader=PackageLoader("trtforge"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  # the result is YAML, quoted by the filter `quoted`
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["quoted"] = _quoted
    template = templates.get_template("recipe.yaml.jinja")
    return template.render(
        model=_from(folder, model),
        source=model,
        facts=facts,
        shapes=shapes,
        megabytes=weights / 2**20,
    )


def _from(folder: Path, model: str) -> str | None:
    """Return the path of a model as a recipe in ``folder`` names it; None for code."""
    if not Path(model).exists():
        return None
    return model if Path(model).is_absolute() else os.path.relpath(model, folder)


def _is_dynamic(value: ir.Value) -> bool:
    return value.shape is None or not value.shape.is_static()


def _range(value: ir.Value) -> ShapeRange:
    """Guess a range: the first dynamic dimension is a batch, further ones are lengths."""
    if value.shape is None:
        return ShapeRange(Dims(1), Dims(1), Dims(1))

    def filled(index: int) -> Dims:
        dims = [
            dim if isinstance(dim, int) else (BATCHES if axis == 0 else OTHER)[index]
            for axis, dim in enumerate(value.shape.dims if value.shape else ())
        ]
        return Dims(dims)

    return ShapeRange(filled(0), filled(1), filled(2))


def _text(value: ir.Value) -> str:
    dims = value.shape.dims if value.shape is not None else ()
    shape = "x".join(str(dim if isinstance(dim, int) else dim.value or "?") for dim in dims)
    return f"{value.dtype.name if value.dtype else 'unknown type'} {shape or 'scalar'}"


def _quoted(text: str) -> str:
    """Return ``text`` as a double-quoted YAML scalar, which JSON strings are."""
    import json

    return json.dumps(text)
