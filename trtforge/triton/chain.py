"""Makes an ensemble of models that follow each other: what one gives, later ones take by name.

Triton itself passes the tensors on (``ensemble_scheduling``); no script runs between the models.
"""

from __future__ import annotations

from collections.abc import Sequence

from trtforge.errors import RequestError
from trtforge.triton.config import EnsembleStep, ModelConfig, TensorConfig


def chained(
    name: str, parts: Sequence[ModelConfig], outputs: Sequence[str] | None = None
) -> ModelConfig:
    """Return the configuration of an ensemble of ``parts``, which run in this order.

    Args:
        name: Of the ensemble.
        parts: The models, all batched or none.
        outputs: What the ensemble gives; None: what the last part gives and what no other takes.

    Raises:
        RequestError: the parts do not fit together.
    """
    _refuse_mixed_batches(parts)
    made: dict[str, TensorConfig] = {}
    needed: dict[str, TensorConfig] = {}
    taken: set[str] = set()
    for part in parts:
        for tensor in part.inputs:
            earlier = made.get(tensor.name) or needed.setdefault(tensor.name, tensor)
            _refuse_other_kind(part, tensor, earlier)
            taken |= {tensor.name} & made.keys()
        for tensor in part.outputs:
            if tensor.name in made or tensor.name in needed:
                raise RequestError(f"{part.name} gives {tensor.name!r}, which is there already")
            made[tensor.name] = tensor
    wanted = outputs
    if wanted is None:
        last = {tensor.name for tensor in parts[-1].outputs}
        wanted = [each for each in made if each in last or each not in taken]
    unknown = [each for each in wanted if each not in made]
    if unknown:
        raise RequestError(f"no part of {name} gives the output {unknown[0]!r}")
    return ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=min(part.max_batch_size for part in parts),
        inputs=tuple(needed.values()),
        outputs=tuple(made[each] for each in wanted),
        about=(f"{' -> '.join(part.name for part in parts)}",),
        steps=tuple(map(_step, parts)),
    )


def _step(part: ModelConfig) -> EnsembleStep:
    return EnsembleStep(
        part.name,
        {tensor.name: tensor.name for tensor in part.inputs},
        {tensor.name: tensor.name for tensor in part.outputs},
    )


def _refuse_mixed_batches(parts: Sequence[ModelConfig]) -> None:
    batched = [part.name for part in parts if part.max_batch_size]
    if batched and len(batched) < len(parts):
        raise RequestError(
            f"Triton would batch {', '.join(batched)} and not the other parts of the chain",
            remedy="give --max-batch: 0 for none, or a number that all of them take",
        )


def _refuse_other_kind(part: ModelConfig, tensor: TensorConfig, earlier: TensorConfig) -> None:
    """Refuse a tensor of another type or shape; an open dimension agrees with any."""
    fits = tensor.data_type == earlier.data_type and len(tensor.dims) == len(earlier.dims)
    if not fits or any(
        here != there and -1 not in (here, there)
        for here, there in zip(tensor.dims, earlier.dims, strict=True)
    ):
        raise RequestError(
            f"{part.name} takes {tensor.name!r} as {tensor.data_type} {list(tensor.dims)}, and "
            f"it is {earlier.data_type} {list(earlier.dims)} elsewhere in the chain"
        )
