"""Which nodes of a model TensorRT gets as plugins, and what it reads in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtforge import BuildError, Context, CustomOp, EngineLayers, RequestError, StepError, Target
from trtforge.graph import label, nodes
from trtforge.kernels import compile_kernel
from trtforge.op_attributes import FIELD, PLUGIN_VERSION, plugin_name, read_written, write_op
from trtforge.op_function import read_op
from trtforge_plugins.tensorrt.plugin_outputs import read_counted, why_not_read
from trtforge_plugins.tensorrt.quick_plugin import why_not

KINDS = ("custom_layer", "PluginV3", "plugin")
"""What layer dumps call a plugin's layer: TensorRT-RTX, and the inspector of TensorRT."""


@dataclass(frozen=True)
class Plugins:
    """The model with plugin nodes, and which they are."""

    model: ir.Model
    nodes: tuple[str, ...] = ()
    kinds: tuple[type[CustomOp], ...] = ()

    @property
    def classes(self) -> list[str]:
        """The ops' classes as ``module:class``, for the worker process."""
        return [class_name(kind) for kind in self.kinds]

    def ahead_of_time(self, ctx: Context) -> list[str]:
        """Return the classes whose plugins TensorRT can launch itself; note why others cannot."""
        reasons: dict[type[CustomOp], str] = {}
        by_plugin = {plugin_name(kind): kind for kind in self.kinds}
        for node in nodes(self.model):
            kind = by_plugin.get(node.op_type) if FIELD in node.attributes else None
            if kind is None or reasons.get(kind):
                continue  # all nodes of an op are of one kind of plugin
            shapes = [value.shape if value is not None else None for value in node.inputs]
            ranks = [len(shape) for shape in shapes if shape is not None]
            op = read_written(node.attributes[FIELD].as_string(), kind)
            known = len(ranks) == len(kind.inputs)
            reasons[kind] = why_not(op, ranks) if known else "the rank of an input is not known"
            if reasons[kind]:
                ctx.note(
                    label(node),
                    f"the engine needs Python to run {kind.name}, as TensorRT cannot launch it "
                    f"itself: {reasons[kind]}",
                )
        return [class_name(kind) for kind in self.kinds if not reasons.get(kind, "it has no node")]


def class_name(kind: type[CustomOp]) -> str:
    """Return ``module:class``."""
    return f"{kind.__module__}:{kind.__qualname__}"


def with_plugins(
    model: ir.Model, wanted: str | Sequence[str], targets: Sequence[Target], ctx: Context
) -> Plugins:
    """Return a copy of ``model`` whose custom ops are plugin nodes; the given one stays.

    Args:
        model: Calls custom ops as functions.
        wanted: ``auto``: where the kernel compiles for all targets; ``body``: none; or names.
        targets: What the kernels must compile for.
        ctx: Knows the ops, and is told why a node keeps its function's body.

    Raises:
        RequestError: a wanted name is no custom op, or none in the model.
        StepError: a wanted op cannot be a plugin; in ``auto`` it is noted instead.
    """
    if wanted == "body":
        return Plugins(model)
    named = [] if isinstance(wanted, str) else list(wanted)
    for name in named:
        if name not in ctx.ops:
            raise RequestError(f"plugins: there is no custom op {name!r}")
    if not named and not any(f"{n.domain}::{n.op_type}" in ctx.ops for n in nodes(model)):
        return Plugins(model)
    copy = model.clone()
    refused: dict[tuple[str, str], str] = {}
    swapped: list[str] = []
    kinds: dict[type[CustomOp], None] = {}
    for node in nodes(copy):
        kind = ctx.ops.get(f"{node.domain}::{node.op_type}")
        if kind is None or (named and kind.name not in named):
            continue
        reason = _why_not(node, kind, targets, refused, ctx.ops)
        if reason and named:
            raise StepError(f"node {label(node)!r} cannot be a plugin: {reason}")
        if reason:
            ctx.note(label(node), f"TensorRT gets its function's body, not a plugin: {reason}")
            continue
        swapped.append(_swap(node, kind, ctx.ops))
        kinds[kind] = None
    missing = [name for name in named if name not in {kind.name for kind in kinds}]
    if missing:
        raise RequestError(f"plugins: no node of the model calls {', '.join(missing)}")
    return Plugins(copy, tuple(swapped), tuple(kinds)) if swapped else Plugins(model)


def _why_not(
    node: ir.Node,
    kind: type[CustomOp],
    targets: Sequence[Target],
    refused: dict[tuple[str, str], str],
    ops: Mapping[str, type[CustomOp]],
) -> str:
    if isinstance(node.graph, ir.Function):
        return "it is called inside a function"
    if "<locals>" in kind.__qualname__:
        return f"{kind.__qualname__} is defined inside a function, so no other process finds it"
    op = read_op(node, ops)
    assert op is not None  # noqa: S101  # its kind was found
    types = {
        value.dtype.numpy().name
        for value, port in zip(node.inputs, kind.input_ports(), strict=False)
        if port.dtype == "T" and value is not None and value.dtype is not None
    }
    if len(node.inputs) != len(kind.inputs) or None in node.inputs:
        return "an input of it is left out"
    if why_not_read(node, kind):
        return why_not_read(node, kind)
    if len(types) != 1:
        return "the type of its inputs is not known; put infer-shapes first"
    dtype = types.pop()
    if dtype not in kind.dtypes:
        return f"it has no kernel for {dtype}"
    key = (write_op(op), dtype)
    if key not in refused:
        refused[key] = _compile_problem(op, dtype, targets)
    return refused[key]


def _compile_problem(op: CustomOp, dtype: str, targets: Sequence[Target]) -> str:
    from trtforge.cache import default_root

    for target in targets:
        try:
            compile_kernel(op, dtype, target, default_root() / "kernels")
        except StepError as error:
            return str(error)
    return ""


def _swap(node: ir.Node, kind: type[CustomOp], ops: Mapping[str, type[CustomOp]]) -> str:
    """Make ``node`` a plugin node; return its name, which it gets where it had none."""
    op = read_op(node, ops)
    assert op is not None  # noqa: S101  # its kind was found
    texts = {
        FIELD: write_op(op), "plugin_version": PLUGIN_VERSION, "plugin_namespace": node.domain,
    }  # fmt: skip
    node.name = node.name or f"{kind.name.partition('::')[2]}_{node.outputs[0].name}"
    node.attributes.clear()
    for name, text in texts.items():
        node.attributes.add(ir.AttrString(name, text))
    node.op_type, node.overload = plugin_name(kind), ""
    node.resize_outputs(len(kind.outputs) + len(kind.counted))
    ports = (*kind.output_ports(), *kind.count_ports())
    for value, port in zip(node.outputs, ports, strict=True):  # the parser wants all of them
        value.name = value.name or f"{node.name}_{port.name}"
    read_counted(node, kind)
    return node.name


def prove_plugins(names: Sequence[str], layers: EngineLayers) -> None:
    """Hold the built engine to the plugins that were asked for.

    Raises:
        BuildError: a node is not the plugin layer that it should be.
    """
    built = {
        name
        for layer in layers.layers
        if layer.kind in KINDS
        for name in (*layer.nodes, layer.name)
    }
    lost = [name for name in names if not any(_names(name, text) for text in built)]
    if lost:
        raise BuildError(f"the engine runs {', '.join(lost)} in other layers than its plugin")


def _names(name: str, text: str) -> bool:
    return text == name or text.startswith(f"{name}_myl")
