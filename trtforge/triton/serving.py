"""Decides how Triton serves a model, and puts its configuration together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trtforge.bundle.manifest import TensorEntry
from trtforge.errors import RequestError
from trtforge.triton.batches import largest_batch, usual_batch
from trtforge.triton.config import (
    DynamicBatching,
    Instances,
    ModelConfig,
    TensorConfig,
    WarmUp,
    WarmUpTensor,
)
from trtforge.triton.model_files import engine_files, onnx_files, plans_of
from trtforge.triton.source import Plan, Profile, Source

TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "float16": "TYPE_FP16", "float": "TYPE_FP32", "double": "TYPE_FP64",
    "bfloat16": "TYPE_BF16", "string": "TYPE_STRING",
}  # fmt: skip
"""ONNX's types by Triton's names; Triton has no other."""
FRACTIONS = ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_BF16")


@dataclass(frozen=True)
class Wishes:
    """What the caller decides."""

    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    max_batch: int | None = None
    """Largest batch; 0: Triton batches nothing; None: what model and profiles say."""
    instances: int = 1
    queue_delay: int = 0
    """Microseconds that a request may wait for others."""
    version: str = ""
    """TensorRT whose engines to take, where there are several."""
    warm_up: bool = True


@dataclass(frozen=True)
class Served:
    """A model of the repository: its configuration, its files, and what to know about it."""

    config: ModelConfig
    files: Mapping[str, Callable[[Path], object]]
    """By path in the version's folder, what writes each."""
    notes: tuple[str, ...] = ()


def serve(source: Source, name: str, wishes: Wishes) -> Served:
    """Return how Triton serves ``source`` under ``name``.

    Raises:
        RequestError: Triton's backend cannot serve it, or the wishes do not fit it.
    """
    if wishes.backend == "tensorrt":
        plans = plans_of(source, wishes.version)
        return _serve(source, name, wishes, plans)
    if not source.onnx:
        raise RequestError(
            f"{source.where} has no ONNX model", remedy="pack the bundle with its model"
        )
    return _serve(source, name, wishes, ())


def _serve(source: Source, name: str, wishes: Wishes, plans: Sequence[Plan]) -> Served:
    profiles = plans[0].profiles if plans else source.profiles
    if any(plan.profiles != profiles for plan in plans):
        raise RequestError(
            "the engines have different optimization profiles, and Triton keeps one configuration",
            remedy="build all of them from one recipe",
        )
    batch, notes = largest_batch(source, profiles, wishes.max_batch)
    inputs = tuple(_tensor(each, batch, profiles) for each in source.inputs)
    if any(each.is_shape_tensor for each in inputs):
        batch = 0
        inputs = tuple(_tensor(each, 0, profiles) for each in source.inputs)
    files, by_capability, default = engine_files(plans) if plans else (onnx_files(source), {}, "")
    config = ModelConfig(
        name=name,
        platform="tensorrt_plan" if plans else "onnxruntime_onnx",
        max_batch_size=batch,
        inputs=inputs,
        outputs=tuple(_tensor(each, batch, ()) for each in source.outputs),
        about=_about(source, plans),
        default_file=default,
        files=by_capability,
        instances=Instances(
            kind="KIND_GPU" if plans else "KIND_AUTO",
            count=wishes.instances,
            profiles=tuple(range(len(profiles))) if plans and len(profiles) > 1 else (),
        ),
        batching=_batching(profiles, batch, wishes.queue_delay) if batch else None,
        warm_ups=tuple(_warm_ups(inputs, profiles, batch)) if wishes.warm_up else (),
    )
    return Served(config, files, (*notes, *_notes(source, plans)))


def _tensor(entry: TensorEntry, batch: int, profiles: Sequence[Profile]) -> TensorConfig:
    data_type = TYPES.get(entry.dtype)
    if data_type is None or entry.dims is None:
        cause = "its rank is not known" if data_type else f"Triton has no type {entry.dtype}"
        raise RequestError(f"{entry.name!r} cannot be served: {cause}")
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in entry.dims)
    return TensorConfig(
        name=entry.name,
        data_type=data_type,
        dims=dims[1:] if batch else dims,
        is_shape_tensor=any(_gives_values(dims, profile.get(entry.name)) for profile in profiles),
    )


def _gives_values(dims: tuple[int, ...], shapes: object) -> bool:
    """Whether a profile's range of an input is of its values: TensorRT's shape inputs."""
    opt = getattr(shapes, "opt", None)
    return opt is not None and -1 not in dims and tuple(opt) != dims


def _batching(profiles: Sequence[Profile], batch: int, queue_delay: int) -> DynamicBatching:
    usual = {min(usual_batch(profile), batch) for profile in profiles}
    preferred = tuple(sorted(usual)) if len(profiles) > 1 else ()
    return DynamicBatching(preferred, queue_delay)


def _warm_ups(
    inputs: Sequence[TensorConfig], profiles: Sequence[Profile], batch: int
) -> Iterator[WarmUp]:
    """Yield a request of the usual shapes for each profile; zeros are right for any index."""
    for number, profile in enumerate(profiles or ({},)):
        shapes = {each.name: _usual(each, profile, batch) for each in inputs}
        if any(each.is_shape_tensor or -1 in shapes[each.name] for each in inputs):
            continue
        tensors = tuple(
            WarmUpTensor(
                each.name,
                each.data_type,
                shapes[each.name],
                "random_data" if each.data_type in FRACTIONS else "zero_data",
            )
            for each in inputs
        )
        size = min(usual_batch(profile), batch) if batch else 1
        yield WarmUp(f"profile_{number}", size, tensors)


def _usual(tensor: TensorConfig, profile: Profile, batch: int) -> tuple[int, ...]:
    shapes = profile.get(tensor.name)
    if shapes is None:
        return tensor.dims
    return tuple(shapes.opt[1:] if batch else shapes.opt)


def _about(source: Source, plans: Sequence[Plan]) -> tuple[str, ...]:
    if not plans:
        return (f"{source.name}: ONNX model, run by Triton's ONNX Runtime backend",)
    return (f"{source.name}: engines of TensorRT {plans[0].version}",)


def _notes(source: Source, plans: Sequence[Plan]) -> Iterator[str]:
    if plans and all(plan.version_compatible for plan in plans):
        yield (
            f"needs a Triton with TensorRT {plans[0].version} or later, started with "
            "--backend-config=tensorrt,version-compatible=true"
        )
    elif plans:
        yield f"needs a Triton with TensorRT {plans[0].version}, no other"
    if source.changed:
        yield (
            f"{', '.join(source.changed)}: types or inputs differ from the model that was given; "
            "clients of Triton must send what the configuration says"
        )
