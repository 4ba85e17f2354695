"""Cases of the ops that index, select and accumulate, whose inputs mostly have to be values."""

import numpy as np
import trtforge_ops as ops

RANDOM = np.random.default_rng(2)
REDUCTIONS = ("add", "mul", "max", "min")
EACH_WAY = [(exclusive, reverse) for exclusive in (False, True) for reverse in (False, True)]


def integers(low, high, shape):
    return RANDOM.integers(low, high, shape)


def regular(*shape):
    """Matrices near the identity: their determinants and inverses are of the size of 1."""
    return np.eye(shape[-1]) + 0.5 / shape[-1] * RANDOM.standard_normal(shape)


def near_one(*shape):
    """Factors whose products stay in the range of float16."""
    return np.exp(0.05 * RANDOM.standard_normal(shape))


SCATTER_ND = [
    [(5, 4, 3), integers(-5, 5, (7, 1)), (7, 4, 3)],
    [(6, 5), integers(0, 5, (2, 300, 2)), (2, 300)],  # many updates of each place
    [(3, 4, 2), integers(0, 2, (4, 3)), (4,)],
]
SCATTER_ELEMENTS = [
    [(5, 4), integers(-5, 5, (3, 4)), (3, 4)],
    [(3, 50, 2), integers(0, 3, (7, 40, 2)), (7, 40, 2)],
    [(4, 2, 700), integers(0, 4, (3, 2, 600)), (3, 2, 600)],  # two slabs
    [(5, 4), np.zeros((0, 4)), (0, 4)],
]
NON_ZERO = [
    [integers(-1, 2, (3, 5, 7))],
    [integers(0, 2, (70, 100))],  # several blocks
    [integers(0, 2, (5000,))],
    [integers(0, 2, (3, 4, 5, 6))],
    [np.zeros(4)],
    [(0, 3)],
]
COMPRESS = [
    [(5, 4), integers(0, 2, 5)],
    [(3000, 2), integers(0, 2, 2500)],  # a condition that does not reach the end
    [(7,), integers(0, 2, 7)],
    [(3, 5000), np.array([1, 0, 1])],  # rows of several parts
    [(4, 3), np.zeros(4)],
]
LINES = [[(4, 64)], [(3, 5, 7)], [(1, 1)], [(2, 3000)], [(0, 8)]]
COLUMNS = [[(4, 64, 3)], [(3, 5, 7)], [(2, 300, 40)]]
FACTORS = [[near_one(4, 64)], [near_one(3, 5, 7)], [near_one(2, 300)]]
FACTOR_COLUMNS = [[near_one(4, 64, 3)], [near_one(3, 5, 7)]]
MATRICES = [[regular(2, 3, 4, 4)], [regular(5, 1, 1)], [regular(3, 17, 17)], [regular(2, 64, 64)]]
BITS = [
    [integers(-100, 100, (4, 64)), integers(-100, 100, (4, 64))],
    [(3, 5, 7), (3, 5, 7)],
    [(5000,), ()],
    [(0,), ()],
]
FOLDED = ops.Col2Im(
    height=7, width=9, block_height=3, block_width=2, stride_height=2, dilation_width=2,
    pad_top=1, pad_left=1, pad_bottom=1, pad_right=2,
)  # fmt: skip
FOLDED_BLOCKS = 4 * 10
COL2IM = [[(2, 3 * 6, FOLDED_BLOCKS)], [(1, 6, FOLDED_BLOCKS)]]
UNIQUE = [
    [integers(-50, 50, (64,))],
    [integers(-3, 3, (3, 5, 7))],
    [integers(-50, 50, (5000,))],
    [np.zeros(1)],
    [np.arange(300)[::-1].copy()],
    [integers(-(2**62), 2**62, (9000,))],  # several tiles, and all bits
    [(0,)],
]
PILLARS = ops.Voxelize((-4.0, -4.0, -4.0), (1.0, 2.0, 8.0), (8, 4, 1), 4, 40)
CROWDED = ops.Voxelize((-1.0, -2.0, -1.0), (0.3, 0.7, 1.0), (7, 6, 2), 3, 5)  # more cells than fit
VOXELIZE = [
    [(100, 4)],
    [(300, 5)],
    [(1, 3)],
    [np.array([[-4, 0, 0], [4, 0, 0], [3, -4, -4], [0, 2, 4], [-1, -2, -1]])],  # on borders
    [np.full((9, 3), 50)],  # all outside
    [(0, 4)],
]


