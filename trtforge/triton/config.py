"""The content of a ``config.pbtxt``, and its text.

Fields and rules are those of Triton's ``model_config.proto`` and its page on model configuration
(https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html).
The text is written by a template and not by protobuf, so that no Triton package is needed; the
tests read it back with ``tritonclient``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class TensorConfig:
    """An input or output as Triton has it."""

    name: str
    data_type: str
    """``TYPE_FP32``."""
    dims: tuple[int, ...]
    """-1 is open; without the batch axis where Triton batches; empty: one number."""
    is_shape_tensor: bool = False
    """Whether the values decide shapes inside the engine."""


@dataclass(frozen=True)
class WarmUpTensor:
    """What one input is given in a warm-up."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    fill: Literal["random_data", "zero_data"]


@dataclass(frozen=True)
class WarmUp:
    """A request that Triton makes of a model before it calls it ready."""

    name: str
    batch_size: int
    inputs: tuple[WarmUpTensor, ...]


@dataclass(frozen=True)
class DynamicBatching:
    """How Triton puts requests together."""

    preferred: tuple[int, ...] = ()
    """Batch sizes worth waiting for; Triton's page wants them with several profiles only."""
    queue_delay: int = 0
    """Microseconds that a request may wait for others."""


@dataclass(frozen=True)
class Instances:
    """Copies of a model."""

    kind: Literal["KIND_GPU", "KIND_AUTO"]
    count: int = 1
    profiles: tuple[int, ...] = ()
    """Optimization profiles to use; empty: the first."""


@dataclass(frozen=True)
class EnsembleStep:
    """A model of a chain; both maps name the model's own tensor, then the chain's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """One model of a repository."""

    name: str
    platform: Literal["tensorrt_plan", "onnxruntime_onnx", "ensemble"]
    max_batch_size: int
    """0: requests bring the whole shape, and Triton puts none together."""
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    about: tuple[str, ...] = ()
    """Comment lines."""
    default_file: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """File by compute capability: ``8.6``."""
    instances: Instances | None = None
    batching: DynamicBatching | None = None
    warm_ups: tuple[WarmUp, ...] = ()
    steps: tuple[EnsembleStep, ...] = ()

    def text(self) -> str:
        """Return the content of ``config.pbtxt``."""
        from jinja2 import Environment, StrictUndefined

        source = (files("trtforge") / "templates" / f"{CONFIG}.jinja").read_text(encoding="utf-8")
        environment = Environment(  # noqa: S701  # no HTML: `quoted` escapes for this format
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["quoted"] = quoted
        return environment.from_string(source).render(model=self) + "\n"


def quoted(text: str) -> str:
    """Return ``text`` as a string of protobuf's text format."""
    plain = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(
        plain.get(sign) or (sign if sign.isprintable() else _octal(sign)) for sign in text
    ) + '"'  # fmt: skip


def _octal(sign: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in sign.encode())
