"""compute-sanitizer around the kernels of an op: what it is started with, and what it says.

A script stands for the sanitizer, and what launches a kernel only writes down; tests/gpu runs both.
"""

import json
import stat

import numpy as np
import pytest
import trtforge_ops as ops
from command import trtforge

from trtforge import op_sanitizer_job, op_testing
from trtforge.op_sanitizer import TOOLS, sanitize, sanitizer

SAID = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at trtforge_BiasGelu_float32+0x40
=========
========= ERROR SUMMARY: 1 error
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a sanitizer on the path that ends with the exit code in ``code`` and keeps its job."""
    script = tmp_path / "compute-sanitizer"
    script.write_text(
        f"#!/bin/sh\nfor last; do :; done\ncp -r $last {tmp_path}/job\n"
        f'echo "$@" > {tmp_path}/arguments\ncat {tmp_path}/said\nexit $(cat {tmp_path}/code)\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "said").write_text(SAID)
    (tmp_path / "code").write_text("0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


OP = ops.ScatterElements(0)
CHECK = ("op", "check", "BiasGelu", "--target", "sm_86", "--shape", "x=2x8", "--shape", "bias=8")
CASE = [(5, 4), np.array([[0, -1, 2, 2]]), (1, 4)]


def test_it_is_started_around_a_process_that_launches_the_op(stand_in):
    assert sanitizer() == str(stand_in / "compute-sanitizer")
    assert sanitize(OP, [CASE], "racecheck") == ""
    arguments = (stand_in / "arguments").read_text()
    assert "--tool racecheck --error-exitcode 86" in arguments
    assert "-m trtforge.op_sanitizer_job" in arguments
    job = json.loads((stand_in / "job" / "job.json").read_text())
    assert job["cases"] == [[[5, 4], "0_1.npy", [1, 4]]]


def test_the_process_launches_each_case_and_type(stand_in, monkeypatch):
    cupy = pytest.importorskip("cupy", reason="NOT RUN: CuPy is not installed")
    monkeypatch.setattr(cupy.cuda, "set_allocator", lambda _: None)
    sanitize(OP, [CASE, CASE], "memcheck")
    launched = []
    monkeypatch.setattr(op_sanitizer_job, "launch_op", lambda *given: launched.append(given))
    op_sanitizer_job.run_job(stand_in / "job")
    assert [(op, dtype) for op, _, dtype, _ in launched] == 2 * [(OP, each) for each in OP.dtypes]
    for _, inputs, dtype, tactic in launched:
        assert tactic is None, "the op chooses"
        assert [array.shape for array in inputs] == [(5, 4), (1, 4), (1, 4)]
        assert inputs[0].dtype == dtype
        assert np.array_equal(inputs[1], CASE[1])


def test_the_process_launches_the_tactics_and_types_that_are_named(stand_in, monkeypatch):
    cupy = pytest.importorskip("cupy", reason="NOT RUN: CuPy is not installed")
    monkeypatch.setattr(cupy.cuda, "set_allocator", lambda _: None)
    tactics = [{"block": 256, "items": 1}, {"block": 128, "items": 4}]
    sanitize(ops.BiasGelu(), [[(2, 8), (8,)]], "memcheck", tactics, ["float16"])
    launched = []
    monkeypatch.setattr(op_sanitizer_job, "launch_op", lambda *given: launched.append(given[2:]))
    op_sanitizer_job.run_job(stand_in / "job")
    assert launched == [("float16", tactic) for tactic in tactics]


def test_what_it_found_is_told(stand_in):
    (stand_in / "code").write_text("86")
    problem = sanitize(OP, [CASE], "memcheck")
    assert problem.startswith("compute-sanitizer memcheck found\n")
    assert "Invalid __global__ read of size 4 bytes" in problem
    (stand_in / "code").write_text("1")
    (stand_in / "said").write_text("Traceback\nImportError: no module")
    problem = sanitize(OP, [CASE], "memcheck")
    assert problem.startswith("compute-sanitizer memcheck ended with exit code 1:\n")
    assert problem.endswith("ImportError: no module")


def gpu(monkeypatch, result=""):
    """Make ``check_op`` believe in a GPU on which all is right."""
    monkeypatch.setattr(op_testing, "gpu_name", lambda: "Test GPU")
    monkeypatch.setattr(op_testing, "launch_op", lambda op, inputs, _: op.reference(*inputs))
    monkeypatch.setattr(op_testing, "sanitize", lambda *_: result)


def test_a_check_on_a_gpu_includes_it(stand_in, monkeypatch):
    gpu(monkeypatch)
    said = trtforge(*CHECK)
    assert said.code == 0, said.err
    assert f"{'sanitizer':<15}{', '.join(TOOLS)}: nothing found" in said.out


def test_an_op_in_which_it_finds_something_is_wrong(stand_in, monkeypatch):
    gpu(monkeypatch, "compute-sanitizer memcheck found\n  Invalid __global__ read")
    said = trtforge(*CHECK)
    assert said.code == 1
    assert "Invalid __global__ read" in said.out


def test_without_it_a_check_says_so(tmp_path, monkeypatch):
    gpu(monkeypatch)
    monkeypatch.setattr(op_testing, "sanitizer", lambda: "")
    said = trtforge(*CHECK)
    assert f"{'sanitizer':<15}not run" in said.out
