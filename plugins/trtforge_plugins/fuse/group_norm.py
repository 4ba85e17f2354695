"""fuse-group-norm: a group normalization, and the SiLU behind it, become one custom op."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir
from trtforge_ops import GroupNorm

from trtforge import Context, Pass
from trtforge.graph import constant, is_op
from trtforge_plugins.fuse.fusion import Fused, fuse, same_shape, shortest
from trtforge_plugins.fuse.pattern import Input, Match, either, node

X, WEIGHT, BIAS = Input("x"), Input("weight"), Input("bias")
NORMAL = node(
    "InstanceNormalization",
    node("Reshape", X, Input("by_group")), Input("ones"), Input("zeros"), name="normal",
)  # fmt: skip
WRITTEN = node(
    "Add", node("Mul", node("Reshape", NORMAL, Input("shape"), name="back"), WEIGHT), BIAS
)
GROUP_NORM = either(WRITTEN, node("GroupNormalization", X, WEIGHT, BIAS, name="whole"))
PATTERN = either(node("Mul", GROUP_NORM, node("Sigmoid", GROUP_NORM), name="silu"), GROUP_NORM)
"""PyTorch's exporters write an instance normalization of each group as one channel, and then apply
weight and bias per channel."""


@dataclass(frozen=True)
class FuseGroupNorm(Pass):
    """Replace a group normalization, with the SiLU behind it, by ``trtforge::GroupNorm``.

    The channels are axis 1. What is normalized without a SiLU becomes the op, too.
    """

    name = "fuse-group-norm"

    keep_rounding: bool = True
    """Whether to leave alone what rounds a value inside of it to 16 bits; the kernel rounds its
    result only."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        return fuse(model, ctx, PATTERN, self._plan)

    def _plan(self, match: Match) -> Fused | str:
        x, weight, bias = match["x"], match["weight"], match["bias"]
        found = _of_operator(match) if match.has("whole") else _of_instance_norm(match)
        if isinstance(found, str):
            return found
        groups, epsilon = found
        vector = match.has("whole")
        misfit = why_not_channels(x, weight, vector=vector) or why_not_channels(
            x, bias, vector=vector
        )
        if misfit:
            return misfit
        channels = x.shape[1] if x.shape is not None else None
        if not isinstance(channels, int) or channels % groups:
            return f"{channels} channels are no multiple of {groups} groups"
        op = GroupNorm(groups, epsilon, "silu" if match.has("silu") else "none")
        shape = match["shape"].producer() if match.has("shape") else None
        leftover = () if shape is None else (shape,)
        inputs = (x, weight, bias)
        return Fused(op, inputs, (1, 2), self.keep_rounding, leftover=leftover)


def _of_operator(match: Match) -> tuple[int, float]:
    node = match["whole"].producer()
    assert node is not None  # noqa: S101  # the match names a node's result
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return node.attributes["num_groups"].as_int(), shortest(epsilon)


def _of_instance_norm(match: Match) -> tuple[int, float] | str:
    """Return groups and epsilon, or why it is no group normalization."""
    x, normal = match["x"], match["normal"].producer()
    target = constant(match["by_group"])
    batch = x.shape[0] if x.shape is not None and len(x.shape) > 2 else None
    if target is None or target.shape != (3,) or target[0] not in (0, batch):
        return f"{match['by_group'].name!r} does not cut each sample into groups"
    groups = int(target[1])
    if groups < 1 or not (target[2] == -1 or _is_rest(x, groups, int(target[2]))):
        return f"{match['by_group'].name!r} does not cut each sample into groups"
    ones, zeros = constant(match["ones"]), constant(match["zeros"])
    if ones is None or zeros is None or (ones != 1).any() or zeros.any():
        return "its groups have weights of their own"
    if not (same_shape(match["back"], x) or _is_shape_of(match["shape"], x)):
        return f"{match['back'].name!r} is not known to have the shape of {x.name!r} again"
    assert normal is not None  # noqa: S101  # the match names a node's result
    return groups, shortest(normal.attributes.get_float("epsilon", 1e-5))


def _is_rest(x: ir.Value, groups: int, size: int) -> bool:
    shape = x.shape
    if shape is None or any(not isinstance(dim, int) for dim in shape[1:]):
        return False
    return size * groups == prod(int(str(dim)) for dim in shape[1:])


def _is_shape_of(value: ir.Value, x: ir.Value) -> bool:
    node = value.producer()
    return node is not None and is_op(node, "Shape") and node.inputs[0] is x and not node.attributes


def why_not_channels(x: ir.Value, parameter: ir.Value, *, vector: bool) -> str:
    """Say why ``parameter`` is not one number per entry of axis 1 of ``x``; ``""``: it is.

    Args:
        x: Has three dimensions or more.
        parameter: An input of an operator that takes a ``vector``, else a factor or a term of
            ``x``, whose other dimensions are 1.
        vector: Which of the two.
    """
    if x.shape is None or len(x.shape) < 3 or parameter.shape is None:
        return f"the shapes of {x.name!r} and {parameter.name!r} are not known"
    channels, behind, shape = x.shape[1], len(x.shape) - 2, tuple(parameter.shape)
    if vector:
        fits = shape == (channels,)
    else:
        fits = shape in ((channels, *(1,) * behind), (1, channels, *(1,) * behind))
        fits = fits and constant(parameter) is not None
    if not isinstance(channels, int) or not fits:
        return f"{parameter.name!r} is not known to be one number per channel"
    return ""
