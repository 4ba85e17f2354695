"""Every shipped custom op is what it declares: shapes, ONNX function, kernel on the CPU."""

import op_cases
import pytest
import trtforge_ops

from trtforge.op_testing import check_op
from trtforge.targets import KNOWN

OLDEST_AND_NEWEST = [KNOWN["sm_75"], KNOWN["sm_120"]]


@pytest.mark.parametrize(
    ("op", "cases"), op_cases.CASES, ids=[op_cases.name(op) for op, _ in op_cases.CASES]
)
def test_op_is_what_it_declares(op, cases):
    atol = op_cases.tolerance(op)
    evidence = check_op(op, cases, targets=OLDEST_AND_NEWEST, atol=atol)
    assert {text.split()[0] for text in evidence.compiled} == set(op.dtypes)
    assert max(evidence.opsets) == min(22, op.until)
    assert evidence.executed_with, "NOT EXECUTED: the kernels' numerics need a C++ compiler (g++)"


def test_every_op_has_cases():
    assert {type(op) for op, _ in op_cases.CASES} == set(trtforge_ops.OPS)
