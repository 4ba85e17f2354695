"""Kernels of custom ops on a GPU, against their NumPy references."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import op_cases
import pytest
from reads_too_far import ReadsTooFar
from trtforge_ops import BiasGelu

from trtforge.op_sanitizer import TOOLS, sanitize, sanitizer
from trtforge.op_testing import check_op, gpu_name, launch_op, make_inputs, shapes_of
from trtforge.ops import launches
from trtforge.targets import KNOWN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not gpu_name(),
        reason="NOT RUN: kernels were compiled but never launched; no NVIDIA GPU here",
    ),
]


@pytest.mark.parametrize(
    ("op", "cases"), op_cases.CASES, ids=[op_cases.name(op) for op, _ in op_cases.CASES]
)
def test_op_computes_what_its_reference_says(op: Any, cases: Any) -> None:
    atol = op_cases.tolerance(op)
    evidence = check_op(op, cases, targets=[KNOWN["sm_90"]], atol=atol)
    assert evidence.kernel_ran_on == gpu_name()
    assert evidence.sanitized == (TOOLS if sanitizer() else ())


STATIC = 2048
"""More than any kernel has in shared memory besides what it asks for at its launch."""
ONE_OF_EACH = list({op.op_type: (op, cases) for op, cases in reversed(op_cases.CASES)}.values())


def every_tactic(op: Any, cases: Any) -> list[dict[str, int]]:
    """Return all tactics of an op whose blocks have enough shared memory on this GPU."""
    import cupy

    room = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]

    def fits(tactic: dict[str, int]) -> bool:
        return all(
            launch.shared_bytes + STATIC <= room
            for shapes in map(shapes_of, cases)
            for launch in launches(op, shapes, op.shapes(*shapes), tactic)
        )

    choices = itertools.product(*op.tactics.values())
    return list(filter(fits, (dict(zip(op.tactics, each, strict=True)) for each in choices)))


@pytest.mark.skipif(not sanitizer(), reason="NOT RUN: compute-sanitizer is not here")
@pytest.mark.parametrize(("op", "cases"), ONE_OF_EACH, ids=[op.op_type for op, _ in ONE_OF_EACH])
def test_the_sanitizer_finds_nothing_with_any_tactic(op: Any, cases: Any) -> None:
    dtype = "float16" if "float16" in op.dtypes else op.dtypes[0]
    for tool in TOOLS:
        assert not sanitize(op, cases, tool, every_tactic(op, cases), [dtype])


@pytest.mark.skipif(not sanitizer(), reason="NOT RUN: compute-sanitizer is not here")
def test_the_sanitizer_finds_a_kernel_that_reads_past_its_input() -> None:
    problem = sanitize(ReadsTooFar(), [[(64,)]], "memcheck")
    assert "compute-sanitizer memcheck found" in problem
    assert "Invalid __global__ read" in problem


def test_a_kernel_that_writes_past_its_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from trtforge import Launch

    op = BiasGelu()
    inputs = make_inputs(op, [(2, 8), (8,)], "float32", np.random.default_rng(0))
    too_many = Launch(grid=3, block=128, scalars=(3, 8))  # two rows, and one more
    monkeypatch.setattr(BiasGelu, "launch", lambda *_: too_many)
    with pytest.raises(AssertionError, match="wrote outside its output"):
        launch_op(op, inputs, "float32")


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_little(self: Any, *inputs: Any) -> Any:
        (y,) = reference(self, *inputs)
        return (y * np.asarray(1.01, y.dtype),)

    reference = BiasGelu.reference
    op = BiasGelu()
    inputs = make_inputs(op, [(2, 8), (8,)], "float32", np.random.default_rng(0))
    right = launch_op(op, inputs, "float32")[0]
    np.testing.assert_allclose(right, reference(op, *inputs)[0], rtol=5e-7, atol=1e-6)
    assert not np.allclose(right, off_by_a_little(op, *inputs)[0], rtol=5e-7, atol=1e-6)
