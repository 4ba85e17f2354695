"""Step ``read-ranges``: the ranges of an earlier calibration, also another tool's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trtforge import Context, Ranges, Step, StepError
from trtforge.errors import did_you_mean
from trtforge_plugins.precision.collect_statistics import taps
from trtforge_plugins.precision.range_files import read


@dataclass(frozen=True)
class ReadRanges(Step):
    """Read value ranges from a file instead of measuring them.

    A TensorRT calibration cache (of TensorRT 10 and older), ONNX Runtime's calibration JSON, or
    JSON of `{tensor: [low, high]}`. TensorRT 11 takes no calibration cache: with `insert-qdq`
    behind this step, an old one becomes explicit quantization.
    """

    name = "read-ranges"
    gives = (Ranges,)

    path: Path
    """The file."""

    def reads(self) -> Iterable[Path]:
        """Return the file."""
        return (self.path,)

    def run(self, ctx: Context) -> int:
        """Put :class:`Ranges` into the context, and note tensors that have none.

        Raises:
            DataError: the file cannot be understood.
            StepError: no tensor of the model that could be quantized is in it.
        """
        ranges, method = read(self.path)
        wanted = [str(value.name) for value in taps(ctx.model)[0]]
        missing = [name for name in wanted if name not in ranges]
        if len(missing) == len(wanted):
            hint = did_you_mean(missing[0], ranges) if missing else ""
            raise StepError(
                f"{self.path} has no range for any of the {len(wanted)} tensors that could be "
                f"quantized. {hint}".rstrip(),
                remedy="names of tensors must be those of the model at this point of the recipe",
            )
        for name in missing:
            ctx.note(name, f"{self.path.name} has no range for it")
        ctx.put(Ranges(ranges, method, 0, str(self.path)))
        return 0
