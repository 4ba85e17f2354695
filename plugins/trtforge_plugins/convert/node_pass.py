"""A pass that looks at one node after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import graphs, label, opset
from trtforge_plugins.clean.names import Names
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.rule import Refusal

Taken = Callable[[], Names]
"""The names of a model, gathered when first asked for: that takes a look at every value."""


@dataclass(frozen=True)
class NodePass(Pass):
    """Rewrites single nodes that TensorRT takes, but takes badly.

    A rule of ``make-convertible`` gives values that take a node's place; this pass may also change
    the node and those around it.
    """

    since: ClassVar[int] = 1
    """First version of the standard operators for which it is right."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Rewrite in all graphs and functions; return the number of nodes."""
        standard = model.graph.opset_imports.keys() & {"", "ai.onnx"}
        if not standard or opset(model) < self.since:
            return 0
        version, names, count = opset(model), cache(partial(Names, model)), 0
        for graph in list(graphs(model)):
            for node in list(graph):
                answer = self.rewrite_node(node, Builder(node, version, self.name), names)
                if isinstance(answer, Refusal):
                    ctx.note(label(node), f"left alone: {answer.reason}")
                elif answer:
                    count += 1
        return count

    @abstractmethod
    def rewrite_node(self, node: ir.Node, build: Builder, names: Taken) -> bool | Refusal:
        """Rewrite ``node`` in its graph and return True.

        False: it is none of this pass's business. A :class:`Refusal`: it is, and stays as it is.

        Args:
            node: A node of a graph or a function.
            build: Makes the new nodes; the pass puts them into the graph.
            names: Gives the names of the whole model, for new initializers.
        """
