"""BiasGelu keeps all that it declares; on a machine without a GPU its kernel is only compiled."""

from __future__ import annotations

import pytest
from trtforge_ops import BiasGelu

from trtforge.op_testing import check_op

# Whole packs of eight, a row that packs would cross, a tail, one element, several blocks, nothing.
CASES = [
    [(4, 64), (64,)],
    [(3, 5, 7), (7,)],
    [(1, 13), (13,)],
    [(1,), (1,)],
    [(9, 3072), (3072,)],
    [(0, 8), (8,)],
]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_bias_gelu_is_what_it_declares(approximate: str) -> None:
    evidence = check_op(BiasGelu(approximate=approximate), CASES)
    assert evidence.opsets == (15, 17, 18, 20, 22)
    assert "bfloat16 sm_80" in evidence.compiled
    assert "bfloat16 sm_75" not in evidence.compiled  # Turing has no bfloat16
    assert len(evidence.compiled) == 17
