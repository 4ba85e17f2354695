"""TensorFlow and Keras models, converted by tf2onnx."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

import trtforge as tf
from trtforge import model_file

# Keras names the inputs and outputs in the SavedModel that it exports; tf2onnx's own way for Keras
# calls them args_0:0 and Identity:0. Safe mode refuses Python code inside the file.
_KERAS_TO_SAVED_MODEL = """
import sys
import keras
keras.saving.load_model(sys.argv[1], compile=False, safe_mode=True).export(sys.argv[2])
"""
_SUFFIXES = (".keras", ".h5")


@dataclass(frozen=True)
class ImportTensorFlow(tf.Importer):
    """Read a TensorFlow SavedModel folder or a Keras file (.keras, .h5) through tf2onnx.

    TensorFlow works in a process of its own, so that its memory is free again when the next step
    starts. Keras files are read in Keras's safe mode. A SavedModel is a program: TensorFlow's own
    advice is to open only those that you trust.
    """

    name = "import-tensorflow"
    by_user: ClassVar[tuple[str, ...]] = ("python",)
    cacheable: ClassVar[bool] = False  # the source's content is not part of the key

    opset: int = 18
    """Version of the standard ONNX operator set to write; tf2onnx 1.17 knows up to 18."""
    signature: str = "serving_default"
    """Signature of the SavedModel."""
    python: str = ""
    """Python interpreter that has tensorflow and tf2onnx; empty: the one that runs trtforge."""
    timeout: float = 1800.0
    """Seconds after which a conversion is given up."""

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Whether ``source`` ends in ``.keras`` or ``.h5``, or is a SavedModel folder."""
        path = Path(source)
        return path.suffix in _SUFFIXES or (path / "saved_model.pb").is_file()

    def load(self, source: str, ctx: tf.Context) -> ir.Model:
        """Return the converted model; it lies in the run folder as ``imported/model.onnx``.

        Raises:
            ModelError: ``source`` is missing or is not converted.
            EnvironmentLacks: TensorFlow or tf2onnx is not installed.
        """
        if not Path(source).exists():
            raise tf.ModelError("there is no such file or folder", where=source)
        saved = Path(source).absolute()
        if not saved.is_dir():
            keras_file, saved = saved, ctx.path("imported", "saved_model")
            self._start(source, "-c", _KERAS_TO_SAVED_MODEL, str(keras_file), str(saved))
        target = ctx.path("imported", "model.onnx")
        self._start(
            source,
            *("-m", "tf2onnx.convert", "--saved-model", str(saved), "--output", str(target)),
            *("--opset", str(self.opset), "--signature_def", self.signature),
        )
        model_file.check(target)
        return model_file.load(target)

    def _start(self, source: str, *arguments: str) -> None:
        """Run Python with ``arguments`` and turn its failure into an error."""
        python = self.python or sys.executable
        try:
            done = subprocess.run(
                [python, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=self.timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise tf.ModelError(
                f"the conversion took more than {self.timeout:g} s",
                where=source,
                remedy="give import-tensorflow a longer timeout",
            ) from error
        except OSError as error:
            raise tf.EnvironmentLacks(
                f"{python} cannot be started: {error.strerror}", where=source
            ) from error
        if done.returncode:
            raise self._failure(done.stderr, source)

    def _failure(self, output: str, source: str) -> tf.TrtforgeError:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if "Error" in line), (lines or ["?"])[-1])
        if "ModuleNotFoundError" in last or "No module named" in last:
            return tf.EnvironmentLacks(
                f"TensorFlow models need tensorflow and tf2onnx: {last[:200]}",
                where=source,
                remedy="pip install 'trtforge[tensorflow]', or set the option python to an"
                " interpreter that has them",
            )
        return tf.ModelError(
            f"the model was not converted: {last[:300]}",
            where=source,
            remedy="convert it with python -m tf2onnx.convert to see the whole log",
        )
