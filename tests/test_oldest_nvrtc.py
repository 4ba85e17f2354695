"""Kernels of the shipped ops with the oldest NVRTC of CUDA 13, which takes less than later ones.

It comes as a package that lies apart, because newer libraries need the newest::

    pip install --no-deps --target FOLDER 'nvidia-cuda-nvrtc==13.0.*'
    TRTFORGE_OLDEST_NVRTC=FOLDER pytest tests/test_oldest_nvrtc.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = os.environ.get("TRTFORGE_OLDEST_NVRTC", "")
LIBRARY = "nvidia/cu13/lib/libnvrtc.so.13"

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="NOT RUN: TRTFORGE_OLDEST_NVRTC names no folder with NVRTC 13.0"
)


GENERIC_LAMBDA = """
from cupy.cuda import nvrtc
code = 'extern "C" __global__ void k(float* y) { auto f = [](auto v) { return v; }; *y = f(*y); }'
nvrtc.compileProgram(nvrtc.createProgram(code, "k.cu", (), ()), ("--std=c++17",))
"""


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the oldest NVRTC."""
    library = Path(FOLDER, LIBRARY).absolute()
    assert library.is_file(), f"TRTFORGE_OLDEST_NVRTC: {library} is not there"
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(library.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_compiles_every_op(tmp_path: Path) -> None:
    done = python(Path(__file__).with_name("nvrtc_job.py"), tmp_path)
    assert not done.returncode, done.stderr
    assert done.stdout.startswith("NVRTC 13 0,"), "another NVRTC was found"


def test_it_refuses_what_later_ones_take() -> None:
    done = python("-c", GENERIC_LAMBDA)
    assert "NVRTC_ERROR_COMPILATION" in done.stderr