def boxes(images, classes, count, most=1000):
    """Boxes that overlap, and scores of which some are equal."""
    scores = RANDOM.integers(0, 50, (images, classes, count)) / 50
    limits = [np.array([most]), np.array([0.3]), np.array([0.2])]
    return [RANDOM.uniform(0, 5, (images, count, 4)), scores, *limits]


def sparse_boxes(count):
    """Small boxes of which most stay."""
    corners = RANDOM.uniform(0, 40, (1, count, 2))
    scores = RANDOM.permutation(count).reshape(1, 1, -1) / count
    limits = [np.array([count]), np.array([0.3]), np.array([0.2])]
    return [np.concatenate((corners, corners + 1), -1), scores, *limits]


def turned_boxes(images, classes, count, most=1000, limit=0.3):
    """Boxes that overlap, and some that are the same."""
    places = RANDOM.uniform(0, 6, (images, count, 2))
    sizes = RANDOM.uniform(0.5, 3, (images, count, 2))
    angles = RANDOM.uniform(-4, 4, (images, count, 1))
    all_boxes = np.concatenate((places, sizes, angles), -1)
    all_boxes[:, count // 2 :] = all_boxes[:, : count - count // 2]
    scores = RANDOM.integers(0, 50, (images, classes, count)) / 50
    return [all_boxes, scores, np.array([most]), np.array([limit]), np.array([0.2])]


NMS = [
    boxes(2, 3, 70), boxes(1, 1, 300, most=7), boxes(1, 2, 1), boxes(2, 2, 0),
    sparse_boxes(2500),  # several spans of tiles
]  # fmt: skip
TURNED_NMS = [
    turned_boxes(2, 3, 40),
    turned_boxes(1, 1, 150, most=7),
    turned_boxes(1, 2, 100, limit=0.6),
]

CASES = [
    *((ops.Bitwise(operator), BITS) for operator in ("and", "or", "xor")),
    (FOLDED, COL2IM),
    (ops.Col2Im(height=4, width=5, block_height=2, block_width=2), [[(2, 4, 12)]]),
    (ops.Compress(), COMPRESS),
    *((ops.CumProd(-1, *way), FACTORS) for way in EACH_WAY),
    (ops.CumProd(1, exclusive=True, reverse=True), FACTOR_COLUMNS),
    *((ops.CumSum(-1, *way), LINES) for way in EACH_WAY),
    (ops.CumSum(1), COLUMNS),
    (ops.CumSum(-2, exclusive=True, reverse=True), COLUMNS),
    (ops.Det(), MATRICES),
    (ops.Inverse(), MATRICES),
    (ops.NonMaxSuppression(), NMS),
    (ops.NonMaxSuppression(center_point_box=True), NMS),
    (ops.NonZero(), NON_ZERO),
    (ops.RotatedNonMaxSuppression(), TURNED_NMS),
    *((ops.ScatterElements(0, how), SCATTER_ELEMENTS) for how in REDUCTIONS),
    (ops.ScatterElements(-1), [[(5, 4), integers(-4, 4, (5, 7)), (5, 7)]]),
    *((ops.ScatterND(how), SCATTER_ND) for how in REDUCTIONS),
    (ops.Unique(), UNIQUE),
    (PILLARS, VOXELIZE),
    (CROWDED, VOXELIZE),
]
TOLERANCES = {
    ops.CumProd: 1e-4,  # products of 300 factors: 300 roundings of float32
    ops.CumSum: 1e-3,  # sums of 3000 numbers reach 500, whose float32 has steps of 3e-5
    ops.Det: 1e-4,  # ONNX Runtime's own elimination of 64 rows is in float32
    ops.Inverse: 1e-4,  # the same
}
"""Absolute."""
