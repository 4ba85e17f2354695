"""Every shipped custom op is what it declares: shapes, ONNX function, kernel on the CPU."""

import itertools

import op_cases
import pytest
import trtforge_ops

from trtforge.op_testing import call_model, check_op, shapes_of
from trtforge.ops import launches
from trtforge.targets import KNOWN

OLDEST_AND_NEWEST = [KNOWN["sm_75"], KNOWN["sm_120"]]
MOST_SHARED_BYTES = 227 * 1024
"""That any GPU gives a block (CUDA C++ Programming Guide, compute capability 9.0)."""
each_op = pytest.mark.parametrize(
    ("op", "cases"), op_cases.CASES, ids=[op_cases.name(op) for op, _ in op_cases.CASES]
)


@each_op
def test_op_is_what_it_declares(op, cases):
    atol = op_cases.tolerance(op)
    evidence = check_op(op, cases, targets=OLDEST_AND_NEWEST, atol=atol)
    assert {text.split()[0] for text in evidence.compiled} == set(op.dtypes)
    assert max(evidence.opsets) == min(22, op.until)
    assert evidence.executed_with, "NOT EXECUTED: the kernels' numerics need a C++ compiler (g++)"


@each_op
def test_every_tactic_fits_the_shared_memory_of_some_gpu(op, cases):
    for case, choices in itertools.product(cases, itertools.product(*op.tactics.values())):
        shapes, tactic = shapes_of(case), dict(zip(op.tactics, choices, strict=True))
        for launch in launches(op, shapes, op.shapes(*shapes), tactic):
            assert launch.shared_bytes <= MOST_SHARED_BYTES, f"{tactic} at {shapes}"


@each_op
def test_an_axis_that_a_function_drops_is_counted_from_the_front(op, cases):
    """Before 1.32 ONNX Runtime keeps an axis counted from the end where the tensor is empty."""
    opset = min(22, op.until)
    (function,) = call_model(op, cases[0], op.dtypes[0], opset).functions.values()
    for node in function:
        dropped = "keepdims" in node.attributes and not node.attributes["keepdims"].as_int()
        if node.op_type.startswith("Reduce") and dropped and len(node.inputs) > 1:
            axes = node.inputs[1].producer().attributes["value_ints"].as_ints()
            assert min(axes) >= 0, node


def test_every_op_has_cases():
    assert {type(op) for op, _ in op_cases.CASES} == set(trtforge_ops.OPS)
