"""BiasGelu keeps all that it declares; on a machine without a GPU its kernel is only compiled."""

from __future__ import annotations

import numpy as np
import pytest
from trtforge_ops import BiasGelu

from trtforge.op_testing import check_on_host, check_op, make_inputs

# Whole packs of eight, a row that packs would cross, a tail, one element, several blocks, nothing.
CASES = [
    [(4, 64), (64,)],
    [(3, 5, 7), (7,)],
    [(1, 13), (13,)],
    [(1,), (1,)],
    [(9, 3072), (3072,)],
    [(0, 8), (8,)],
]


OF_16_BITS = 4e-6
"""What the shorter formula for 16 bits may be off by, in GELU's tail: see ``fast.cuh``."""


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_float32_is_computed_by_the_exact_formula(approximate: str) -> None:
    op, rng = BiasGelu(approximate=approximate), np.random.default_rng(0)
    for case in CASES:
        check_on_host(op, make_inputs(op, case, "float32", rng), "float32", atol=1e-6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_bias_gelu_is_what_it_declares(approximate: str) -> None:
    evidence = check_op(BiasGelu(approximate=approximate), CASES, atol=OF_16_BITS)
    assert evidence.opsets == (15, 17, 18, 20, 22)
    assert "bfloat16 sm_80" in evidence.compiled
    assert "bfloat16 sm_75" not in evidence.compiled  # Turing has no bfloat16
    assert len(evidence.compiled) == 17
