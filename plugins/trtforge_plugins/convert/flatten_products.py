"""flatten-products: matrix products of many dimensions, and what follows, get two dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant, constant_tensor, is_op
from trtforge_plugins.clean.names import Names
from trtforge_plugins.convert.builder import RULE_KEY, Builder, rank, static_shape
from trtforge_plugins.convert.facts import declared_size, reshape_dims
from trtforge_plugins.convert.node_pass import NodePass, Taken
from trtforge_plugins.convert.rule import Refusal

_SPLIT_OFF = frozenset({"Elu", "Sigmoid", "Tanh"})
_ELEMENTWISE = frozenset({
    "Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Max", "Min", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softsign", "Sub",
    "Tanh",
})  # fmt: skip
_LARGEST_TAIL = 32  # nodes; an activation that is written out has about eight


@dataclass(frozen=True)
class FlattenProducts(NodePass):
    """Compute products with a matrix, and what follows element by element, with two dimensions.

    ``[batch, length, K] x [K, N]`` is the same as ``[batch * length, K] x [K, N]``. TensorRT-RTX
    1.7.1 joins a bias and an activation to a product of two dimensions. Behind one of three
    dimensions it leaves Sigmoid (and so SiLU), Tanh and Elu to a kernel of their own, and a bias
    whose sum is reshaped in its rows; behind one of four the bias and any activation. Only such
    products are changed, and none that has its operand in common with another product, which
    TensorRT joins side by side.
    """

    name: ClassVar[str] = "flatten-products"

    since: ClassVar[int] = 7  # before it operands were broadcast by another rule

    def rewrite_node(self, node: ir.Node, build: Builder, names: Taken) -> bool | Refusal:
        """Flatten a product and what follows it."""
        product = _Product.find(node)
        tail = [] if product is None else list(product.tail())
        if product is None or not product.gains(tail):
            return False
        reason = product.why_not(tail, build.opset)
        if reason is not None:
            return Refusal(reason)
        product.flatten(tail, build, names())
        return True


@dataclass(frozen=True)
class _Product:
    """The product of a tensor of three or more dimensions with a constant matrix."""

    node: ir.Node
    source: ir.Value
    depth: int
    width: int

    @classmethod
    def find(cls, node: ir.Node) -> _Product | None:
        if not is_op(node, "MatMul"):
            return None
        source, weight = node.inputs
        if source is None or weight is None or weight.is_graph_input():
            return None
        held = constant_tensor(weight)
        if held is None or len(held.shape) != 2 or (rank(source) or 0) < 3:
            return None
        depth, width = (int(dim) for dim in held.shape.numpy())
        return cls(node, source, depth, width) if depth and width else None

    def tail(self) -> Iterator[ir.Node]:
        """Yield the nodes that work element by element on the product and on constants."""
        inside, todo = {self.node.outputs[0]}, [self.node.outputs[0]]
        while todo:
            for reader in {use.node: None for use in todo.pop(0).uses()}:
                if reader.outputs[0] in inside or len(inside) > _LARGEST_TAIL:
                    continue
                if reader.graph is self.node.graph and self._takes(reader, inside):
                    inside.add(reader.outputs[0])
                    todo.append(reader.outputs[0])
                    yield reader

    def _takes(self, reader: ir.Node, inside: set[ir.Value]) -> bool:
        """Whether ``reader`` gives the same with two dimensions."""
        return is_op(reader, *_ELEMENTWISE) and all(
            value is None or value in inside or self._runs_along_last_axis(value)
            for value in reader.inputs
        )

    def _runs_along_last_axis(self, value: ir.Value) -> bool:
        held = None if value.is_graph_input() else constant_tensor(value)
        if held is None or len(held.shape) > (rank(self.source) or 0):
            return False
        shape = held.shape.numpy()
        return prod(shape) == 1 or (shape[-1] == prod(shape) == self.width)

    def gains(self, tail: Sequence[ir.Node]) -> bool:
        """Whether TensorRT joins more of ``tail`` to a product of two dimensions."""
        others = (use.node for use in self.source.uses() if use.node is not self.node)
        if not tail or any(is_op(other, "MatMul") for other in others):
            return False
        if (rank(self.source) or 0) > 3 or any(node.op_type in _SPLIT_OFF for node in tail):
            return True
        readers = [use.node for value in _results(self.node, tail) for use in value.uses()]
        return bool(readers) and all(self._keeps_last_axis(reader) for reader in readers)

    def _keeps_last_axis(self, reader: ir.Node) -> bool:
        return is_op(reader, "Reshape") and declared_size(reader.outputs[0], -1) == self.width

    def why_not(self, tail: Sequence[ir.Node], version: int) -> str | None:
        """Return why the product stays all the same, or None."""
        if len(_results(self.node, tail)) != 1:
            return "more than one of the values behind it is read elsewhere"
        if reshape_dims(self.source) is None and version < 15:
            return "before opset 15 no Shape without the last dimension, which its Reshape needs"
        return None

    def flatten(self, tail: Sequence[ir.Node], build: Builder, names: Names) -> None:
        """Reshape before the product, and back behind ``tail``."""
        graph = self.node.graph
        assert graph is not None  # noqa: S101  # find() met it in one
        (result,) = _results(self.node, tail)
        last = next(node for node in (self.node, *tail) if result in node.outputs)
        back = self._reshape_back(result, tail, build)
        flat = self._flat_source(build)
        self.node.replace_input_with(0, flat)
        rows = None if flat.shape is None else flat.shape[0]
        for node in (self.node, *tail):
            _drop_leading_ones(node, build)
            (value,) = node.outputs
            value.name = names.fresh(f"{value.name}_flat")
            value.type, value.shape = self.source.type, ir.Shape([rows, self.width])
        graph.insert_before(self.node, build.nodes)
        graph.insert_after(last, back)
        for index, output in enumerate(graph.outputs):
            if output is result:
                graph.outputs[index] = back.outputs[0]

    def _reshape_back(self, result: ir.Value, tail: Sequence[ir.Node], build: Builder) -> ir.Node:
        """Return a Reshape of ``result`` whose result takes its name, its facts and its readers."""
        inside = {self.node, *tail}
        readers = [use for use in result.uses() if use.node not in inside]
        back = ir.node(
            "Reshape",
            [result, self._shape(build)],
            attributes={"allowzero": 1} if build.opset >= 14 else {},
            name=f"{self.node.name or result.name}/Reshape_back",
            metadata_props={RULE_KEY: FlattenProducts.name},
        )
        (value,) = back.outputs
        value.name, value.type, value.shape = result.name, result.type, result.shape
        if self.source.shape is not None and not result.is_graph_output():
            value.type = self.source.type
            value.shape = ir.Shape([*self.source.shape[:-1], self.width])
        value.metadata_props.update(result.metadata_props)
        result.metadata_props.clear()
        for use in readers:
            use.node.replace_input_with(use.idx, value)
        return back

    def _flat_source(self, build: Builder) -> ir.Value:
        """Return the first operand with two dimensions."""
        before = self.source.producer()
        earlier = before.inputs[0] if before is not None and is_op(before, "Reshape") else None
        if earlier is not None and rank(earlier) == 2 and declared_size(earlier, 1) == self.depth:
            return earlier  # it was flat, and only reshaped for this product
        known = static_shape(self.source)
        rows = 0 if known is None else prod(known[:-1])
        return build.reshape(self.source, [rows or -1, self.depth])

    def _shape(self, build: Builder) -> ir.Value:
        """Return the shape of the product as it was; numbers, where no two of them are open."""
        dims = reshape_dims(self.source)
        if dims is not None:
            return build.const(np.array([*dims[:-1], self.width], np.int64))
        return build.op("Concat", build.op("Shape", self.source, end=-1), [self.width], axis=0)


def _results(product: ir.Node, tail: Sequence[ir.Node]) -> list[ir.Value]:
    """Return the values of ``product`` and ``tail`` that others read."""
    inside = {product, *tail}
    return [
        value
        for node in (product, *tail)
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in inside for use in value.uses())
    ]


def _drop_leading_ones(node: ir.Node, build: Builder) -> None:
    """Give constants of more than two dimensions one dimension."""
    for index, value in enumerate(node.inputs):
        held = constant(value)
        if held is not None and held.ndim > 2:
            node.replace_input_with(index, build.const(held.reshape(-1)))
