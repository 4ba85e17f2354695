"""What authors of custom ops need in their tests: one call holds an op to all that it declares."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge.errors import EnvironmentLacks
from trtforge.kernels import compile_kernel
from trtforge.op_function import OpsetTooOld, call_op
from trtforge.targets import KNOWN, Target, read_target
from trtforge.testing import run_model

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.ops import CustomOp, Shape

TARGETS = tuple(KNOWN[name] for name in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120"))
"""Compute capabilities that kernels are compiled for."""
OPSETS = (15, 17, 18, 20, 22)
"""ONNX opsets that the function body is tried in; 15 brought CastLike, 20 Gelu."""
GUARD = 256
"""Bytes before and after each output that a kernel must leave alone."""

Case = Sequence["Shape"]


@dataclass(frozen=True)
class OpEvidence:
    """What :func:`check_op` did."""

    opsets: tuple[int, ...]
    """Opsets in which ONNX Runtime ran the function and it equalled the reference."""
    compiled: tuple[str, ...]
    """``float16 sm_86`` and so on."""
    kernel_ran_on: str
    """The GPU on which the kernel equalled the reference; empty: there was none, so *not run*."""


def check_op(
    op: CustomOp,
    cases: Sequence[Case],
    *,
    targets: Sequence[Target] = TARGETS,
    rtol: float | None = None,
    atol: float = 1e-6,
) -> OpEvidence:
    """Hold ``op`` to its declaration: shapes, ONNX function, compilation and, on a GPU, the kernel.

    Args:
        op: The op with its attributes set.
        cases: Shapes of the inputs, one tuple of shapes per case.
        targets: Compute capabilities to compile for; a type that one lacks is left out there.
        rtol: Relative tolerance; the default is four roundings in the type at hand.
        atol: Absolute tolerance; the default is what float32 loses in ``1 + x`` for ``x`` near -1,
            times ten.

    Raises:
        AssertionError: the op is not what it declares; the message says where.
        KernelError: the kernel does not compile.
        EnvironmentLacks: CuPy or NVRTC is not here.
    """
    rng = np.random.default_rng(0)
    for case in cases:
        _check_shapes(op, make_inputs(op, case, op.dtypes[0], rng))
    opsets = tuple(version for version in OPSETS if _check_function(op, cases, version, rtol, atol))
    if not opsets:
        raise AssertionError(f"{op.name}: its ONNX function fits none of the opsets {OPSETS}")
    compiled = []
    for dtype in op.dtypes:
        for target in targets:
            if dtype in target.dtypes or dtype.startswith("int"):
                compile_kernel(op, dtype, target)
                compiled.append(f"{dtype} {target}")
    gpu = gpu_name()
    if gpu:
        for case in cases:
            for dtype in op.dtypes:
                inputs = make_inputs(op, case, dtype, rng)
                _check_close(
                    f"{op.name} on {gpu}, {dtype}, {case}",
                    op.reference(*inputs), launch_op(op, inputs, dtype), rtol, atol,
                )  # fmt: skip
    return OpEvidence(opsets, tuple(compiled), gpu)


def make_inputs(op: CustomOp, case: Case, dtype: str, rng: np.random.Generator) -> list[Array]:
    """Return inputs of the shapes ``case``: normal numbers, or small integers for integer types."""
    if len(case) != len(op.inputs):
        raise AssertionError(f"{op.name} has {len(op.inputs)} inputs, the case {case} {len(case)}")
    numpy_type = np.dtype(dtype)
    if dtype.startswith("int"):
        return [rng.integers(-8, 8, shape).astype(numpy_type) for shape in case]
    return [(2 * rng.standard_normal(shape)).astype(numpy_type) for shape in case]


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


def launch_op(op: CustomOp, inputs: Sequence[Array], dtype: str) -> tuple[Array, ...]:
    """Run the kernel of ``op`` on the GPU and return its outputs, all of the type ``dtype``.

    Raises:
        AssertionError: the kernel wrote outside its outputs.
        EnvironmentLacks: there is no GPU.
    """
    if not gpu_name():
        raise EnvironmentLacks("launching a kernel needs an NVIDIA GPU with its driver and CuPy")
    import cupy

    shapes = tuple(array.shape for array in inputs)
    outputs = op.shapes(*shapes)
    launch = op.launch(shapes, outputs)
    numpy_type = np.dtype(dtype)
    sizes = [int(np.prod(shape)) * numpy_type.itemsize for shape in outputs]
    guarded = [cupy.full(size + 2 * GUARD, 0xA5, cupy.uint8) for size in sizes]
    arguments = [cupy.asarray(np.frombuffer(array.tobytes(), np.uint8)) for array in inputs]
    arguments += [np.int32(scalar) for scalar in launch.scalars]
    arguments += [buffer[GUARD:] for buffer in guarded]
    kernel = compile_kernel(op, dtype, read_target(cupy.cuda.Device().compute_capability))
    with tempfile.TemporaryDirectory(prefix="trtforge-kernel-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(kernel.cubin)
        function = cupy.RawModule(path=str(path)).get_function(kernel.entry)
        function((launch.grid,), (launch.block,), arguments, shared_mem=launch.shared_bytes)
        cupy.cuda.runtime.deviceSynchronize()
    results = []
    for buffer, shape, size in zip(guarded, outputs, sizes, strict=True):
        data = cupy.asnumpy(buffer)
        if (data[:GUARD] != 0xA5).any() or (data[GUARD + size :] != 0xA5).any():
            raise AssertionError(f"{op.name}: the kernel wrote outside its output {shape}")
        results.append(data[GUARD : GUARD + size].view(numpy_type).reshape(shape))
    return tuple(results)


def call_model(op: CustomOp, case: Case, dtype: str, opset: int) -> ir.Model:
    """Return a model of one node that calls ``op``, for inputs of the shapes ``case``."""
    kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    inputs = [
        ir.Value(name=name, type=kind, shape=ir.Shape(shape))
        for name, shape in zip(op.inputs, case, strict=True)
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": opset}, name="one_op")
    model = ir.Model(graph, ir_version=10)
    node = call_op(model, op, inputs)
    graph.append(node)
    for value, name, shape in zip(
        node.outputs, op.outputs, op.shapes(*(tuple(s) for s in case)), strict=True
    ):
        value.name, value.type, value.shape = name, kind, ir.Shape(shape)
        graph.outputs.append(value)
    return model


def _check_shapes(op: CustomOp, inputs: Sequence[Array]) -> None:
    shapes = tuple(array.shape for array in inputs)
    declared = op.shapes(*shapes)
    actual = tuple(array.shape for array in op.reference(*inputs))
    if declared != actual:
        raise AssertionError(
            f"{op.name}: shapes() says {declared} for inputs {shapes}, reference() gives {actual}"
        )
    launch = op.launch(shapes, declared)
    if launch.grid < 1 or not 1 <= launch.block <= 1024:  # CUDA's limits
        raise AssertionError(f"{op.name}: {launch} cannot be started for inputs {shapes}")
    if any(not -(2**31) <= scalar < 2**31 for scalar in launch.scalars):
        raise AssertionError(f"{op.name}: a scalar of {launch} does not fit the kernel's int")


def _check_function(
    op: CustomOp, cases: Sequence[Case], opset: int, rtol: float | None, atol: float
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
            call_model(op, case, dtype, opset), dict(zip(op.inputs, inputs, strict=True))
        )
        what = f"the ONNX function of {op.name} in opset {opset}, {case}"
        _check_close(what, op.reference(*inputs), tuple(got.values()), rtol, atol)
    return True


def _check_close(
    what: str, expected: Sequence[Any], actual: Sequence[Any], rtol: float | None, atol: float
) -> None:
    for want, have in zip(expected, actual, strict=True):
        if want.dtype != have.dtype or want.shape != have.shape:
            raise AssertionError(
                f"{what}: {have.dtype}{have.shape} instead of {want.dtype}{want.shape}"
            )
        wide = want.astype(np.float64), have.astype(np.float64)
        limit = (
            4 * float(ir.DataType.from_numpy(want.dtype).eps) if want.dtype.kind not in "iub" else 0
        )
        if not np.allclose(*wide, rtol=limit if rtol is None else rtol, atol=atol, equal_nan=True):
            worst = np.nanmax(np.abs(wide[0] - wide[1]))
            raise AssertionError(f"{what}: differs from the reference by up to {worst:.3g}")


def _rounding(dtype: np.dtype[Any]) -> float:
    """Return the distance from 1 to the next number of the type; 0 for integers."""
    import ml_dtypes

    return 0.0 if dtype.kind in "iub" else float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]  # untyped
