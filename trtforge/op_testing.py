"""What authors of custom ops need in their tests: one call holds an op to all that it declares."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge.cache import default_root
from trtforge.errors import EnvironmentLacks
from trtforge.host_kernels import host_compiler
from trtforge.host_launch import KERNELS, ORDERS, launch_on_host
from trtforge.kernel_source import numpy_type, onnx_name
from trtforge.kernels import Kernel, compile_kernel
from trtforge.op_comparison import Bound, bound, check_close
from trtforge.op_function import OpsetTooOld, call_op
from trtforge.op_sanitizer import TOOLS, sanitize, sanitizer
from trtforge.ops import cut_to_counts, launches
from trtforge.targets import KNOWN, Target, read_target
from trtforge.testing import run_model

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.ops import CustomOp, Launch, Port, Shape, Tactic

TARGETS = tuple(KNOWN[name] for name in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120"))
"""Compute capabilities that kernels are compiled for."""
OPSETS = (15, 17, 18, 20, 22)
"""ONNX opsets that the function body is tried in; 15 brought CastLike, 20 Gelu."""
GUARD = 256
"""Bytes before and after each output that a kernel must leave alone."""

Case = Sequence["Shape | Array"]
"""Each input's shape, to be filled with random numbers, or its values."""


@dataclass(frozen=True)
class OpEvidence:
    """What :func:`check_op` did."""

    opsets: tuple[int, ...]
    """Opsets in which ONNX Runtime ran the function and it equalled the reference."""
    compiled: tuple[str, ...]
    """``float16 sm_86`` and so on."""
    executed_with: str
    """The C++ compiler by which the kernel, executed on the CPU, equalled the reference; empty:
    there was none, so *not executed here*."""
    kernel_ran_on: str
    """The GPU on which the kernel equalled the reference; empty: there was none, so *not run*."""
    sanitized: tuple[str, ...] = ()
    """Tools of compute-sanitizer that found nothing on that GPU; empty: none was here."""


def check_op(
    op: CustomOp,
    cases: Sequence[Case],
    *,
    targets: Sequence[Target] = TARGETS,
    rtol: float | None = None,
    atol: Bound = 1e-6,
) -> OpEvidence:
    """Hold ``op`` to its declaration: shapes, ONNX function, compilation, and the kernel itself.

    The kernel is executed on the CPU, in two orders of its threads (see
    :mod:`trtforge.host_launch`), and on a GPU where there is one. What is compiled is kept in
    trtforge's cache folder. Where the GPU's machine has ``compute-sanitizer``, its checks of memory
    and races are made (:mod:`trtforge.op_sanitizer`).

    Args:
        op: The op with its attributes set.
        cases: For each case the inputs: their shapes or, where random values mean nothing, arrays.
        targets: Compute capabilities to compile for; a type that one lacks is left out there.
        rtol: Relative tolerance; the default is four roundings in the type at hand.
        atol: Absolute tolerance; the default is what float32 loses in ``1 + x`` for ``x`` near -1,
            times ten. A function gets the inputs and returns the bound of each element.

    Raises:
        AssertionError: the op is not what it declares; the message says where.
        KernelError: the kernel does not compile.
        EnvironmentLacks: CuPy or NVRTC is not here.
    """
    rng = np.random.default_rng(0)
    for case in cases:
        _check_shapes(op, make_inputs(op, case, op.dtypes[0], rng))
    tried = [version for version in OPSETS if version <= op.until]
    opsets = tuple(each for each in tried if _check_function(op, cases, each, rtol, atol))
    if not opsets:
        raise AssertionError(f"{op.name}: its ONNX function fits none of the opsets {tried}")
    compiled = _compile_all(op, targets)
    compiler = host_compiler()
    if compiler:
        for case in cases:
            for dtype in op.dtypes:
                check_on_host(op, make_inputs(op, case, dtype, rng), dtype, rtol=rtol, atol=atol)
    gpu = gpu_name()
    if gpu:
        for case in cases:
            for dtype in op.dtypes:
                inputs = make_inputs(op, case, dtype, rng)
                check_close(
                    f"{op.name} on {gpu}, {dtype}, {shapes_of(case)}",
                    op.reference(*inputs), launch_op(op, inputs, dtype), rtol, bound(atol, inputs),
                )  # fmt: skip
    return OpEvidence(opsets, compiled, compiler, gpu, _sanitize(op, cases) if gpu else ())


def _sanitize(op: CustomOp, cases: Sequence[Case]) -> tuple[str, ...]:
    if not sanitizer():
        return ()
    for tool in TOOLS:
        problem = sanitize(op, cases, tool)
        if problem:
            raise AssertionError(f"{op.name}: {problem}")
    return TOOLS


