"""Shapes that every shipped custom op is tried with, here and on a GPU.

Whole packs, rows that packs would cross, tails, rows longer than the registers hold, one element,
many blocks, nothing at all.
"""

import array_op_cases
import sampling_op_cases
import trtforge_ops as ops

FLOAT32_LOSS = 1e-5
"""What float32 loses in sums of thousands of terms, and ONNX Runtime in its Sigmoid."""
ROWS = [(4, 64), (3, 5, 7), (1, 13), (1, 1), (129, 3072), (2, 20000), (0, 8)]
IMAGES = [(2, 64, 4, 4), (2, 32, 5, 3), (1, 32, 1, 1), (2, 64, 33, 65)]


def with_columns(shapes, count):
    """Each shape, and ``count`` vectors along its last axis."""
    return [[shape, *[shape[-1:]] * count] for shape in shapes]


def with_channels(shapes, axis):
    """Each shape, and two vectors along ``axis``."""
    return [[shape, (shape[axis],), (shape[axis],)] for shape in shapes]


SOFTMAX = [
    [(2, 3, 5, 16), (2, 1, 5, 16)],
    [(2, 3, 5, 7), (2, 1, 1, 7)],
    [(1, 2, 3, 5000), (1, 1, 3, 5000)],
]
ROPE = [[(2, 3, 5, 32), (5, 16), (5, 16)], [(2, 3, 5, 6), (5, 3), (5, 3)]]
ROPE_HEADS_LAST = [[(2, 5, 3, 32), (5, 16), (5, 16)], [(2, 5, 3, 6), (5, 3), (5, 3)]]
QUANTIZE = [[(4, 64), ()], [(2, 3, 5, 7), (3,)], [(2, 3, 4, 8), (3,)], [(3, 7001), ()]]

CASES = [
    (ops.AddRMSNorm(), [[shape, shape, shape[-1:]] for shape in ROWS]),
    (ops.BiasGelu(), with_columns(ROWS, 1)),
    (ops.BiasGelu(approximate="tanh"), with_columns(ROWS, 1)),
    (ops.GatedActivation(), [[(*s[:-1], 2 * s[-1])] for s in ROWS]),
    (ops.GatedActivation(activation="gelu"), [[(4, 64)], [(3, 5, 14)]]),
    (ops.GatedActivation(activation="gelu_tanh"), [[(4, 64)], [(3, 5, 14)]]),
    (ops.GatedActivation(gate_last=True), [[(4, 64)], [(3, 5, 14)]]),
    (ops.GroupNorm(), with_channels(IMAGES, 1)),
    (ops.GroupNorm(groups=4, activation="silu"), with_channels([(2, 12, 7)], 1)),
    (ops.GroupNormNHWC(), with_channels([(s[0], *s[2:], s[1]) for s in IMAGES], 3)),
    (
        ops.GroupNormNHWC(groups=4, activation="silu"),
        with_channels([(2, 9, 7, 12), (1, 3, 5, 8200)], 3),
    ),
    (ops.InstanceNorm(), with_channels([(2, 3, 8, 8), (2, 3, 7), (1, 2, 3, 4, 5)], 1)),
    (ops.LayerNorm(), with_columns(ROWS, 2)),
    (ops.MaskedSoftmax(scale=0.125), SOFTMAX),
    (ops.QuantizeFloat8(), QUANTIZE),
    (ops.QuantizeInt8(), QUANTIZE),
    (ops.RMSNorm(), with_columns(ROWS, 1)),
    (ops.RMSNormQuantize(), [[*case, ()] for case in with_columns(ROWS, 1)]),
    (ops.RotaryEmbedding(), ROPE),
    (ops.RotaryEmbedding(interleaved=True), ROPE),
    (ops.RotaryEmbedding(heads_last=True), ROPE_HEADS_LAST),
    (ops.RotaryEmbedding(interleaved=True, heads_last=True), ROPE_HEADS_LAST),
    *sampling_op_cases.CASES,
    *array_op_cases.CASES,
]


def tolerance(op):
    """How far results may be off, besides four roundings in their type."""
    if isinstance(op, ops.DeformConv):
        return sampling_op_cases.rounding_of_sums(op)
    return array_op_cases.TOLERANCES.get(type(op), FLOAT32_LOSS)


def name(op):
    values = "-".join(str(v) for v in vars(op).values())
    return f"{op.op_type}-{values}" if values else op.op_type
