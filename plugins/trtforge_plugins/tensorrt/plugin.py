"""Custom ops as TensorRT plugins: one ``IPluginV3`` in Python for every op.

The plugin reads its op from one text attribute (TensorRT would cut int64 to INT32 and cannot read
float16), compiles the op's kernels while TensorRT configures it, and leaves them in the engine as
its fields: CUBINs for each target, and PTX for later GPUs. It was built with TensorRT-RTX 1.7.1;
:mod:`~.plugin_launch`, which starts the kernels at run time, was not executed by TensorRT here.

TensorRT swallows exceptions of some callbacks and crashes on those of others, so none leaves a
callback: it is kept in ``failures``, the callback answers something harmless, and the build fails
afterwards (:func:`first_failure`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from trtforge import BuildError, CustomOp, EnvironmentLacks, Shape, Tactic, Target
from trtforge.kernels import compile_kernel
from trtforge.op_attributes import FIELD, PLUGIN_VERSION, plugin_name, read_written
from trtforge.ops import launches
from trtforge.symbolic import evaluate, trace
from trtforge.tuning import Tuning, size_class, within
from trtforge_plugins.tensorrt.plugin_fields import Carried, read_fields, write_fields

TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8",
    "INT32": "int32", "INT64": "int64", "BOOL": "bool", "FP8": "float8e4m3fn",
}  # fmt: skip
"""TensorRT's element types in ONNX's spelling."""


@dataclass
class Workshop:
    """What all plugins of one build share."""

    trt: Any
    targets: tuple[Target, ...] = ()
    store: Path | None = None
    """Where compiled kernels are kept."""
    tuning: Path | None = None
    """Where `trtforge op bench` keeps what it found."""
    failures: list[str] = field(default_factory=list)
    """Exceptions of callbacks: op, method and cause."""


@contextmanager
def offered(workshop: Workshop, kinds: Sequence[type[CustomOp]]) -> Iterator[None]:
    """Offer a plugin for each op to TensorRT's parser and runtime while the block runs.

    Raises:
        BuildError: a plugin of the name is registered already; or, when the block ends, a callback
            of a plugin failed.
    """
    registry = workshop.trt.get_plugin_registry()
    creators = [_creator(workshop, kind) for kind in kinds]
    taken = []
    try:
        for creator in creators:
            if not registry.register_creator(creator, creator.plugin_namespace):
                raise BuildError(f"TensorRT has a plugin {creator.name!r} already")
            taken.append(creator)
        yield
    finally:
        for creator in taken:
            registry.deregister_creator(creator)


def check_fields(trt: Any) -> None:
    """Hold these bindings to what a plugin needs first: an array in a field is read as it is.

    Raises:
        EnvironmentLacks: they read each entry as the first. Bindings up to 10.15 do with NumPy 2,
            not with NumPy 1.
    """
    array = np.array([1, 2], np.int8)
    field = trt.PluginField("check", array, trt.PluginFieldType.CHAR)
    if np.asarray(field.data).tolist() != array.tolist():
        raise EnvironmentLacks(
            f"the Python bindings of TensorRT {trt.__version__} misread the fields of plugins "
            f"with NumPy {np.__version__}",
            remedy="install TensorRT 10.16 or later, or build with plugins: body",
        )


def guarded(answer: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keep exceptions of a callback away from TensorRT; ``answer(self)`` is returned instead."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(self: Any, *given: Any, **named: Any) -> Any:
            try:
                return method(self, *given, **named)
            except Exception as error:  # noqa: BLE001  # any exception here would crash TensorRT
                text = f"{self.title}: {method.__name__} failed: {type(error).__name__}: {error}"
                if text not in self.workshop.failures:
                    self.workshop.failures.append(text)
                return answer(self)

        return call

    return decorate


def _creator(workshop: Workshop, kind: type[CustomOp]) -> Any:
    trt = workshop.trt

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc, name-defined]  # no types
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.workshop, self.title = workshop, f"custom op {kind.name}"
            self.name, self.plugin_version = plugin_name(kind), PLUGIN_VERSION
            self.plugin_namespace = kind.name.partition("::")[0]
            empty = np.zeros(0, np.int8)
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(FIELD, empty, trt.PluginFieldType.CHAR)]
            )

        @guarded(lambda _: None)  # TensorRT then refuses the node
        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            given = {each.name: np.asarray(each.data).tobytes() for each in fields}
            text = given.pop(FIELD).rstrip(b"\0").decode()
            carried = read_fields(given) if phase == trt.TensorRTPhase.RUNTIME else None
            return plugin_class(trt)(workshop, read_written(text, kind), text, name, carried)

    return Creator()


class Callbacks:
    """What TensorRT calls; the names and arguments are its own."""

    def __init__(
        self, workshop: Workshop, op: CustomOp, text: str, layer: str, carried: Carried | None
    ) -> None:
        for each in type(self).__bases__[1:]:
            each.__init__(self)  # type: ignore[misc]  # bases of TensorRT, known at run time only
        self.workshop, self.op, self.text, self.layer = workshop, op, text, layer
        self.carried = carried or Carried()
        self.chosen = 0
        self.title = f"custom op {op.name}, node {layer!r}"
        self.plugin_name, self.plugin_version = plugin_name(type(op)), PLUGIN_VERSION
        self.plugin_namespace = op.domain
        self.num_outputs = len(op.outputs) + len(op.counted)
        self._kept: Any = None

    @guarded(lambda self: self)
    def get_capability_interface(self, _kind: Any) -> Any:
        """Return the plugin itself, which has all three capabilities."""
        return self

    def clone(self) -> Any:
        """Return a copy."""
        twin = type(self)(self.workshop, self.op, self.text, self.layer, self.carried)
        twin.chosen = self.chosen
        return twin

    @guarded(lambda self: [self.workshop.trt.DataType.FLOAT] * self.num_outputs)
    def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
        """Return the outputs' types."""
        dtype = type_of(self.op, [TYPES[each.name] for each in types])
        names = {ours: theirs for theirs, ours in TYPES.items()}
        ports = (*self.op.output_ports(), *self.op.count_ports())
        return [getattr(self.workshop.trt.DataType, names[port.type_for(dtype)]) for port in ports]

    @guarded(lambda _: [])
    def get_output_shapes(self, inputs: Sequence[Any], _values: Any, maker: Any) -> list[Any]:
        """Return the outputs' shapes as TensorRT's expressions."""
        shapes = trace(self.op.shapes, [len(dims) for dims in inputs])
        ours = _Dimensions(self.workshop.trt, inputs, maker)
        sizes = [[evaluate(dim, ours) for dim in shape] for shape in shapes]
        ports = [port.name for port in self.op.output_ports()]
        for at, name in enumerate(self.op.counted, len(ports)):
            most = sizes[ports.index(name)]
            most[0] = maker.declare_size_tensor(at, most[0], most[0])
            sizes.append([])  # the count itself
        return [self.workshop.trt.DimsExprs(shape) for shape in sizes]

    @guarded(lambda _: True)
    def supports_format_combination(self, at: int, tensors: Any, _inputs: int) -> bool:
        """Whether tensor ``at`` fits those before it: linear, T the same everywhere."""
        descriptions = [getattr(each, "desc", each) for each in tensors[: at + 1]]
        names = [TYPES.get(each.type.name, "") for each in descriptions]
        if descriptions[-1].format != self.workshop.trt.TensorFormat.LINEAR:
            return False
        ports = (*self.op.input_ports(), *self.op.output_ports(), *self.op.count_ports())
        letters = [
            name for name, port in zip(names, ports[: at + 1], strict=True) if port.dtype == "T"
        ]
        if ports[at].dtype != "T":
            return names[at] == ports[at].dtype
        return names[at] in self.op.dtypes and len(set(letters)) == 1

    @guarded(lambda _: None)
    def configure_plugin(self, inputs: Any, _outputs: Any) -> None:
        """Compile the kernels that the op prefers at these shapes."""
        dtype = type_of(self.op, [TYPES[each.desc.type.name] for each in inputs])
        sizes = [
            tuple(tuple(getattr(each, which)) for each in inputs) for which in ("opt", "min", "max")
        ]
        known = [shapes for shapes in sizes if all(n >= 0 for shape in shapes for n in shape)]
        for shapes in known:
            tactic = self.op.tactic(dtype, shapes)
            launches(self.op, shapes, self.op.shapes(*shapes), tactic)  # does the rule hold?
        self.carried = _compiled(self.op, dtype, known, self.workshop)

    @guarded(lambda _: 0)
    def get_workspace_size(self, inputs: Any, _outputs: Any) -> int:
        """Return the scratch memory at the largest shapes, bytes."""
        largest = tuple(tuple(each.max) for each in inputs)
        return self.op.workspace(largest, self.op.shapes(*largest))

    @guarded(lambda _: [])
    def get_valid_tactics(self) -> list[int]:
        """Return the numbers of the tactics, where there is a choice."""
        count = len(self.carried.tactics)
        return list(range(1, count + 1)) if count > 1 else []

    @guarded(lambda self: self.workshop.trt.PluginFieldCollection([]))
    def get_fields_to_serialize(self) -> Any:
        """Return the op and its kernels for the engine."""
        blobs = {FIELD: self.text.encode(), **write_fields(self.carried)}
        self._kept = [
            self.workshop.trt.PluginField(
                name, np.frombuffer(blob, np.int8).copy(), self.workshop.trt.PluginFieldType.CHAR
            )
            for name, blob in blobs.items()
        ]  # TensorRT copies them after this returns
        return self.workshop.trt.PluginFieldCollection(self._kept)

    @guarded(lambda self: self.clone())
    def attach_to_context(self, _context: Any) -> Any:
        """Return a copy for an execution context."""
        return self.clone()

    @guarded(lambda _: None)
    def set_tactic(self, tactic: int) -> None:
        """Take TensorRT's choice."""
        self.chosen = tactic

    @guarded(lambda _: None)
    def on_shape_change(self, _inputs: Any, _outputs: Any) -> None:
        """Nothing to prepare: each launch computes its sizes."""

    def enqueue(
        self, inputs: Any, _outputs: Any, sources: Any, results: Any, scratch: int, stream: int
    ) -> None:
        """Start the kernels."""
        from trtforge_plugins.tensorrt.plugin_launch import Call, enqueue

        shapes = tuple(tuple(each.dims) for each in inputs)
        most = self.op.shapes(*shapes)  # of a counted output TensorRT knows no size yet
        call = Call(shapes, most, (*sources,), (*results,), scratch, stream)
        enqueue(self.op, self.carried, self.chosen, call)


