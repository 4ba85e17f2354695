"""Custom ops as plugins that TensorRT launches itself: PTX and a symbolic launch, no Python later.

TensorRT calls them quickly deployable plugins with an ahead-of-time implementation; the module
``tensorrt.plugin`` has them (in 10.13, not in 10.7 nor in TensorRT-RTX 1.7). What the engine keeps
is one kernel as PTX, and the grid, block, shared memory and 32-bit scalars of its launch as
expressions of the inputs' sizes. An op that needs more than that stays an ``IPluginV3``
(:mod:`~.plugin`), and :func:`why_not` says why.

Written against the bindings, whose ``tensorrt.plugin`` a test runs with a stand-in for the registry
and for expressions of dimensions. Not built with TensorRT's library and not executed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from trtforge import BuildError, CustomOp, Launch, Shape, Tactic
from trtforge.kernels import compile_kernel
from trtforge.op_attributes import FIELD, plugin_name, read_written
from trtforge.ops import launches
from trtforge.symbolic import Expression, NotSymbolic, evaluate, trace
from trtforge_plugins.tensorrt.plugin import TYPES, Workshop, tactics_for, type_of

SHARED_LIMIT = 48 * 1024
"""Bytes of dynamic shared memory that a kernel may have without asking the driver for more."""
RESERVED = ("", "trt", "tensorrt", "std")
"""Namespaces that ``tensorrt.plugin`` keeps for itself."""
OURS = {ours: theirs for theirs, ours in TYPES.items()}
SHORT = {"FLOAT": "FP32", "HALF": "FP16"}
"""Two types have names of their own in the text of a combination."""


def why_not(op: CustomOp, ranks: Sequence[int]) -> str:
    """Say why ``op`` cannot be a plugin that TensorRT launches itself; ``""``: it can.

    Args:
        op: The op with its attributes.
        ranks: Number of dimensions of each input.
    """
    if op.counted:
        return "the length of its outputs depends on the data"
    if "." in op.domain or op.domain in RESERVED:
        return f"tensorrt.plugin takes no namespace {op.domain!r}"
    try:
        trace(op.shapes, ranks)
        scratch = trace(_scratch(op), ranks)
        if isinstance(scratch, Expression) or scratch:
            return "its kernels need scratch memory"
        launched = trace(_launches(op, {n: first for n, (first, *_) in op.tactics.items()}), ranks)
    except NotSymbolic as error:
        return f"its launch cannot be written as expressions of sizes: {error.what}"
    except Exception as error:  # noqa: BLE001  # a rule may refuse sizes with any exception
        return f"its rules refuse some sizes, which an engine cannot: {str(error).splitlines()[0]}"
    if len(launched) != 1:
        return f"it needs {len(launched)} kernels"
    shared = launched[0].shared_bytes
    if isinstance(shared, Expression) or shared > SHARED_LIMIT:
        return "its kernel needs shared memory that depends on sizes, or more than 48 KiB"
    return ""


def _scratch(op: CustomOp) -> Callable[..., int]:
    return lambda *inputs: op.workspace(inputs, op.shapes(*inputs))


def _launches(op: CustomOp, tactic: Tactic) -> Callable[..., tuple[Launch, ...]]:
    return lambda *inputs: launches(op, inputs, op.shapes(*inputs), tactic)


def register(quick: Any, workshop: Workshop, kind: type[CustomOp]) -> None:
    """Register ``kind`` with TensorRT for the rest of the process.

    Args:
        quick: The module ``tensorrt.plugin``, with ahead-of-time implementations.
        workshop: What the plugins of one build share.
        kind: An op for which :func:`why_not` says nothing.

    Raises:
        BuildError: there is such a plugin already.
    """
    domain, name = kind.name.partition("::")[0], plugin_name(kind)
    if getattr(getattr(quick.op, domain, None), name, None) is not None:
        raise BuildError(f"TensorRT has a plugin {name!r} already")
    rules, full = _Rules(quick, workshop, kind), f"{domain}::{name}"
    tensor = quick.TensorDesc
    outputs = tuple.__class_getitem__((tensor,) * len(kind.outputs))
    launch = tuple.__class_getitem__((str, bytes, quick.KernelLaunchParams, quick.SymIntExprs))
    inputs = {f"input_{at}": tensor for at in range(len(kind.inputs))} | {FIELD: str}
    both = {**inputs, "outputs": outputs}
    quick.register(full)(_stated(rules.describe, inputs, outputs))
    quick.autotune(full)(
        _stated(rules.combinations, both, list.__class_getitem__(quick.AutoTuneCombination))
    )
    quick.aot_impl(full)(_stated(rules.kernel, {**both, "tactic": int}, launch))


def _stated(rule: Callable[..., Any], arguments: dict[str, Any], returned: Any) -> Any:
    """Return ``rule`` with the signature that ``tensorrt.plugin`` reads; it is told of failures."""

    @wraps(rule)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return rule(*given, *named.values())
        except Exception as error:
            rules = rule.__self__  # type: ignore[attr-defined]  # it is a method
            cause = f"{type(error).__name__}: {error}"
            rules.workshop.failures.append(
                f"custom op {rules.kind.name}: {rule.__name__} failed: {cause}"
            )
            raise  # as tensorrt.plugin does with what it finds wrong itself

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, annotation=a) for n, a in arguments.items()]
    call.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True)
class _Rules:
    """What ``tensorrt.plugin`` asks of an op; its ``TensorDesc`` are the arguments."""

    quick: Any
    workshop: Workshop
    kind: type[CustomOp]

    def describe(self, *given: Any) -> Any:
        """Return the outputs' types and symbolic shapes."""
        op, inputs = self._op(given[-1]), given[:-1]
        dtype = self._dtype(op, inputs)
        shapes = trace(op.shapes, [each.ndim for each in inputs])
        sizes = _Sizes(self.quick, inputs)
        return tuple(
            self.quick.from_shape_expr(
                tuple(evaluate(dim, sizes) for dim in shape), self._type(port.type_for(dtype))
            )
            for shape, port in zip(shapes, op.output_ports(), strict=True)
        )

    def combinations(self, *given: Any) -> list[Any]:
        """Return the one combination of types, and the tactics, where there is a choice."""
        *inputs, text, outputs = given
        op = self._op(text)
        names = [SHORT.get(each.dtype.name, each.dtype.name) for each in (*inputs, *outputs)]
        count = len(self._tactics(op, inputs))
        tactics = list(range(1, count + 1)) if count > 1 else None
        return [self.quick.AutoTuneCombination(", ".join(names), "LINEAR", tactics)]

    def kernel(self, *given: Any) -> tuple[str, bytes, Any, Any]:
        """Return the kernel's name, its PTX, and its launch as expressions."""
        *inputs, text, _, number = given
        op = self._op(text)
        dtype = self._dtype(op, inputs)
        tactic = self._tactics(op, inputs)[max(number - 1, 0)]
        (launch,) = trace(_launches(op, tactic), [each.ndim for each in inputs])
        sizes = _Sizes(self.quick, inputs)
        parameters = self.quick.KernelLaunchParams()
        parameters.grid_x = evaluate(launch.grid, sizes)
        parameters.block_x = evaluate(launch.block, sizes)
        parameters.shared_mem = evaluate(launch.shared_bytes, sizes)
        scalars = self.quick.SymIntExprs(len(launch.scalars))
        for at, scalar in enumerate(launch.scalars):
            scalars[at] = self.quick.SymInt32(evaluate(scalar, sizes))
        oldest = min(self.workshop.targets)
        compiled = compile_kernel(op, dtype, oldest, self.workshop.store, tactic=tactic)
        entry = f"{compiled.entry}_{launch.kernel}" if launch.kernel else compiled.entry
        return entry, compiled.ptx, parameters, scalars

    def _tactics(self, op: CustomOp, inputs: Sequence[Any]) -> list[Tactic]:
        shapes = _known_shapes(inputs)
        return tactics_for(op, self._dtype(op, inputs), shapes, self.workshop)[0]

    def _op(self, text: str) -> CustomOp:
        return read_written(text.rstrip("\0"), self.kind)

    def _dtype(self, op: CustomOp, inputs: Sequence[Any]) -> str:
        return type_of(op, [TYPES[each.dtype.name] for each in inputs])

    def _type(self, dtype: str) -> Any:
        return getattr(self.workshop.trt.DataType, OURS[dtype])


