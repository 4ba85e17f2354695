"""Step ``read-times``: what trtexec or ONNX Runtime measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from trtforge import Context, Engine, Profiler, Timings
from trtforge.timing_files import merged, read_timings


@dataclass(frozen=True)
class ReadTimes(Profiler):
    """Read measured times from files: trtexec's exports or ONNX Runtime's profile.

    The forms are told apart by what is in them: `--exportTimes` and `--exportProfile` of trtexec,
    the JSON of ONNX Runtime's profiler. With `layers`, whole runs come from `path` and the layers
    from there.
    """

    name = "read-times"

    path: Path
    """The file."""
    layers: Path | None = None
    """A second file, for the times of the layers."""
    warmup: int | None = None
    """Runs at the start that do not count; by default 1 for ONNX Runtime and 0 for trtexec, which
    leaves its own out."""

    def reads(self) -> Iterable[Path]:
        """Return the files."""
        return tuple(path for path in (self.path, self.layers) if path is not None)

    def profile(self, model: ir.Model, engine: Engine | None, ctx: Context) -> Timings:
        """Return what the files say.

        Raises:
            DataError: a file has none of the three forms.
        """
        del model, engine, ctx
        runs = read_timings(self.path, warmup=self.warmup)
        if self.layers is None:
            return runs
        return merged(runs, read_timings(self.layers))
