"""Cases of the ops that sample feature maps: places inside, on the edges and outside."""

import itertools
from math import prod

import numpy as np
import trtforge_ops as ops

RANDOM = np.random.default_rng(3)
PADDINGS = list(itertools.product(("zeros", "border", "reflection"), (False, True)))
GRIDS = [
    [(2, 5, 4, 6), (2, 3, 7, 2)],
    [(1, 70, 1, 9), (1, 5, 60, 2)],
    [(1, 3, 8, 8), (1, 30, 40, 2)],
]
GRIDS_3D = [[(2, 5, 4, 6, 3), (2, 3, 7, 2, 3)], [(1, 70, 1, 9, 4), (1, 5, 5, 20, 3)]]


def deform_conv(x, outputs, kernel, **attributes):
    """The op, and one case of it: an image ``x``, padded so that rows and columns remain."""
    op = ops.DeformConv(pad_top=1, pad_left=1, pad_bottom=1, pad_right=1, **attributes)
    rows = (x[2] + 2 - op.dilation_height * (kernel - 1) - 1) // op.stride_height + 1
    columns = (x[3] + 2 - op.dilation_width * (kernel - 1) - 1) // op.stride_width + 1
    taps = op.offset_groups * kernel**2
    weight = (outputs, x[1] // op.groups, kernel, kernel)
    places = [(x[0], count, rows, columns) for count in (2 * taps, taps)]
    return op, [[x, weight, *places, (outputs,)]]


DEFORM_CONV = [
    deform_conv((2, 4, 6, 7), 5, 3),
    deform_conv((1, 12, 8, 9), 6, 3, groups=2, offset_groups=3, stride_height=2, stride_width=3),
    deform_conv((1, 70, 13, 12), 70, 2, dilation_height=2, dilation_width=3),
]


def rounding_of_sums(op):
    """Bound a sum of n products in float32 by sqrt(n) roundings of the sum of their magnitudes.

    Roundings are independent, so their sum grows with the root of their number (Higham and Mary, "A
    New Approach to Probabilistic Rounding Error Analysis", 2019). Twice that, because each product
    has a sample, which is itself a sum.
    """

    def bound(inputs):
        x, weight, offset, mask, bias = (array.astype(np.float64) for array in inputs)
        (magnitudes,) = op.reference(abs(x), abs(weight), offset, abs(mask), abs(bias))
        return 2 * np.sqrt(prod(weight.shape[1:])) * 2.0**-24 * magnitudes

    return bound


def attention(queries, heads, size):
    """Places of which some lie outside the feature maps."""
    levels = np.array([[5, 7], [3, 4], [1, 2]])
    places = RANDOM.uniform(-0.2, 1.2, (2, queries, heads, 3, 2, 2))
    return [(2, 49, heads, size), levels, places, (2, queries, heads, 3, 2)]


REGIONS = np.array(
    [[0, 0, 6, 5], [1, 2, 9, 20], [-3, -2, 4, 4], [5, 5, 4, 3], [0, 0, 40, 60], [2, 3, 2, 3]]
)
ROI_ALIGN = [
    [(2, 3, 8, 9), REGIONS, np.array([0, 1, 0, 1, 1, 0])],
    [(1, 2, 150, 130), np.array([[0, 0, 250, 260], [3, 5, 9, 200]]), np.array([0, 0])],
]

CASES = [
    *DEFORM_CONV,
    *(
        (ops.GridSample(mode, *padding), GRIDS)
        for mode in ("linear", "nearest", "cubic")
        for padding in PADDINGS
    ),
    *(
        (ops.GridSample3D(mode, *padding), GRIDS_3D)
        for mode in ("linear", "nearest")
        for padding in PADDINGS
    ),
    (
        ops.MultiScaleDeformableAttention(levels=3),
        [attention(9, 2, 16), attention(5, 3, 5), attention(1, 1, 2053)],
    ),
    *(
        (ops.RoiAlign(mode, 3, 2, samples, 0.7, half), ROI_ALIGN)
        for mode in ("avg", "max")
        for samples in (0, 2, 3)
        for half in ("half_pixel", "output_half_pixel")
    ),
]