def check_on_host(
    op: CustomOp, inputs: Sequence[Array], dtype: str, *, rtol: float | None = None,
    atol: Bound = 1e-6,
) -> None:  # fmt: skip
    """Execute the kernels of ``op`` on the CPU and compare them with the reference.

    Raises:
        AssertionError: they differ, or the kernel does what it must not.
        EnvironmentLacks: there is no C++ compiler.
    """
    expected, limit = op.reference(*inputs), bound(atol, inputs)
    for order in ORDERS:
        what = f"{op.name} on the CPU, {dtype}, {[array.shape for array in inputs]}, {order}"
        check_close(what, expected, launch_on_host(op, inputs, dtype, order), rtol, limit)


def make_inputs(op: CustomOp, case: Case, dtype: str, rng: np.random.Generator) -> list[Array]:
    """Return inputs of the shapes in ``case``: normal numbers, or small integers for integer types.

    Arrays in ``case`` are inputs already, and only converted to the input's type.
    """
    if len(case) != len(op.inputs):
        raise AssertionError(f"{op.name} has {len(op.inputs)} inputs, the case {len(case)}")
    types = [port.type_for(dtype) for port in op.input_ports()]
    return [
        given.astype(numpy_type(kind))
        if isinstance(given, np.ndarray)
        else _random(given, kind, rng)
        for given, kind in zip(case, types, strict=True)
    ]


def shapes_of(case: Case) -> tuple[Shape, ...]:
    """Return the shapes of the inputs of ``case``."""
    return tuple(tuple(g.shape) if isinstance(g, np.ndarray) else tuple(g) for g in case)


