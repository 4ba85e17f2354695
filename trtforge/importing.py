"""Brings a model into a context: which importer reads it, and where its ONNX file is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.context import Context, Request
from trtforge.errors import ModelError
from trtforge.host import Host
from trtforge.steps import Importer

if TYPE_CHECKING:
    import onnx_ir as ir


def open_model(source: str, workdir: Path, host: Host) -> Context:
    """Return a context with the model ``source`` in it, outside any run.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    ctx = empty_context(source, workdir, host)
    host.run_step(importer_of(source, host), ctx)
    return ctx


def empty_context(source: str, workdir: Path, host: Host) -> Context:
    """Return a context outside any run, with no model in it yet."""
    return Context(model=no_model(), workdir=workdir, request=Request(source=source), ops=host.ops)


def importer_of(source: str, host: Host) -> Importer:
    """Return the importer that reads ``source``.

    Raises:
        ModelError: no installed importer takes it.
    """
    cls = host.importer(source)
    if cls is None:
        exists = "is no model that trtforge knows" if Path(source).exists() else "does not exist"
        raise ModelError(
            f"the model {source!r} {exists}",
            remedy="give an .onnx file, a folder with one, a .pt2 file, a SavedModel, or "
            "package.module:factory",
        )
    return cls(source=source)


def no_model() -> ir.Model:
    """Return the empty model that a context starts with."""
    import onnx_ir as ir

    return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 1}), ir_version=10)


def as_onnx(ctx: Context, source: str) -> Path:
    """Return the model that was imported from ``source`` as an ONNX file."""
    from trtforge import model_file

    if Path(source).suffix == ".onnx" or Path(source).is_dir():
        with suppress(ModelError):  # a SavedModel is a folder too, with no ONNX file in it
            return model_file.find(source).resolve()
    path = ctx.path("given", "model.onnx")
    model_file.save(ctx.model, path)
    return path
