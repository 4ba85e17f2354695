"""fuse-bias-gelu: an addition of a bias and the GELU after it become one custom op."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose, pi, prod, sqrt
from typing import Literal

import onnx_ir as ir
from trtforge_ops import BiasGelu

from trtforge import Context, Pass
from trtforge.graph import add_initializer, constant, is_op, label, replace, scalar
from trtforge.op_function import OpsetTooOld, call_op
from trtforge_plugins.fuse.fusion import remove_dead

Form = Literal["none", "tanh"]
Factors = tuple[float, Counter[ir.Value]]


@dataclass(frozen=True)
class Gelu:
    """A GELU found in the graph, as one node or written out."""

    end: ir.Node
    """The node that gives its result."""
    argument: ir.Value
    form: Form


@dataclass(frozen=True)
class FuseBiasGelu(Pass):
    """Replace the addition of a bias and the GELU after it by one node, ``trtforge::BiasGelu``.

    The GELU may be ONNX's operator or written out with Erf or Tanh, as PyTorch's exporters do. The
    node carries its meaning as an ONNX function: ONNX Runtime runs it, and TensorRT, where the
    kernel is not offered to it as a plugin, builds the function's body.
    """

    name = "fuse-bias-gelu"

    approximate: Literal["keep", "none", "tanh"] = "keep"
    """Form of the fused GELU: ``keep`` the model's, ``none`` (Erf), or ``tanh``, which differs from
    the form with Erf by up to 5e-4."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        changes = 0
        for graph in [model.graph, *model.graph.subgraphs()]:
            for node in graph:
                gelu = find_gelu(node)
                reason = self._fuse(model, graph, gelu) if gelu else ""
                changes += gelu is not None and not reason
                if reason:
                    ctx.note(label(node), reason)
        return changes

    def _fuse(self, model: ir.Model, graph: ir.Graph, gelu: Gelu) -> str:
        """Fuse one GELU; return why not, or ``""`` when it is done."""
        add = gelu.argument.producer()
        if add is None or not is_op(add, "Add") or add.graph is not graph:
            return "its argument is no sum, so there is no bias to fuse"
        pattern = set(nodes_between(gelu.end, gelu.argument))
        if gelu.argument.is_graph_output() or set(gelu.argument.consumers()) - pattern:
            return f"the sum {gelu.argument.name!r} is used elsewhere too, so it must stay"
        x, bias = add.inputs if constant(add.inputs[1]) is not None else add.inputs[::-1]
        values = constant(bias)
        if x is None or bias is None or values is None or constant(x) is not None:
            return "no operand of its sum is a constant bias"
        misfit = _why_not_last_axis(x, bias, values.shape)
        if misfit:
            return misfit
        dtype = ir.DataType.from_numpy(values.dtype).numpy().name
        if dtype not in BiasGelu.dtypes:
            return f"BiasGelu has no kernel for {dtype}"
        op = BiasGelu(gelu.form if self.approximate == "keep" else self.approximate)
        try:
            fused = call_op(model, op, [x, bias], name=add.name)
        except OpsetTooOld as error:
            return f"{error.what}; {error.remedy}"
        if values.ndim > 1:
            flat = add_initializer(graph, f"{bias.name}_flat", values.reshape(-1))
            fused.replace_input_with(1, flat)
        fused.metadata_props.update(add.metadata_props)  # it bears this node's name, too
        fused.outputs[0].type, fused.outputs[0].shape = x.type, x.shape
        replace(gelu.end, fused.outputs, [fused])
        remove_dead([*pattern - {gelu.end}, add])
        return ""


def _why_not_last_axis(x: ir.Value, bias: ir.Value, shape: tuple[int, ...]) -> str:
    length = shape[-1] if shape else 0
    if not length or prod(shape) != length or x.shape is None or len(x.shape) < len(shape):
        return f"the bias {bias.name!r} does not run along the last axis"
    if x.shape[-1] != length:
        return f"{x.name!r} is not known to have the bias's length {length} as last dimension"
    return ""


