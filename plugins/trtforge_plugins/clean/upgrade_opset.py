"""upgrade-opset: write the model in a newer version of the standard operator set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir
from trtforge import Context, Pass, RequestError, StepError
from trtforge.graph import graphs, interface, opset
from trtforge.weights import exchanged

from trtforge_plugins.clean.infer_shapes import light

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Write the model in a newer version of the standard ONNX operator set.

    The converter of the ``onnx`` package does it, on the graph without its weights. Its result is
    taken only when the checker accepts it and nothing of the model is lost; otherwise the model
    stays as it is and a note says why.
    """

    name: ClassVar[str] = "upgrade-opset"

    to: int = 21
    """The version to reach; 21 is the first with 4-bit Q/DQ and blocked scales."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Convert; return the number of versions gained, 0 where the model stays as it is.

        Raises:
            RequestError: the installed ``onnx`` package does not know the version asked for.
        """
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.to <= newest:
            raise RequestError(
                f"upgrade-opset: to={self.to} is not between 1 and {newest}",
                remedy="choose a version that the installed onnx package knows",
            )
        given = opset(model)
        if given >= self.to:
            return 0
        place = model.graph.name or "graph"
        reason = self._why_not(model, given)
        if reason is None:
            reason = self._convert(model)
        if reason is not None:
            ctx.note(place, f"left at opset {given}: {reason}")
            return 0
        return self.to - given
