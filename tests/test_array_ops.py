"""What the ops on indices and matrices refuse, and cases of many blocks."""

import numpy as np
import pytest
import trtforge_ops as ops
from trtforge_ops import select

from trtforge import RequestError
from trtforge.op_testing import check_on_host, make_inputs


@pytest.mark.parametrize("shape", [(2, 3, 4), (65, 65)])
def test_matrices_are_square_and_small(shape):
    with pytest.raises(RequestError, match="square matrices of at most 64 rows"):
        ops.Inverse().launch((shape,), (shape,), {})


def test_the_blocks_fit_the_image():
    with pytest.raises(RequestError, match="4 blocks fit an image, not 5"):
        ops.Col2Im(height=2, width=2).launch(((1, 3, 5),), ((1, 3, 2, 2),), {"block": 256})


@pytest.mark.parametrize("most", [1, 3])
def test_few_blocks_choose_from_many_entries(most, monkeypatch):
    monkeypatch.setattr(select, "MOST_BLOCKS", most)
    words, blocks = select.spans(30_000)
    assert (words > 32, blocks) == (True, most)  # a warp reads 32 words at a time
    chosen = np.random.default_rng(0).integers(0, 2, 30_000).astype(bool)
    for dtype in ops.NonZero.dtypes:
        (x,) = make_inputs(
            ops.NonZero(), [chosen.reshape(300, 100)], dtype, np.random.default_rng(0)
        )
        check_on_host(ops.NonZero(), [x], dtype)
    check_on_host(ops.Compress(), [np.arange(30_000, dtype=np.int32), chosen], "int32")


def test_zeros_are_one_value_and_each_nan_is_its_own():
    values = np.random.default_rng(0).integers(-9, 9, 5000).astype(np.float32)
    values[::7], values[3::11], values[1:3] = np.nan, -0.0, (np.inf, -np.inf)
    check_on_host(ops.Unique(), [values], "float32")


@pytest.mark.parametrize("low", [-(2**63), 2**63 - 4, 0])
def test_integers_at_the_ends_of_their_range_are_sorted(low):
    values = np.full(5000, low, np.int64)
    values[1::3], values[2::3] = 2**63 - 1, low + 1
    check_on_host(ops.Unique(), [values], "int64")
