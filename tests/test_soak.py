"""Builds in one process leave nothing behind; ``benchmarks/soak.py`` does 200 of them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_builds_that_end_well_badly_or_in_a_crash_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import soak

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = soak.soak(16, tmp_path)
    ends = ("good: built", "bad: no-such-operator", "slow: time-limit", "crash: worker-failed")
    assert found["ended"] == dict.fromkeys(ends, 4)
    assert soak.faults(found) == []
