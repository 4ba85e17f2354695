"""The reference: a model's outputs as ONNX Runtime computes them, on the CPU or a CUDA GPU.

Settings are chosen for truth first, then speed (figures: ResNet-50, ``docs/reference.md``):

* All graph optimizations are on, but not the fusion of Q/DQ into integer kernels. That one changes
  results (and saturates on CPUs without VNNI); the others only reorder float32 sums.
* float16 and bfloat16 are rounded as the model says, see :mod:`trtforge.rounding`.
* On CUDA, TF32 is off: it keeps 10 of float32's 23 bits.
* Weights are handed over in memory, so a model may be of any size and nothing is written to disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import onnx_ir as ir

from trtforge import frozen_inputs, io_adapter, model_file
from trtforge.environment import usable_cores
from trtforge.errors import (
    DataError,
    EnvironmentLacks,
    ModelError,
    StepError,
    TrtforgeError,
    did_you_mean,
)
from trtforge.float4 import uses_float4, without_float4
from trtforge.inline_weights import inline
from trtforge.rounding import computes_in_half, round_explicitly
from trtforge.weights import exchanged

if TYPE_CHECKING:
    from trtforge.artifacts import Array

Provider = Literal["auto", "cpu", "cuda"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_SHARED_OVER = 1024  # bytes; smaller initializers travel inside the serialized model
_SHAREABLE_BITS = (8, 16, 32, 64)  # of an element; those of less share bytes
_TEXT = 600  # characters of ONNX Runtime's own message that are shown


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of a model's input or output."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    """A name or None stands for a dynamic dimension."""


class Reference:
    """A model ready to run under ONNX Runtime.

    Args:
        model: An ONNX file, or a model in memory, which stays as it is.
        provider: ``auto`` takes CUDA where it works, else the CPU.
        optimize: Whether ONNX Runtime may optimize the graph.
        prepack: Whether it may lay weights out anew: slower to start, faster to run.
        threads: Threads within one operator; None: one per CPU core that this process may use.
        trace: Where ONNX Runtime's profiler writes its events; None: it is off.

    Raises:
        ModelError: the file is no model that ONNX Runtime takes.
        StepError: the same for a model in memory.
        EnvironmentLacks: ``cuda`` is asked for and does not work here.
    """

    def __init__(  # noqa: PLR0913  # a model, and how to run it
        self,
        model: str | os.PathLike[str] | ir.Model,
        *,
        provider: Provider = "auto",
        optimize: bool = True,
        prepack: bool = True,
        threads: int | None = None,
        trace: str | None = None,
    ) -> None:
        loaded = model if isinstance(model, ir.Model) else model_file.load(model)
        where = "" if isinstance(model, ir.Model) else str(model)
        self._adapted = io_adapter.read(loaded.metadata_props)
        self.frozen = frozen_inputs.read(loaded.metadata_props)
        self.inputs = tuple(
            _spec(value, self._adapted)
            for value in loaded.graph.inputs
            if not value.is_initializer()
        )
        self.outputs = tuple(_spec(value, self._adapted) for value in loaded.graph.outputs)
        self.provider = _choose(provider)
        options = _Options(optimize, prepack, threads, trace)
        with _creating(where):
            self._session = _start(loaded, self.provider, options)
            if self.provider == CUDA and CUDA not in self._session.get_providers():
                if provider == "cuda":
                    raise _no_cuda("ONNX Runtime could not start it and fell back to the CPU")
                self.provider = CPU
                self._session = _start(loaded, CPU, options)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, in the model's order.

        Inputs and outputs whose type a pass had to change (:mod:`trtforge.io_adapter`) are taken
        and given in the type that they had. The feed may still have inputs that a pass made
        constants (:mod:`trtforge.frozen_inputs`), with the constants' values.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape.
            StepError: ONNX Runtime failed while running.
        """
        feed = frozen_inputs.without(self.frozen, feed)
        self._check(feed)
        own = io_adapter.to_model(self._adapted, {n: np.asarray(a) for n, a in feed.items()})
        wide = {name: _widened(array) for name, array in own.items()}
        names = [spec.name for spec in self.outputs]
        with _running():
            values = self._session.run(names, wide)
        found = {
            spec.name: value.astype(spec.dtype) if _is_bfloat16(spec.dtype) else value
            for spec, value in zip(self.outputs, values, strict=True)
        }
        return io_adapter.from_model(self._adapted, found)

    def fetch(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name where they lie: nothing is copied, nothing is converted.

        The arrays are views of ONNX Runtime's own memory, which they keep alive: NumPy arrays on
        the CPU, CuPy arrays on a CUDA GPU. For large outputs that are only looked at once.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape.
            StepError: ONNX Runtime failed while running.
            EnvironmentLacks: the model runs on a GPU and CuPy is not installed.
        """
        feed = frozen_inputs.without(self.frozen, feed)
        self._check(feed)
        own = io_adapter.to_model(self._adapted, {n: np.asarray(a) for n, a in feed.items()})
        binding = self._session.io_binding()
        for name, array in own.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(_widened(array)))
        for spec in self.outputs:
            binding.bind_output(spec.name, "cuda" if self.provider == CUDA else "cpu")
        with _running():
            self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return {spec.name: _view(value) for spec, value in zip(self.outputs, values, strict=True)}

    def end_trace(self) -> str:
        """Return the file that the profiler wrote; it is off from now on."""
        return str(self._session.end_profiling())

    def _check(self, feed: Mapping[str, Array]) -> None:
        known = {spec.name: spec for spec in self.inputs}
        missing = [name for name in known if name not in feed]
        if missing:
            raise DataError(
                f"no data for input {missing[0]!r}; there is {', '.join(feed) or 'none'}"
            )
        for name, array in feed.items():
            if name not in known:
                hint = did_you_mean(name, known)
                raise DataError(f"the model has no input {name!r}. {hint}".strip())
            if array.dtype != known[name].dtype:
                raise DataError(f"input {name!r} has type {array.dtype}, not {known[name].dtype}")


def _spec(value: ir.Value, adapted: Mapping[str, io_adapter.Adapted]) -> TensorSpec:
    if value.dtype is None:
        raise ModelError(f"input or output {value.name!r} has no type")
    shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape or ())
    entry = adapted.get(value.name or "")
    dtype = value.dtype if entry is None else ir.DataType[entry.given]
    return TensorSpec(value.name or "", np.dtype(dtype.numpy()), shape)


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.name == "bfloat16"


def _widened(array: Array) -> Array:
    """NumPy cannot hand bfloat16 to ONNX Runtime; :func:`round_explicitly` takes float32."""
    return array.astype(np.float32) if _is_bfloat16(array.dtype) else array


def _view(value: Any) -> Array:
    """Return an array that shares the memory of an OrtValue (DLPack; python array API 2022.12)."""
    if value.device_name() == "cpu":
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else value.numpy()
    try:
        import cupy
    except ImportError as error:
        raise EnvironmentLacks(
            "tensors lie on the GPU, and CuPy, which looks at them there, is not installed",
            remedy="pip install 'trtforge[cu13]', or use provider: cpu",
        ) from error
    return cast("Array", cupy.from_dlpack(value))


def _choose(provider: Provider) -> str:
    import onnxruntime

    if provider == "cpu":
        return CPU
    if CUDA in onnxruntime.get_available_providers():
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls(directory="")  # finds CUDA and cuDNN of pip packages
        return CUDA
    if provider == "cuda":
        raise _no_cuda("this build of ONNX Runtime has no CUDA provider")
    return CPU


def _no_cuda(why: str) -> EnvironmentLacks:
    return EnvironmentLacks(
        f"the CUDA provider is asked for, but {why}",
        remedy="install onnxruntime-gpu[cuda,cudnn], or use provider: cpu",
    )


@dataclass(frozen=True)
class _Options:
    optimize: bool
    prepack: bool
    threads: int | None
    trace: str | None = None


def _session_options(chosen: _Options) -> Any:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if chosen.optimize else levels.ORT_DISABLE_ALL
    )
    options.log_severity_level = 4  # errors reach us as exceptions
    if chosen.trace:
        options.enable_profiling = True
        options.profile_file_prefix = chosen.trace
    options.intra_op_num_threads = chosen.threads or _own_threads()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.disable_prepacking", "01"[not chosen.prepack])
    # Two sessions are compared in turn: threads of the idle one must not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _own_threads() -> int:
    """Return the number of threads; 0: ONNX Runtime shall choose.

    It then binds a thread to each core of the machine, also to those this process may not use.
    """
    cores = usable_cores()
    return 0 if cores == os.cpu_count() else cores


def _start(model: ir.Model, provider: str, chosen: _Options) -> Any:
    """Return a session that runs ``model``, which stays as it is."""
    from onnxruntime import InferenceSession

    options = _session_options(chosen)
    if uses_float4(model):
        model = without_float4(model)
    ends = (*model.graph.inputs, *model.graph.outputs)
    rounds = provider == CPU or any(value.dtype == ir.DataType.BFLOAT16 for value in ends)
    runnable = round_explicitly(model) if rounds and computes_in_half(model) else model
    with _shared_weights(runnable, options) as weights:
        proto: bytes = ir.serde.serialize_model(runnable).SerializeToString()
    providers: list[Any] = [(CUDA, _CUDA_OPTIONS), CPU] if provider == CUDA else [CPU]
    session = InferenceSession(proto, options, providers=providers, disabled_optimizers=_WRONG)
    session.trtforge_weights = weights  # ONNX Runtime reads them where they lie
    return session


@contextmanager
def _shared_weights(model: ir.Model, options: Any) -> Iterator[list[Any]]:
    """Take large weights out of ``model`` for the time of a ``with`` block.

    They are given to the session as they lie in memory. It gets the rest as bytes, which may name
    no data file, so all else that lies in one becomes part of them.
    """
    shared = {
        value: value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None and _is_read(value) and _is_shareable(value.const_value)
    }
    values = [_ort_value(tensor) for tensor in shared.values()]
    if shared:
        options.add_external_initializers([value.name for value in shared], values)
    stand_ins = {value: _stand_in(value.name, tensor) for value, tensor in shared.items()}
    kept = {id(stand_in) for stand_in in stand_ins.values()}
    try:
        for value, stand_in in stand_ins.items():
            value.const_value = stand_in
        with exchanged(model, lambda each: each if id(each) in kept else inline(each)):
            yield values
    finally:
        for value, tensor in shared.items():
            value.const_value = tensor


def _is_read(value: ir.Value) -> bool:
    """Whether ONNX Runtime keeps a weight; it refuses to be given one that nobody reads."""
    return bool(value.uses()) or value.is_graph_output()


def _is_shareable(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return False
    return tensor.dtype.bitwidth in _SHAREABLE_BITS and tensor.nbytes >= _SHARED_OVER


def _stand_in(name: str | None, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """Return what ONNX Runtime takes for a weight that it was given in memory."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        "in-memory", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name or ""
    )


def _ort_value(tensor: ir.TensorProtocol) -> Any:
    """Return an OrtValue on the memory of ``tensor``, also of a type that NumPy does not know."""
    from onnxruntime import OrtValue

    array = np.ascontiguousarray(tensor.numpy())
    bits = array.view(f"u{array.itemsize}")
    return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, tensor.dtype.value)


_WRONG = ["ReluQuantRewrite"]
"""Optimizations that change values: this one drops a Relu before a float8 QuantizeLinear, as if the
smallest code were zero (seen in ONNX Runtime 1.32: -6 dB instead of 24 dB)."""


@contextmanager
def _creating(where: str) -> Iterator[None]:
    kind = ModelError if where else StepError
    try:
        yield
    except TrtforgeError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise kind(f"ONNX Runtime does not take the model: {_text(error)}", where=where) from error


@contextmanager
def _running() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as above
        name = type(error).__name__
        kind = DataError if name == "InvalidArgument" else StepError
        raise kind(f"ONNX Runtime failed while running the model: {_text(error)}") from error


def _text(error: Exception) -> str:
    """Return ONNX Runtime's message on one line, without its prefix, cut to a readable length."""
    text = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")
    return text if len(text) <= _TEXT else f"{text[:_TEXT]} …"
