"""Importing trtforge is cheap and pulls in nothing heavy."""

import subprocess
import sys

import pytest

import trtforge

PROBE = """
import sys, time
start = time.perf_counter()
import trtforge
print(time.perf_counter() - start)
print(" ".join(sys.modules))
"""


def probe():
    out = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    seconds, modules = out.stdout.splitlines()
    return float(seconds), set(modules.split())


def test_importing_takes_less_than_150_ms():
    # The fastest of five: the bar is about our own work, not about a busy machine.
    assert min(probe()[0] for _ in range(5)) < 0.150


@pytest.mark.parametrize("heavy", ["onnx", "onnx_ir", "tensorrt", "tensorrt_rtx", "cupy", "numpy"])
def test_importing_loads_nothing_heavy(heavy):
    assert heavy not in probe()[1]


@pytest.mark.parametrize("name", trtforge.__all__)
def test_every_public_name_exists_and_is_documented(name):
    member = getattr(trtforge, name)
    assert (member.__doc__ or "").strip() or not callable(member)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        trtforge.nothing  # noqa: B018  # the access is the test


BLOCKED = """
import sys
for name in ("tensorrt", "tensorrt_rtx", "cupy", "torch", "tensorflow"):
    sys.modules[name] = None
from trtforge.host import Host
host = Host()
assert not host.broken, host.broken
print(len(host.steps))
"""


def test_plugins_load_without_tensorrt_and_cupy():
    out = subprocess.run(
        [sys.executable, "-c", BLOCKED], check=True, capture_output=True, text=True
    )
    assert int(out.stdout) > 15


DEFERRED = """
import sys
from trtforge.cli.quick_start import quick_start
quick_start()
import onnx_ir as ir
print("sympy.core" in sys.modules)
print(ir.SymbolicDim("batch") + 1)
print("sympy.core" in sys.modules)
"""


def test_a_command_loads_sympy_only_for_symbolic_arithmetic():
    out = subprocess.run(
        [sys.executable, "-c", DEFERRED], check=True, capture_output=True, text=True
    )
    assert out.stdout.splitlines() == ["False", "batch + 1", "True"]
