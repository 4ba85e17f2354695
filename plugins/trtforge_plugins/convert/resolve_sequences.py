"""resolve-sequences: use the tensors of a sequence or optional directly where they are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import constant, graphs, is_op, label, opset, scalar
from trtforge_plugins.clean.inlining import hoist_initializers, inline
from trtforge_plugins.clean.names import Names
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.make_convertible import put

MAX_LENGTH = 256
"""Longer sequences are left as they are."""
Part = Callable[[], ir.Value]
"""Gives one tensor of a sequence; nodes are made for it only when somebody reads it."""
Parts = tuple[Part, ...]
_MAKERS = (
    "Identity", "Optional", "OptionalGetElement", "SequenceConstruct", "SequenceEmpty",
    "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence",
)  # fmt: skip
_TENSOR_READERS = ("ConcatFromSequence", "OptionalHasElement", "SequenceAt", "SequenceLength")
_READERS = ("OptionalGetElement", *_TENSOR_READERS)


@dataclass(frozen=True)
class ResolveSequences(Pass):
    """Use the tensors of a sequence or an optional directly where their number is known.

    TensorRT has neither. What depends on a length that only the input decides stays.
    """

    name: ClassVar[str] = "resolve-sequences"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Resolve in all graphs; return the number of nodes replaced or removed."""
        if not model.graph.opset_imports.keys() & {"", "ai.onnx"}:
            return 0
        resolving = _Resolving(Names(model), opset(model), ctx)
        return sum(resolving.visit(home) for home in list(graphs(model)))


@dataclass
class _Resolving:
    names: Names
    opset: int
    ctx: Context
    known: dict[ir.Value, Parts] = field(default_factory=dict)
    """The tensors of each sequence; of an optional none or one."""

    def visit(self, home: ir.Graph | ir.Function) -> int:
        count = 0
        for node in list(home):
            if is_op(node, "OptionalHasElement", "OptionalGetElement") and _is_sequence(node):
                count += self.unwrap(node)
            elif is_op(node, *_READERS) and not _gives_container(node):
                answer = self.read(node)
                if isinstance(answer, Builder):
                    count += 1
                elif answer:
                    self.ctx.note(label(node), f"left alone: {answer}")
            elif is_op(node, *_MAKERS):
                parts = self.parts(node)
                if isinstance(parts, str):
                    self.ctx.note(label(node), f"left alone: {parts}")
                elif parts is not None:
                    self.known[node.outputs[0]] = parts
        return count + _drop_unread(home)

    def unwrap(self, node: ir.Node) -> int:
        """Replace a node that reads an optional where it is given a sequence, which is there.

        Before opset 18 that is no valid model, but unrolling a Loop may leave it.
        """
        build = Builder(node, self.opset, ResolveSequences.name)
        source = node.inputs[0]
        assert source is not None  # noqa: S101  # it is a sequence
        has = node.op_type == "OptionalHasElement"
        put(node, [build.const(np.ones((), bool)) if has else source], build)
        return 1

    def read(self, node: ir.Node) -> Builder | str:
        """Replace a node that reads a tensor or number, or return why not."""
        build = Builder(node, self.opset, ResolveSequences.name)
        source = node.inputs[0] if node.inputs else None
        if node.op_type == "OptionalHasElement" and source is None:
            parts: Parts | None = ()
        else:
            parts = self.of(source)
        if parts is None:
            return "which tensors it reads is not known before it runs"
        value = self._read_value(node, parts, build)
        if isinstance(value, str):
            return value
        put(node, [value], build)
        return build

    def of(self, value: ir.Value | None) -> Parts | None:
        """Return the tensors behind ``value``; a tensor is an optional that holds itself."""
        if value in self.known:
            return self.known[value]
        if value is not None and isinstance(value.type, ir.TensorType):
            return (lambda: value,)
        return None

    def _read_value(self, node: ir.Node, parts: Parts, build: Builder) -> ir.Value | str:
        match node.op_type:
            case "SequenceLength":
                return build.const(np.asarray(len(parts), np.int64))
            case "OptionalHasElement":
                return build.const(np.asarray(len(parts) > 0))
            case "OptionalGetElement":
                return parts[0]() if len(parts) == 1 else "the optional holds no tensor"
            case "SequenceAt":
                position = _position(node, 1, len(parts))
                return position if isinstance(position, str) else parts[position]()
            case _:
                return self._concat(node, parts, build)

    def _concat(self, node: ir.Node, parts: Parts, build: Builder) -> ir.Value | str:
        if not parts:
            return "the sequence is empty"
        axis, values = node.attributes["axis"].as_int(), [part() for part in parts]
        if node.attributes.get_int("new_axis", 0):
            values = [build.unsqueeze(value, [axis]) for value in values]
        return build.op("Concat", *values, axis=axis)

    def parts(self, node: ir.Node) -> Parts | str | None:
        """Return the tensors of the sequence or optional that ``node`` makes, if it makes one."""
        source = node.inputs[0] if node.inputs else None
        match node.op_type:
            case "Identity" if not _gives_container(node):
                return None
            case "SequenceConstruct":
                return tuple(partial(_same, value) for value in node.inputs if value is not None)
            case "SplitToSequence":
                return self._split(node)
            case "SequenceMap":
                return self._map(node)
            case "SequenceEmpty" | "Optional" if source is None:
                return ()
        given = self.of(source)
        if given is None:
            return "which tensors it holds is not known before it runs"
        if node.op_type in ("SequenceInsert", "SequenceErase"):
            return _edited(node, given)
        return given

    def _split(self, node: ir.Node) -> Parts | str:
        source, axis = node.inputs[0], node.attributes.get_int("axis", 0)
        length = None if source is None or source.shape is None else source.shape[axis]
        sizes = _sizes(node, length)
        if isinstance(sizes, str):
            return sizes
        squeeze = len(node.inputs) < 2 and not node.attributes.get_int("keepdims", 1)

        @cache
        def split() -> tuple[ir.Value, ...]:
            build = Builder(node, self.opset, ResolveSequences.name)
            values = _split_values(build, source, sizes, axis)
            if squeeze:
                values = tuple(build.squeeze(value, [axis]) for value in values)
            assert node.graph is not None  # noqa: S101  # it came from a graph
            node.graph.insert_before(node, build.nodes)
            return values

        return tuple(lambda index=index: split()[index] for index in range(len(sizes)))

    def _map(self, node: ir.Node) -> Parts | str:
        """Run the body once for each position; other results than the first are noted here too."""
        columns = [self.known.get(value) if value is not None else None for value in node.inputs]
        if columns[0] is None or any(
            column is None and value is not None and not isinstance(value.type, ir.TensorType)
            for value, column in zip(node.inputs, columns, strict=True)
        ):
            return "which tensors it holds is not known before it runs"
        count = len(columns[0])
        if count > MAX_LENGTH:
            return f"it maps {count} tensors, more than {MAX_LENGTH}"
        rows = [cache(partial(self._iteration, node, columns, index)) for index in range(count)]
        for position, output in enumerate(node.outputs):
            self.known[output] = tuple(partial(_entry, row, position) for row in rows)
        return self.known[node.outputs[0]]

    def _iteration(self, node: ir.Node, columns: list[Parts | None], index: int) -> list[ir.Value]:
        """Put the body's nodes for the tensors at ``index`` before ``node``; return its results."""
        home = node.graph
        assert home is not None  # noqa: S101  # it came from a graph
        body = node.attributes["body"].as_graph().clone(allow_outer_scope_values=True)
        self.names.add(body)
        for value, shared in hoist_initializers(body, node, home, self.names).items():
            value.replace_all_uses_with(shared)
            body.initializers.pop(value.name or "")
        arguments = [
            column[index]() if column is not None else value
            for value, column in zip(node.inputs, columns, strict=True)
        ]
        results, _ = inline(body, [v for v in arguments if v is not None], node, home, self.names)
        return results