def _known_shapes(inputs: Sequence[Any]) -> list[tuple[Shape, ...]]:
    """Return the usual, smallest and largest shapes, as far as TensorRT knows them."""
    found = [tuple(_shape(each.shape, which) for each in inputs) for which in ("opt", "min", "max")]
    return [shapes for shapes in found if all(n >= 0 for shape in shapes for n in shape)]


def _shape(shape: Any, which: str) -> Shape:
    return tuple(getattr(shape, which) if shape.is_dynamic else shape)


@dataclass(frozen=True)
class _Sizes:
    """Arithmetic with the expressions of ``tensorrt.plugin``."""

    quick: Any
    inputs: Sequence[Any]

    def constant(self, number: int) -> Any:
        return self.quick.ShapeExpr(number)

    def size(self, tensor: int, axis: int) -> Any:
        return self.inputs[tensor].shape_expr[axis]

    def operation(self, operator: str, operands: Sequence[Any]) -> Any:
        a, b, *rest = operands
        if operator == "choose":  # condition * (yes - no) + no
            return a * (b - rest[0]) + rest[0]
        if operator == "ceil_div":
            return self.quick.cdiv(a, b)
        return {
            "add": a.__add__, "sub": a.__sub__, "mul": a.__mul__, "floor_div": a.__floordiv__,
            "less": a.__lt__, "equal": a.__eq__,
        }[operator](b)  # fmt: skip
