"""What the ops on indices and matrices refuse."""

import pytest
import trtforge_ops as ops

from trtforge import RequestError


@pytest.mark.parametrize("shape", [(2, 3, 4), (65, 65)])
def test_matrices_are_square_and_small(shape):
    with pytest.raises(RequestError, match="square matrices of at most 64 rows"):
        ops.Inverse().launch((shape,), (shape,), {})


def test_the_blocks_fit_the_image():
    with pytest.raises(RequestError, match="4 blocks fit an image, not 5"):
        ops.Col2Im(height=2, width=2).launch(((1, 3, 5),), ((1, 3, 2, 2),), {"block": 256})