def plugin_class(trt: Any) -> Any:
    """Return the class of all plugins; it cannot be made before TensorRT is imported."""
    bases = (
        trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime,
    )  # fmt: skip
    return type("Plugin", (Callbacks, *bases), {})


def type_of(op: CustomOp, types: Sequence[str]) -> str:
    """Return the type that stands for T, given the types of the inputs."""
    ports = op.input_ports()
    found = {name for name, port in zip(types, ports, strict=True) if port.dtype == "T"}
    if len(found) != 1:
        raise BuildError(f"its inputs of type T have the types {sorted(found)}")
    return found.pop()


def _compiled(
    op: CustomOp, dtype: str, shapes: Sequence[tuple[Shape, ...]], workshop: Workshop
) -> Carried:
    """Compile the tactics of :func:`tactics_for`."""
    tactics, tuned = tactics_for(op, dtype, shapes, workshop)
    oldest = min(workshop.targets)
    cubins, ptx, entry = {}, {}, ""
    for number, tactic in enumerate(tactics, 1):
        for target in workshop.targets:
            kernel = compile_kernel(op, dtype, target, workshop.store, tactic=tactic)
            cubins[target.sm, number] = kernel.cubin
            entry = kernel.entry
            if target == oldest:
                ptx[number] = kernel.ptx
    numbers = {name: tactics.index(tactic) + 1 for name, tactic in tuned.items()}
    return Carried(dtype, entry, tuple(tactics), cubins, ptx, oldest.sm, numbers)