def find_gelu(node: ir.Node) -> Gelu | None:
    """Return the GELU whose result ``node`` gives, or None.

    Written out, it is ``0.5 · v · (1 + erf(v/√2))`` or
    ``0.5 · v · (1 + tanh(√(2/π) · (v + 0.044715 · v³)))``, its products in any order; these are
    the two forms of ONNX's operator Gelu.
    """
    if is_op(node, "Gelu") and node.inputs[0] is not None:
        attr = node.attributes.get("approximate")
        form: Form = "tanh" if attr is not None and attr.value == "tanh" else "none"
        return Gelu(node, node.inputs[0], form)
    if not is_op(node, "Mul"):
        return None
    coefficient, factors = _factors(node.outputs[0])
    if not _near(coefficient, 0.5) or sorted(factors.values()) != [1, 1]:
        return None
    for shifted, argument in (tuple(factors), tuple(factors)[::-1]):
        form_found = _curve(shifted, argument)
        if form_found:
            return Gelu(node, argument, form_found)
    return None


def _curve(shifted: ir.Value, v: ir.Value) -> Form | None:
    """Tell which curve of ``v``, plus one, ``shifted`` is."""
    curve = _added_to(shifted, 1.0)
    bend = curve.producer() if curve is not None else None
    if bend is None or bend.inputs[0] is None:
        return None
    coefficient, factors = _factors(bend.inputs[0])
    if is_op(bend, "Erf"):
        return "none" if factors == {v: 1} and _near(coefficient, sqrt(0.5)) else None
    if is_op(bend, "Tanh") and len(factors) == 1 and _near(coefficient, sqrt(2 / pi)):
        (cubic,) = factors
        return "tanh" if factors[cubic] == 1 and _is_cubic(cubic, v) else None
    return None


def _is_cubic(value: ir.Value, v: ir.Value) -> bool:
    """Whether ``value`` is ``v + 0.044715 · v³``."""
    node = value.producer()
    if node is None or not is_op(node, "Add"):
        return False
    other = [operand for operand in node.inputs if operand is not None and operand is not v]
    if len(other) != 1:
        return False
    coefficient, factors = _factors(other[0])
    return factors == {v: 3} and _near(coefficient, 0.044715)


def _added_to(value: ir.Value, number: float) -> ir.Value | None:
    """Return what ``number`` is added to in order to give ``value``, or None."""
    node = value.producer()
    if node is None or not is_op(node, "Add"):
        return None
    for operand, other in (node.inputs, node.inputs[::-1]):
        known = scalar(operand)
        if known is not None and _near(float(known), number):
            return other
    return None


def _factors(value: ir.Value, depth: int = 6) -> Factors:
    """Write ``value`` as a number times powers of values, through Mul, Div and Pow by constants.

    ``depth`` bounds the work; a GELU is written with five nested products at most.
    """
    known = scalar(value)
    if known is not None:
        return float(known), Counter()
    node = value.producer()
    if not depth or node is None or not is_op(node, "Mul", "Div", "Pow"):
        return 1.0, Counter({value: 1})
    first, second = node.inputs
    number = scalar(second)
    if first is None or second is None:
        return 1.0, Counter({value: 1})
    coefficient, factors = _factors(first, depth - 1)
    if is_op(node, "Mul"):
        other, more = _factors(second, depth - 1)
        return coefficient * other, factors + more
    if is_op(node, "Div") and number:
        return coefficient / number, factors
    if is_op(node, "Pow") and number in (2, 3):
        power = int(number)
        return coefficient**power, Counter({v: n * power for v, n in factors.items()})
    return 1.0, Counter({value: 1})


def _near(number: float, wanted: float) -> bool:
    return isclose(number, wanted, rel_tol=1e-3)  # float16 keeps three digits of such constants


def nodes_between(end: ir.Node, start: ir.Value) -> Iterator[ir.Node]:
    """Yield ``end`` and the nodes that it is computed by from ``start`` on, the last ones first."""
    todo, seen = [end], {end}
    while todo:
        node = todo.pop(0)
        yield node
        for value in node.inputs:
            producer = None if value is None or value is start else value.producer()
            if producer is not None and producer not in seen and not is_op(producer, "Constant"):
                seen.add(producer)
                todo.append(producer)
