"""What the layers of an engine say about how it could be faster or smaller, rule by rule.

Each rule looks at counted layers (and measured times, where there are some) and yields what it saw
with the change of the recipe that mends it. What a rule says is at stake is the time of the layers
that would go or shrink: an upper bound of what can be won.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import onnx_ir as ir

from trtforge import ShapeRange
from trtforge.analysis import Hint, LayerCost, Prediction
from trtforge.graph import label
from trtforge.quantities import percent
from trtforge_plugins.analysis.devices import rate
from trtforge_plugins.computing_type import FLOATS

MANY_MOVES = 0.1
"""Share of the time that copies, casts and (de)quantizers may take before it is told."""
TINY = 2e-3
"""Milliseconds: a layer with a smaller floor is over before the next can be launched."""
WIDE = 8
"""Times that the largest shape of a profile may be larger than the usual one."""
ISLAND = 0.02
"""Share of the work that may stay in float32 before it is told."""
_HOST = ("shapehosttodevice", "copy_d2h")
_ALIGN = {"float16": 8, "bfloat16": 8, "int8": 16, "float8e4m3fn": 16}
"""Entries that a dimension of a product must be a multiple of for full speed of tensor cores
(https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/)."""


@dataclass(frozen=True)
class Seen:
    """What the rules look at."""

    model: ir.Model
    prediction: Prediction
    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    """Measured milliseconds of layers; empty: floors count."""

    def milliseconds(self, layers: Sequence[LayerCost]) -> float:
        """Return the time of ``layers``."""
        if self.times:
            return sum(self.times.get(layer.name, 0.0) for layer in layers)
        return sum(layer.milliseconds for layer in layers)

    @property
    def total(self) -> float:
        """Milliseconds of all layers in turn."""
        return self.milliseconds(self.prediction.layers)


def many_moves(seen: Seen) -> Iterator[Hint]:
    """Copies, casts and transposes take a part of the time."""
    moving = [layer for layer in seen.prediction.layers if layer.role == "moves"]
    spent = seen.milliseconds(moving)
    if not moving or not seen.total or spent < MANY_MOVES * seen.total:
        return
    casts = [layer for layer in moving if "cast" in layer.kind.lower() or "Cast" in layer.name]
    change = "- cast: {to: float16}" if casts else "- join-products"
    yield _hint(
        "many-copies", moving, spent,
        cause="layers that only copy, cast or reorder data take a part of the time",
        evidence=f"{len(moving)} of {len(seen.prediction.layers)} layers, "
        f"{percent(spent / seen.total)} of the time; {len(casts)} of them cast",
        remedy="let one type run through the model" if casts
        else "multiply before the data is reordered, or keep one layout",
        change=change,
    )  # fmt: skip


def unfused_qdq(seen: Seen) -> Iterator[Hint]:
    """A product that reads a quantized operand and still multiplies in a wider type."""
    operators = {node.name: node.op for node in seen.prediction.nodes}
    wide = [
        layer
        for layer in seen.prediction.layers
        if layer.role == "multiplies"
        and layer.dtype in FLOATS
        and any(operators.get(name) == "DequantizeLinear" for name in layer.nodes)
    ]
    if wide:
        yield _hint(
            "unfused-qdq", wide, seen.milliseconds(wide),
            cause="products read quantized values, widen them again and multiply in floating point",
            evidence=f"{len(wide)} layers, the first is {wide[0].name}: {wide[0].dtype}",
            remedy="quantize both operands of a product, directly at its inputs",
            change="- insert-qdq",
        )  # fmt: skip


def lone_quantizers(seen: Seen) -> Iterator[Hint]:
    """A Q or DQ that TensorRT could not put into the layer beside it is a kernel of its own.

    Those at the inputs and outputs of the model are left out: they have no layer beside them.
    """
    ends = {value.name for value in (*seen.model.graph.inputs, *seen.model.graph.outputs)}
    border = {
        label(node)
        for node in seen.model.graph
        if ends & {value.name for value in (*node.inputs, *node.outputs) if value is not None}
    }
    alone = [
        layer
        for layer in seen.prediction.layers
        if layer.role == "quantizes" and not border & set(layer.nodes)
    ]
    if alone:
        yield _hint(
            "lone-quantizers", alone, seen.milliseconds(alone),
            cause="Q/DQ pairs that no product takes in are kernels of their own",
            evidence=f"layers that only change between a quantized and a wider type: {len(alone)}, "
            f"the first is {alone[0].name}",
            remedy="quantize at the inputs of products alone",
            change="- insert-qdq",
        )  # fmt: skip


def float32_islands(seen: Seen) -> Iterator[Hint]:
    """Work that runs in float32 although the GPU has a faster type."""
    found = seen.prediction
    slow = [layer for layer in found.layers if layer.macs and layer.dtype == "float32"]
    work = sum(layer.macs for layer in slow)
    speeds = [rate(found.device, dtype) for dtype in ("float32", "float16")]
    if not found.macs or work < ISLAND * found.macs or None in speeds:
        return
    factor = (speeds[1] or 0.0) / (speeds[0] or 1.0)
    if factor > 1:
        yield _hint(
            "float32-products", slow, seen.milliseconds(slow) * (1 - 1 / factor),
            cause="products run in float32 although the GPU multiplies float16 faster",
            evidence=f"{percent(work / found.macs)} of the multiply-accumulates in "
            f"{len(slow)} layers; float16 has {factor:.3g} times the rate on {found.device.name}",
            remedy="convert to float16, or to bfloat16 where values overflow",
            change="- cast: {to: float16}",
        )  # fmt: skip


def launch_bound(seen: Seen) -> Iterator[Hint]:
    """Most layers are over before the next one can be launched."""
    working = [layer for layer in seen.prediction.layers if layer.role != "waits"]
    tiny = [layer for layer in working if layer.milliseconds < TINY]
    if len(working) < 10 or 2 * len(tiny) < len(working):
        return
    yield _hint(
        "launch-bound", tiny, 0.0,
        cause="most layers do so little that their launches take longer than they do",
        evidence=f"{len(tiny)} of {len(working)} launches have a floor below {TINY * 1e3:g} us",
        remedy="run the engine from a CUDA graph, and let one run do more: a larger batch",
        change="shapes: with a larger opt; - profile-engine: {cuda_graph: true}",
    )  # fmt: skip


def wide_profile(seen: Seen) -> Iterator[Hint]:
    """The range of shapes is so wide that its usual shape says little."""
    for profile in seen.profiles:
        for name, shape in profile.items():
            small, usual, large = (prod(each) for each in (shape.min, shape.opt, shape.max))
            if not small or large < WIDE * small:
                continue
            if usual in (small, large):
                yield _hint(
                    "opt-at-the-edge", (), 0.0,
                    cause="kernels are chosen for opt, which is an end of a wide range here",
                    evidence=f"{name}: {shape}",
                    remedy="set opt to the shape that most requests have",
                    change=f"shapes: {name}: with opt between min and max",
                )  # fmt: skip
            if large >= WIDE * max(usual, 1):
                yield _hint(
                    "wide-profile", (), 0.0,
                    cause="memory is kept for max, kernels are chosen for a much smaller opt",
                    evidence=f"{name}: {shape}, max is {large / max(usual, 1):.3g} times opt",
                    remedy="lower max, or give a second profile for the large shapes",
                    change=f"shapes: {name}: with a smaller max, or a list of two profiles",
                )  # fmt: skip


def unaligned_products(seen: Seen) -> Iterator[Hint]:
    """Dimensions that tensor cores must pad."""
    products = {node.name: node.product for node in seen.prediction.nodes if node.product}
    odd: dict[str, str] = {}
    layers: dict[LayerCost, None] = {}
    for layer in seen.prediction.layers:
        step = _ALIGN.get(layer.dtype)
        if not layer.macs or step is None:
            continue
        for name in layer.nodes:
            wrong = [dim for dim in products.get(name, ()) if dim >= step and dim % step]
            if wrong:
                odd[name] = f"{wrong[0]} is no multiple of {step}"
                layers[layer] = None
    if odd:
        name, why = next(iter(odd.items()))
        yield _hint(
            "unaligned-products", tuple(layers), 0.0,
            cause="dimensions of products are no multiples of what tensor cores take at once",
            evidence=f"{len(odd)} product{'s' if len(odd) > 1 else ''}, the first is {name}: {why}",
            remedy="pad the dimension, in the model or as the shape of an input",
            change="shapes: with batch and sequence lengths that are multiples of 8 (INT8: 16)",
        )  # fmt: skip


def host_copies(seen: Seen) -> Iterator[Hint]:
    """Shapes are computed on the CPU and copied over while the engine runs."""
    copies = [
        layer for layer in seen.prediction.layers
        if layer.kind.lower() in _HOST or layer.name.startswith("copy_d2h")
    ]  # fmt: skip
    if copies:
        yield _hint(
            "host-copies", copies, seen.milliseconds(copies),
            cause="values pass between CPU and GPU in the middle of a run, which waits for them",
            evidence=f"{len(copies)} layers, the first is {copies[0].name}",
            remedy="fix the shapes that the values depend on, or make those inputs constants",
            change="- freeze-inputs; shapes: one shape per input; - fold-constants",
        )  # fmt: skip


def _hint(code: str, layers: Sequence[LayerCost], milliseconds: float, **said: str) -> Hint:
    return Hint(
        code=code,
        milliseconds=milliseconds,
        layers=tuple(layer.name for layer in layers),
        nodes=tuple(dict.fromkeys(node for layer in layers for node in layer.nodes)),
        **said,
    )


RULES: tuple[Callable[[Seen], Iterator[Hint]], ...] = (
    float32_islands, unfused_qdq, lone_quantizers, many_moves, host_copies, launch_bound,
    wide_profile, unaligned_products,
)  # fmt: skip
