"""SurgeonPass: write a pass with onnx-graphsurgeon, as TensorRT people do.

Consecutive surgeon passes share one conversion: the run's model is then a :class:`SurgeonModel`,
which stays a graphsurgeon graph until somebody asks for its onnx-ir graph.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import onnx_ir as ir

from trtforge.errors import StepError
from trtforge.steps import Step

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from trtforge.context import Context

    _Functions = dict[ir.OperatorIdentifier, ir.Function]


@dataclass(frozen=True)
class SurgeonPass(Step):
    """A rewrite of the graph, written with onnx-graphsurgeon.

    What graphsurgeon has no place for comes through unharmed: metadata, 4-bit and 8-bit floating
    weights, function overloads, opset imports. Weights are not copied unless the pass reads them.
    """

    checkpoint: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, graph: gs.Graph, ctx: Context) -> int:
        """Change ``graph`` in place and return how many changes were made: 0 means untouched.

        The graph's inputs and outputs keep their names, types and order. Where a node is left
        alone although it looks like a candidate, ``ctx.note`` says why. Do not read ``ctx.model``:
        it still is the model as it was before.
        """

    @final
    def run(self, ctx: Context) -> int:
        """Apply :meth:`rewrite` to the context's model.

        Raises:
            StepError: the pass left a graph that breaks ONNX's rules.
        """
        earlier = ctx.model
        pending = earlier.pending if isinstance(earlier, SurgeonModel) else None
        graph, source, editors = pending or (_to_surgeon(earlier), earlier, ())
        changes = self.rewrite(graph, ctx)
        if changes:
            _check_names(graph)
        ctx.model = SurgeonModel(graph, source, (*editors, self.name) if changes else editors)
        return changes


class SurgeonModel(ir.Model):
    """A model that is a graphsurgeon graph until its onnx-ir graph is first read.

    Args:
        graph: The graph that surgeon passes edit.
        source: The model that it was made from, not changed since.
        editors: Names of the passes that changed it, for errors; without any, the model is
            ``source`` itself.
    """

    def __init__(self, graph: gs.Graph, source: ir.Model, editors: Sequence[str]) -> None:
        super().__init__(
            source.graph,
            ir_version=source.ir_version,
            producer_name=source.producer_name,
            producer_version=source.producer_version,
            domain=source.domain,
            model_version=source.model_version,
            doc_string=source.doc_string,
            metadata_props=dict(source.metadata_props),
            device_configurations=source.device_configurations,
        )
        self.meta.update(source.meta)
        self.pending: tuple[gs.Graph, ir.Model, Sequence[str]] | None = (graph, source, editors)

    def _settle(self) -> ir.Graph:
        """Convert, once; the graphsurgeon graph is given up."""
        if self.pending is not None:
            graph, source, editors = self.pending
            if editors:
                self._graph, functions = _from_surgeon(graph, editors)
            else:
                self._graph, functions = source.graph, list(source.functions.values())
            self._functions = {function.identifier(): function for function in functions}
            self.pending = None
        return self._graph

    @property  # type: ignore[override]  # a plain attribute in onnx-ir
    def graph(self) -> ir.Graph:
        """The onnx-ir graph."""
        return self._settle()

    @graph.setter
    def graph(self, graph: ir.Graph) -> None:
        self._graph = graph
        self.pending = None

    @property
    def functions(self) -> _Functions:  # type: ignore[override]  # onnx-ir's Model does so as well
        """The model-local functions."""
        self._settle()
        return self._functions


def _to_surgeon(model: ir.Model) -> gs.Graph:
    from trtforge.to_surgeon import to_surgeon  # deferred: it loads onnx-graphsurgeon

    return to_surgeon(model)


def _check_names(graph: gs.Graph) -> None:
    from trtforge.from_surgeon import check_names

    check_names(graph)


def _from_surgeon(graph: gs.Graph, editors: Sequence[str]) -> tuple[ir.Graph, list[ir.Function]]:
    from trtforge.from_surgeon import from_surgeon

    try:
        return from_surgeon(graph)
    except StepError as error:
        error.at(f"the graph left by {', '.join(editors)}")
        raise