def _random(shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
    if dtype.startswith(("int", "uint")):
        low = 0 if dtype.startswith("u") else -8
        return np.asarray(rng.integers(low, 8, shape)).astype(numpy_type(dtype))
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return np.asarray(2 * rng.standard_normal(shape)).astype(numpy_type(dtype))


def gpu_name() -> str:
    """Return the name of the GPU that CUDA would use, or ``""``."""
    try:
        import cupy

        if not cupy.cuda.runtime.getDeviceCount():
            return ""
        name: bytes = cupy.cuda.runtime.getDeviceProperties(0)["name"]
    except (ImportError, OSError, RuntimeError):  # no CuPy, no driver, no device
        return ""
    return name.decode()


def launch_op(
    op: CustomOp, inputs: Sequence[Array], dtype: str, tactic: Tactic | None = None
) -> tuple[Array, ...]:
    """Run the kernels of ``op`` on the GPU and return its outputs.

    Args:
        op: The op with its attributes set.
        inputs: Its inputs.
        dtype: The type that stands for T.
        tactic: Constants of the template; None: the op's own choice for these shapes.

    Raises:
        AssertionError: the kernel wrote outside its outputs.
        EnvironmentLacks: there is no GPU.
    """
    if not gpu_name():
        raise EnvironmentLacks("launching a kernel needs an NVIDIA GPU with its driver and CuPy")
    import cupy

    shapes = tuple(array.shape for array in inputs)
    outputs = op.shapes(*shapes)
    chosen = op.tactic(dtype, shapes) if tactic is None else tactic
    kinds = [numpy_type(port.type_for(dtype)) for port in op.output_ports()]
    sizes = [prod(s) * kind.itemsize for s, kind in zip(outputs, kinds, strict=True)]
    guarded = [cupy.full(size + 2 * GUARD, 0xA5, cupy.uint8) for size in sizes]
    given = [cupy.asarray(np.frombuffer(array.tobytes(), np.uint8)) for array in inputs]
    results = [buffer[GUARD:] for buffer in guarded]
    counts = [cupy.full(1, -1, np.int32) for _ in op.counted]
    scratch = [
        cupy.full(size, 0xA5, cupy.uint8) for size in [op.workspace(shapes, outputs)] if size
    ]
    target = read_target(cupy.cuda.Device().compute_capability)
    kernel = compile_kernel(op, dtype, target, default_root() / KERNELS, tactic=chosen)
    module = load_module(kernel.cubin)
    started, written = launches(op, shapes, outputs, chosen), [*results, *counts, *scratch]
    for call in kernel_calls(kernel, module, started, given, written):
        call()
    cupy.cuda.runtime.deviceSynchronize()
    found = []
    for buffer, shape, size, kind in zip(guarded, outputs, sizes, kinds, strict=True):
        data = cupy.asnumpy(buffer)
        if (data[:GUARD] != 0xA5).any() or (data[GUARD + size :] != 0xA5).any():
            raise AssertionError(f"{op.name}: the kernel wrote outside its output {shape}")
        found.append(data[GUARD : GUARD + size].view(kind).reshape(shape))
    return cut_to_counts(op, found, [int(count.get()[0]) for count in counts])


def kernel_calls(
    kernel: Kernel,
    module: Any,
    started: Sequence[Launch],
    given: Sequence[Any],
    written: Sequence[Any],
) -> list[Callable[[], object]]:
    """Return what starts the kernels, one after the other; arrays are CuPy's.

    Args:
        kernel: Names the kernels.
        module: CuPy's module of its code.
        started: The launches.
        given: The inputs.
        written: Outputs, counts and scratch memory.
    """
    calls: list[Callable[[], object]] = []
    for launch in started:
        function = module.get_function(entry_of(kernel, launch))
        function.max_dynamic_shared_size_bytes = launch.shared_bytes
        arguments = (*given, *map(np.int32, launch.scalars), *written)
        sizes = (launch.grid,), (launch.block,)
        calls.append(partial(function, *sizes, arguments, shared_mem=launch.shared_bytes))
    return calls


def entry_of(kernel: Kernel, launch: Launch) -> str:
    """Return the name of the kernel that ``launch`` starts."""
    return f"{kernel.entry}_{launch.kernel}" if launch.kernel else kernel.entry


def load_module(cubin: bytes) -> Any:
    """Return the CuPy module of a CUBIN."""
    import cupy

    with tempfile.TemporaryDirectory(prefix="trtforge-kernel-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        module = cupy.RawModule(path=str(path))
        module.compile()  # reads the file now, before its folder goes
        return module


def call_model(op: CustomOp, case: Case, dtype: str, opset: int) -> ir.Model:
    """Return a model of one node that calls ``op``, for inputs of the shapes ``case``."""
    inputs = [
        ir.Value(name=port.name, type=_tensor_type(port, dtype), shape=ir.Shape(shape))
        for port, shape in zip(op.input_ports(), shapes_of(case), strict=True)
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": opset}, name="one_op")
    model = ir.Model(graph, ir_version=10)
    node = call_op(model, op, inputs)
    graph.append(node)
    for value, port, shape in zip(
        node.outputs, op.output_ports(), op.shapes(*shapes_of(case)), strict=True
    ):
        known = (None, *shape[1:]) if port.name in op.counted else shape
        value.name, value.type, value.shape = port.name, _tensor_type(port, dtype), ir.Shape(known)
        graph.outputs.append(value)
    return model


def _tensor_type(port: Port, dtype: str) -> ir.TensorType:
    return ir.TensorType(ir.DataType[onnx_name(port.type_for(dtype))])


def _compile_all(op: CustomOp, targets: Sequence[Target]) -> tuple[str, ...]:
    compiled = []
    for dtype in op.dtypes:
        for target in targets:
            if dtype in target.dtypes or dtype.startswith(("int", "uint", "bool")):
                compile_kernel(op, dtype, target, default_root() / KERNELS)
                compiled.append(f"{dtype} {target}")
    return tuple(compiled)


def _check_shapes(op: CustomOp, inputs: Sequence[Array]) -> None:
    shapes = tuple(array.shape for array in inputs)
    declared = op.shapes(*shapes)
    actual = tuple(array.shape for array in op.reference(*inputs))
    counts = [shape[0] for port, shape in zip(op.output_ports(), actual, strict=True)
              if port.name in op.counted]  # fmt: skip
    most = tuple(
        x.shape
        for x in cut_to_counts(op, [np.empty(shape, np.bool_) for shape in declared], counts)
    )
    if most != actual:
        raise AssertionError(
            f"{op.name}: shapes() says {declared} for inputs {shapes}, reference() gives {actual}"
        )
    for launch in launches(op, shapes, declared, op.tactic(op.dtypes[0], shapes)):
        if launch.grid < 1 or not 1 <= launch.block <= 1024:  # CUDA's limits
            raise AssertionError(f"{op.name}: {launch} cannot be started for inputs {shapes}")
        if any(not -(2**31) <= scalar < 2**31 for scalar in launch.scalars):
            raise AssertionError(f"{op.name}: a scalar of {launch} does not fit the kernel's int")


def _check_function(
    op: CustomOp, cases: Sequence[Case], opset: int, rtol: float | None, atol: Bound
) -> bool:
    """Compare the ONNX function with the reference; False: it needs a later opset."""
    import onnx

    rng = np.random.default_rng(0)
    for case in cases:
        for dtype in op.dtypes:
            try:
                model = call_model(op, case, dtype, opset)
            except OpsetTooOld:
                return False
            try:
                onnx.checker.check_model(ir.to_proto(model), full_check=True)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
                raise AssertionError(
                    f"{op.name}: its ONNX function is invalid for {dtype}: {error}"
                ) from error
        dtype = op.dtypes[0]  # ONNX Runtime's CPU kernels lack most 16-bit types
        inputs = make_inputs(op, case, dtype, rng)
        got = run_model(
            call_model(op, case, dtype, opset),
            {port.name: array for port, array in zip(op.input_ports(), inputs, strict=True)},
        )
        what = f"the ONNX function of {op.name} in opset {opset}, {shapes_of(case)}"
        check_close(what, op.reference(*inputs), tuple(got.values()), rtol, bound(atol, inputs))
    return True
