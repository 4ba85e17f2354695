"""The real timer: what it measures can be, and what it keeps is found again."""

from __future__ import annotations

import pytest
import trtforge_ops
from command import trtforge

from trtforge.op_testing import gpu_name
from trtforge.targets import read_target
from trtforge.tuning import Tuning

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_name(), reason="NOT RUN: timing kernels needs an NVIDIA GPU"),
]
OPS = [trtforge_ops.RMSNorm, trtforge_ops.GroupNorm, trtforge_ops.NonZero]


@pytest.mark.parametrize("kind", OPS, ids=lambda kind: kind.__name__)
def test_bench_measures_and_keeps(kind, tmp_path, monkeypatch):
    import cupy

    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))
    answer = trtforge("op", "bench", kind.__name__, "--json")
    assert answer.code == 0, answer.err
    for row in answer.json:
        assert 0 < row["milliseconds"] <= row["default_milliseconds"]
        assert 100e9 < row["copy_bandwidth"] < 10e12, "bytes per second of GPU memory"
        # what fits the L2 cache may be written faster than memory is copied
        assert 0.005 < row["share"] < 2
        op = kind(**row["attributes"])
        target = read_target(cupy.cuda.Device().compute_capability)
        assert row["tactic"] in Tuning().find(op, row["dtype"], target.sm).values()