def _edited(node: ir.Node, given: Parts) -> Parts | str:
    """Return ``given`` with one tensor inserted or erased, or why it cannot be done."""
    inserts, count = node.op_type == "SequenceInsert", len(given)
    position = _position(node, 2, count, last=count) if inserts else _position(node, 1, count)
    if isinstance(position, str):
        return position
    if not inserts:
        return given[:position] + given[position + 1 :]
    new = node.inputs[1]
    assert new is not None  # noqa: S101  # its schema asks for it
    return (*given[:position], partial(_same, new), *given[position:])


def _same(value: ir.Value) -> ir.Value:
    return value


def _entry(row: Callable[[], list[ir.Value]], position: int) -> ir.Value:
    return row()[position]


def _is_sequence(node: ir.Node) -> bool:
    """Whether the first input is surely a sequence, not an optional."""
    source = node.inputs[0] if node.inputs else None
    makers = ("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert")
    return source is not None and (
        isinstance(source.type, ir.SequenceType) or is_op(source.producer(), *makers)
    )


def _gives_container(node: ir.Node) -> bool:
    """Whether the result is a sequence or an optional; its type may not have been inferred."""
    known = isinstance(node.outputs[0].type, ir.SequenceType | ir.OptionalType)
    return known or node.op_type not in ("Identity", "OptionalGetElement", *_TENSOR_READERS)


def _position(node: ir.Node, place: int, count: int, last: int | None = None) -> int | str:
    """Return the position that input ``place`` gives, or what is wrong with it.

    Negative ones count from the end of the ``count`` tensors. ``last`` is the largest one that is
    allowed, and the one that is meant when none is given.
    """
    last = count - 1 if last is None else last
    value = node.inputs[place] if place < len(node.inputs) else None
    number = last if value is None else scalar(value)
    if number is None:
        return "its position is computed at run time"
    position = int(number) + count if number < 0 else int(number)
    return position if 0 <= position <= last else f"position {number} is outside the sequence"


def _sizes(node: ir.Node, length: object) -> list[int] | str:
    """Return the sizes of the parts of a SplitToSequence, or why they are not known."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    split = constant(given) if given is not None else np.ones((), np.int64)
    if split is None:
        return "its split is computed at run time"
    if split.ndim == 1:
        return [int(size) for size in split]
    step = int(split)
    if not isinstance(length, int) or step < 1:
        return "the length of the axis that it splits is not static"
    if -(-length // step) > MAX_LENGTH:
        return f"it makes {-(-length // step)} tensors, more than {MAX_LENGTH}"
    return [min(step, length - start) for start in range(0, length, step)]


def _split_values(
    build: Builder, source: ir.Value | None, sizes: list[int], axis: int
) -> tuple[ir.Value, ...]:
    if build.opset >= 13:
        return build.ops("Split", len(sizes), source, sizes, axis=axis)
    return build.ops("Split", len(sizes), source, split=sizes, axis=axis)


def _drop_unread(home: ir.Graph | ir.Function) -> int:
    """Remove the nodes that make a sequence or optional which nobody reads."""
    count = 0
    for node in reversed(list(home)):
        containers = is_op(node, *_MAKERS) and _gives_container(node)
        if containers and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            home.remove(node, safe=True)
            count += 1
    return count
