"""ONNX files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

import trtforge as tf
from trtforge import model_file


@dataclass(frozen=True)
class ImportOnnx(tf.Importer):
    """Read an ONNX model, from its file or from the folder that holds it and its weights.

    Weights beside the model (external data) are memory-mapped, so that models of any size are read
    at once. The file is trusted in nothing: damaged, oversized and escaping data is refused, then
    ONNX's checker runs.
    """

    name = "import-onnx"
    cacheable: ClassVar[bool] = False  # reading the file is as quick as reading the cache

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Whether ``source`` ends in ``.onnx`` or is a folder with such a file."""
        path = Path(source)
        return path.suffix == ".onnx" or (path.is_dir() and any(path.glob("*.onnx")))

    def load(self, source: str, ctx: tf.Context) -> ir.Model:  # noqa: ARG002  # needs no context
        """Return the model of the file ``source``, or of the folder.

        Raises:
            ModelError: it cannot be read or breaks ONNX's rules.
        """
        model = model_file.load(source)
        model_file.check(source)
        return model