def tactics_for(
    op: CustomOp, dtype: str, shapes: Sequence[tuple[Shape, ...]], workshop: Workshop
) -> tuple[list[Tactic], dict[str, Tactic]]:
    """Return the op's tactics at the usual, smallest and largest shapes, and the tuned ones.

    Returns:
        All of them, the first of which is best at the usual shapes, and the tuned ones by name.

    Raises:
        BuildError: there are no shapes, or no targets.
    """
    if not shapes:
        raise BuildError("no shape of its inputs is known")
    if not workshop.targets:
        raise BuildError("no target is known to compile its kernels for")
    tuned = _tuned(op, dtype, shapes, workshop)
    usual = [tuned[name] for name in tuned if name.endswith(f" {size_class(shapes[0])}")]
    tactics = list[Tactic]()
    for tactic in (*usual, *(op.tactic(dtype, each) for each in shapes), *tuned.values()):
        if tactic not in tactics:
            tactics.append(tactic)
    return tactics, tuned


def _tuned(
    op: CustomOp, dtype: str, shapes: Sequence[tuple[Shape, ...]], workshop: Workshop
) -> dict[str, Tactic]:
    """Return what was measured for the targets at sizes from the smallest to the largest shapes."""
    if workshop.tuning is None:
        return {}
    store, ends = Tuning(workshop.tuning), (shapes[len(shapes) // 2], shapes[-1])  # opt, min, max
    return {
        f"{target.sm} {name}": tactic
        for target in workshop.targets
        for name, tactic in store.find(op, dtype, target.sm).items()
        if within(name, *ends)
    }


@dataclass(frozen=True)
class _Dimensions:
    """Arithmetic with TensorRT's expressions of dimensions."""

    trt: Any
    inputs: Sequence[Any]
    maker: Any

    def constant(self, number: int) -> Any:
        return self.maker.constant(number)

    def size(self, tensor: int, axis: int) -> Any:
        return self.inputs[tensor][axis]

    def operation(self, operator: str, operands: Sequence[Any]) -> Any:
        if operator == "choose":  # condition * (yes - no) + no
            condition, yes, no = operands
            difference = self.operation("sub", (yes, no))
            return self.operation("add", (self.operation("mul", (condition, difference)), no))
        names: Mapping[str, str] = {
            "add": "SUM", "sub": "SUB", "mul": "PROD", "floor_div": "FLOOR_DIV",
            "ceil_div": "CEIL_DIV", "less": "LESS", "equal": "EQUAL",
        }  # fmt: skip
        return self.maker.operation(
            getattr(self.trt.DimensionOperation, names[operator]), *operands
        )
