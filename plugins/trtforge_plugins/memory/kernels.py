"""Predicts which nodes TensorRT joins into one kernel, and so which tensors are never stored.

The rules were read off layer dumps of TensorRT-RTX 1.7.1 (``docs/memory.md`` shows how near they
come). A convolution, a matrix product, a pooling or an operator with a kernel of its own is an
*anchor*. Everything else is *light*: arithmetic, reductions, normalizations and data movement,
which is generated code. A light node joins the kernel of its readers where all of them are in one
kernel; a kernel of pure arithmetic joins the anchor before it as its epilogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from trtforge.graph import constant, is_op
from trtforge_plugins.memory.fused_attention import fused_attention

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that give the same bytes another shape: no memory of their own."""
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "DeformConv")
"""Operators whose library kernels get a workspace."""
_OWN_KERNEL = (
    *PRODUCTS, "MaxPool", "TopK", "NonMaxSuppression", "NonZero", "Attention", "LSTM", "GRU", "RNN",
    "ScatterND", "ScatterElements", "Loop", "Scan", "If", "RoiAlign", "GridSample",
)  # fmt: skip
_MOVES = (
    "Transpose", "Concat", "Slice", "Split", "Gather", "GatherElements", "GatherND", "Expand",
    "Tile", "Pad", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
_REDUCES = (
    "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "GroupNormalization",
    "InstanceNormalization", "GlobalAveragePool", "GlobalMaxPool", "AveragePool", "CumSum",
    "LpNormalization", "MeanVarianceNormalization", "ArgMax", "ArgMin", "Hardmax",
)  # fmt: skip


@dataclass(eq=False)
class Kernel:
    """Nodes that run as one, in the model's order."""

    nodes: list[ir.Node] = field(default_factory=list)
    is_generated: bool = False
    """Whether its products run in generated code, which asks for no workspace."""

    @property
    def anchor(self) -> ir.Node | None:
        """The node with a library kernel of its own, where there is one."""
        return next((node for node in self.nodes if is_anchor(node)), None)

    @property
    def needs_workspace(self) -> bool:
        """Whether a library kernel in it asks for scratch memory."""
        return not self.is_generated and any(is_op(node, *PRODUCTS) for node in self.nodes)

    @property
    def is_arithmetic(self) -> bool:
        """Whether every node computes each output element from those at the same place."""
        return not any(
            is_anchor(node) or is_op(node, *_MOVES, *_REDUCES) or node.op_type.startswith("Reduce")
            for node in self.nodes
        )


def is_anchor(node: ir.Node) -> bool:
    """Whether TensorRT runs ``node`` with a kernel from its libraries."""
    return is_op(node, *_OWN_KERNEL) or node.domain not in ("", "ai.onnx")


def is_view(node: ir.Node | None) -> bool:
    """Whether ``node`` moves no data."""
    return is_op(node, *VIEWS)


def origin(value: ir.Value) -> ir.Value:
    """Return the value that ``value`` is a view of."""
    while (node := value.producer()) is not None and is_view(node) and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def kernels(nodes: Iterable[ir.Node], computed: set[ir.Value]) -> list[Kernel]:
    """Return the kernels of ``nodes`` in the order in which they run.

    Args:
        nodes: In topological order.
        computed: Values that depend on the model's inputs; everything else is constant.
    """
    live = [n for n in nodes if not is_view(n) and any(out in computed for out in n.outputs)]
    kernel_of: dict[ir.Node, Kernel] = {}
    for joined in fused_attention(live, readers, origin):
        kernel_of.update(dict.fromkeys(joined, Kernel(joined, is_generated=True)))
    for node in reversed(live):
        if node in kernel_of:
            continue
        kernel_of[node] = _of_readers(node, kernel_of) or Kernel()
        kernel_of[node].nodes.insert(0, node)
        _join_parts(node, kernel_of, computed)
    _join_epilogues(live, kernel_of)
    _join_equal_inputs(live, kernel_of)
    return _ordered(live, kernel_of)


def readers(node: ir.Node) -> list[ir.Node | None]:
    """Return the nodes that read what ``node`` gives, through views; None is the caller."""
    found: list[ir.Node | None] = []
    todo = list(node.outputs)
    while todo:
        value = todo.pop()
        if value.is_graph_output():
            found.append(None)
        for reader in value.consumers():
            if is_view(reader):
                todo.extend(reader.outputs)
            else:
                found.append(reader)
    return found


def sources(node: ir.Node) -> list[ir.Value]:
    """Return the values that ``node`` reads, with views taken away; each once."""
    return list(dict.fromkeys(origin(value) for value in node.inputs if value is not None))


def _of_readers(node: ir.Node, kernel_of: Mapping[ir.Node, Kernel]) -> Kernel | None:
    """Return the kernel that a light node joins: that of all its readers, if it is one."""
    if is_anchor(node):
        return None
    found = {None if each is None else kernel_of.get(each) for each in readers(node)}
    only = found.pop() if len(found) == 1 else None
    return None if only is None or only.anchor is not None else only


def _join_parts(node: ir.Node, kernel_of: dict[ir.Node, Kernel], computed: set[ir.Value]) -> None:
    """Let parts of what a light node gives be written by its own kernel, if only parts are read.

    What it gives is then never stored as a whole, and each part lives on its own.
    """
    mine, found = kernel_of[node], readers(node)
    if is_anchor(node) or not all(each in kernel_of and _is_part(each, computed) for each in found):
        return
    for part in (each for each in found if each is not None and kernel_of[each] is not mine):
        theirs = kernel_of[part]
        moved = [part]
        if all(_is_part(each, computed) for each in theirs.nodes):  # parts of parts
            moved = list(theirs.nodes)
        for each in moved:
            theirs.nodes.remove(each)
            mine.nodes.append(each)
            kernel_of[each] = mine


def _is_part(node: ir.Node | None, computed: set[ir.Value]) -> bool:
    """Whether ``node`` takes a part of one value, at places that are known."""
    if node is None or any(value in computed for value in node.inputs[1:]):
        return False
    if is_op(node, "Gather"):
        index = constant(node.inputs[1])
        return index is not None and index.size == 1
    return is_op(node, "Slice", "Split")


def _join_epilogues(live: list[ir.Node], kernel_of: dict[ir.Node, Kernel]) -> None:
    """Let arithmetic join the last anchor before it that nothing else reads."""
    place = {node: index for index, node in enumerate(live)}
    for anchor in reversed(live):
        if not is_op(anchor, *PRODUCTS) or len(kernel_of[anchor].nodes) > 1:
            continue
        found = {None if each is None else kernel_of.get(each) for each in readers(anchor)}
        only = found.pop() if len(found) == 1 else None
        if only is None or not only.is_arithmetic or _is_left_alone(anchor):
            continue
        before = [value.producer() for node in only.nodes for value in sources(node)]
        latest = max((place[n] for n in before if n in place and n not in only.nodes), default=-1)
        if latest == place[anchor]:
            only.nodes.insert(0, anchor)
            kernel_of[anchor] = only


def _is_left_alone(product: ir.Node) -> bool:
    """Whether TensorRT leaves the arithmetic behind a matrix product to generated code.

    It multiplies matrices of two dimensions. A Sigmoid or Tanh (and so SiLU) right behind the
    Reshape to three is not joined; Relu and GELU are. A bias is not joined behind the Reshape to
    four or more (but to 1xNxMxK), and with it nothing that follows.
    """
    shape = product.outputs[0].shape
    if not is_op(product, "MatMul") or shape is None or len(shape) < 3:
        return False
    found = readers(product)
    if len(found) == 1 and is_op(found[0], "Add") and found[0] is not None:
        is_flat = len(shape) == 3 or (len(shape) == 4 and shape[0] == 1 and shape[1] != 1)
        if not is_flat and any(constant(value) is not None for value in found[0].inputs):
            return True
        found = readers(found[0])
    return any(is_op(each, "Sigmoid", "Tanh") for each in found)


def _join_equal_inputs(live: list[ir.Node], kernel_of: dict[ir.Node, Kernel]) -> None:
    """Join products of one input with several weights, as for query, key and value."""
    first: dict[ir.Value, Kernel] = {}
    for node in live:
        if not is_op(node, "MatMul", "Gemm") or constant(node.inputs[1]) is None:
            continue
        mine, data = kernel_of[node], node.inputs[0]
        if data is None or len(mine.nodes) > 1:
            continue
        joined = first.setdefault(origin(data), mine)
        if joined is not mine:
            joined.nodes.append(node)
            kernel_of[node] = joined


def _ordered(live: list[ir.Node], kernel_of: Mapping[ir.Node, Kernel]) -> list[Kernel]:
    """Return kernels so that each follows what it reads; generated code waits until it is read."""
    order: dict[Kernel, None] = {}
    started: set[Kernel] = set()
    wanted = [n for n in live if kernel_of[n].anchor is not None or None in readers(n)]
    for goal in [*wanted, *live]:
        todo = [(kernel_of[goal], False)]
        while todo:
            kernel, ready = todo.pop()
            if kernel in order or (not ready and kernel in started):
                continue
            if ready:
                order[kernel] = None
                continue
            started.add(kernel)
            todo.append((kernel, True))
            before = [v.producer() for node in kernel.nodes for v in sources(node)]
            todo += [(kernel_of[n], False) for n in reversed(before) if n and n in kernel_of]
    return list(order)
