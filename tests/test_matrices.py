"""Determinants and inverses of every size, of permutations, and of singular matrices."""

import array_op_cases
import numpy as np
import pytest
import trtforge_ops as ops

from trtforge.host_launch import ORDERS, launch_on_host

MATRIX_OPS = [ops.Det(), ops.Inverse()]


def results(op, x, rows=2):
    """Run the kernel on the CPU, in two orders of its threads."""
    runs = [launch_on_host(op, [x], str(x.dtype), each, tactic={"rows": rows}) for each in ORDERS]
    np.testing.assert_array_equal(*(run[0] for run in runs))
    return runs[0][0]


@pytest.mark.parametrize("rows", ops.Det.tactics["rows"])
@pytest.mark.parametrize("op", MATRIX_OPS, ids=["det", "inverse"])
def test_every_tactic_fits_matrices_of_every_size(op, rows):
    for size in (1, 2, 3, 4, 5, 8, 13, 16, 17, 31, 32, 33, 64):
        x = array_op_cases.regular(5, size, size).astype(np.float32)
        np.testing.assert_allclose(results(op, x, rows), *op.reference(x), atol=1e-5)
        assert results(op, x[:0], rows).size == 0


@pytest.mark.parametrize("size", [2, 7, 16, 40])
def test_pivots_are_found_in_every_row(size):
    """Each column has one entry, a power of two: nothing is rounded."""
    random = np.random.default_rng(size)
    x = np.zeros((9, size, size), np.float32)
    for matrix in x:
        matrix[random.permutation(size), np.arange(size)] = 2.0 ** random.integers(-2, 3, size)
    for op in MATRIX_OPS:
        np.testing.assert_array_equal(results(op, x), *op.reference(x))


def test_a_singular_matrix_has_no_inverse_and_leaves_its_neighbours_alone():
    x = array_op_cases.regular(60, 6, 6).astype(np.float32)
    x[1], x[3, 4], x[4, :, 2], x[6:50, 5] = 0, 0, 0, x[6:50, 2]
    x[5, 1, 0] = np.nan
    singular, regular = [1, 3, 4, *range(6, 50)], [0, 2, *range(50, 60)]
    determinants, inverses = (results(op, x) for op in MATRIX_OPS)
    assert not determinants[singular].any()
    assert not np.isfinite(inverses[[*singular, 5]]).any()
    assert np.isnan(determinants[5])
    for op, y in zip(MATRIX_OPS, (determinants, inverses), strict=True):
        np.testing.assert_allclose(y[regular], *op.reference(x[regular]), atol=1e-5)
