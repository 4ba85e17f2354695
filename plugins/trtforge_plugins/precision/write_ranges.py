"""Step ``write-ranges``: the ranges as a file, for ``read-ranges`` and for other tools."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from trtforge import Context, Ranges, Step, StepError
from trtforge_plugins.precision.range_files import Format, text_of


@dataclass(frozen=True)
class WriteRanges(Step):
    """Write the value ranges to a file in the run folder.

    `tensorrt` is the text of TensorRT's calibration cache, which older TensorRT and ModelOpt read;
    `onnxruntime` is what ONNX Runtime's `load_tensors_data` reads; `json` is
    `{tensor: [low, high]}`.
    """

    name = "write-ranges"
    needs = (Ranges,)
    cacheable: ClassVar[bool] = False  # the file must be there after each run

    path: str = "ranges.json"
    """Its name, below the run folder."""
    format: Format = "json"
    """How it is written."""

    def run(self, ctx: Context) -> int:
        """Write the file in one go; a file of that name is replaced.

        Raises:
            StepError: it cannot be written.
        """
        path = ctx.path(self.path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(text_of(ctx.get(Ranges), self.format), "utf-8")
            temporary.replace(path)
        except OSError as error:
            raise StepError(f"{path} cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return 0
