"""What is wrong with the targets and the ranges that a build is asked for, before any build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from trtforge import Request, RequestError, Target
from trtforge.diagnosis import Finding
from trtforge_plugins.tensorrt.failure_rules import rule
from trtforge_plugins.tensorrt.lints import advice
from trtforge_plugins.tensorrt.order import Profile, triples
from trtforge_plugins.tensorrt.profiles import NetworkInput, problems
from trtforge_plugins.tensorrt.range_shapes import misfits
from trtforge_plugins.tensorrt.target_rules import check_targets, refused_for_turing

NO_KERNELS = "TensorRT has no kernels for a GPU that is among the targets"


@dataclass(frozen=True)
class Parsed:
    """What TensorRT says of a model that it parsed."""

    library: str
    """Its title, with the version."""
    refused: Sequence[Mapping[str, Any]]
    """The refused nodes (see ``adapter.Session.parse``)."""
    inputs: Sequence[NetworkInput] = ()
    """The inputs of the network; none where nodes are refused."""
    targets: Sequence[int] = ()
    """Compute capabilities that it builds for; none: not known."""


def of_targets(model: ir.Model, targets: Sequence[Target], parsed: Parsed) -> Iterator[Finding]:
    """Yield what does not build for some of the targets."""
    if parsed.targets:
        try:
            check_targets(parsed.library, [target.sm for target in targets], parsed.targets)
        except RequestError as error:
            cause = NO_KERNELS
            yield Finding(error.code, "", "", cause, error.what, (error.remedy,))
    yield from refused_for_turing(model, targets)


def of_ranges(
    model: ir.Model, inputs: Sequence[NetworkInput], profiles: Sequence[Profile]
) -> Iterator[Finding]:
    """Yield what is wrong with the ranges, and which are missing."""
    wrong = list(problems(inputs, profiles))
    for name, problem in wrong:
        cause = rule(problem.code).cause
        yield Finding(
            problem.code, name, "", cause, problem.what, (problem.remedy,), seen_in="model"
        )
    if profiles and not wrong:
        yield from misfits(model, usual_shapes(inputs, profiles))
    for each in inputs if not profiles else ():
        if each.is_shape:
            yield advice("input-without-range", each.name, "its values decide shapes")


def usual_shapes(
    inputs: Sequence[NetworkInput], profiles: Sequence[Profile]
) -> dict[str, Sequence[int]]:
    """Return the usual shapes of the first profile; a shape input has values there instead."""
    shaped = {each.name for each in inputs if not each.is_shape}
    profile = profiles[0] if profiles else {}
    return {name: usual for name, (_, usual, _) in profile.items() if name in shaped}


def ranges_asked_for(
    model: ir.Model, request: Request, parsed: Parsed
) -> tuple[Sequence[NetworkInput], list[Profile]]:
    """Return the inputs, and the ranges that are given for them.

    Which inputs decide shapes is only known of a network that TensorRT takes; where it refuses
    nodes, those that may are left out.
    """
    profiles = [triples(profile) for profile in request.profiles]
    if not parsed.refused:
        return parsed.inputs, profiles
    inputs, left_out = [], set()
    for value in model.graph.inputs:
        integer = value.dtype in {ir.DataType.INT32, ir.DataType.INT64}
        if value.shape is None or (integer and len(value.shape) < 2):
            left_out.add(value.name)
        elif not value.is_initializer():
            dims = (dim if isinstance(dim, int) else -1 for dim in value.shape)
            inputs.append(NetworkInput(value.name or "", tuple(dims)))
    return inputs, [
        {name: each for name, each in profile.items() if name not in left_out}
        for profile in profiles
    ]
