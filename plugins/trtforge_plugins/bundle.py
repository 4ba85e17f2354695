"""The ``bundle`` step: packs the engines of a run with all that is needed to check and rebuild."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trtforge import Context, Engine, RequestError, Step

if TYPE_CHECKING:
    from trtforge import Artifact


@dataclass(frozen=True)
class Bundle(Step):
    """Pack the engine, its model, recipe, metrics and hashes into one bundle for many machines.

    `trtforge bundle preflight` then says whether an engine fits a machine.
    """

    name: ClassVar[str] = "bundle"
    needs: ClassVar[tuple[type[Artifact], ...]] = (Engine,)
    cacheable: ClassVar[bool] = False

    file: str = "model.bundle"
    """Name in the run folder: a folder, or one file if it ends in .zip."""
    onnx: bool = True
    """Take the ONNX model along, so that engines can be rebuilt on other machines."""
    sign: Path | None = None
    """File with the ed25519 private key (PEM) to sign with; left out: not signed."""
    licenses: tuple[Path, ...] = ()
    """License files of the model."""

    def run(self, ctx: Context) -> int:
        """Write the bundle; one of an earlier run in this folder is replaced."""
        from trtforge import model_file
        from trtforge.bundle.contents import of_context
        from trtforge.bundle.writer import write

        if not re.fullmatch(r"\w[\w.+-]*", self.file):
            raise RequestError(f"the option file is {self.file!r}; it must be a plain name")
        target = ctx.path(self.file)
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=ctx.workdir) as scratch:
            model = Path(scratch) / "model.onnx"
            model_file.save(ctx.model, model)
            contents = of_context(ctx, model, self.licenses, with_model=self.onnx)
            fresh = Path(scratch) / self.file
            write(contents, fresh, key=self.sign)
            _remove(target)
            fresh.rename(target)
        return 0


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
