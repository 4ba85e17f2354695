"""Kernels: from a template to PTX and CUBIN, and what a wrong template is told."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trtforge_ops

from trtforge import CustomOp, EnvironmentLacks, Launch, RequestError, kernel_source
from trtforge import kernels as kernels_module
from trtforge.kernel_source import KernelError, literal, render, render_text, template_path
from trtforge.kernels import compile_kernel, ptx_version
from trtforge.targets import KNOWN, Target

SM_86 = KNOWN["sm_86"]
TWICE = """\
{# Doubles, twice where asked. #}
using T = {{ T }};
{% if twice %}
constexpr int kTimes = {{
    4
}};
{% else %}
constexpr int kTimes = 2;
{% endif %}
extern "C" __global__ void {{ entry }}(const T* x, int n, T* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = T(float(x[i]) * kTimes);
}
"""


@dataclass(frozen=True)
class Twice(CustomOp):
    """An op whose template each test writes for itself."""

    name = "test::Twice"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "twice.cu.jinja"
    function = "y = Add (x, x)"

    twice: bool = False

    def shapes(self, *inputs: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (inputs[0],)

    def launch(self, inputs: Any, outputs: Any, tactic: Any) -> Launch:
        return Launch(grid=1, block=32, scalars=(1,))

    def reference(self, *inputs: Any) -> Any:
        return (inputs[0] * 2,)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the template of ``Twice``, as if its module lay in a folder of this test's own."""
    monkeypatch.setattr(kernel_source.inspect, "getfile", lambda _: str(tmp_path / "module.py"))

    def write(text: str) -> Path:
        path = tmp_path / Twice.kernel
        path.write_text(text)
        return path

    return write


def test_a_template_becomes_readable_cuda(write: Any) -> None:
    write(TWICE)
    source = render(Twice(), "float16")
    assert source.entry == "test_Twice_float16"
    assert source.text.splitlines()[:2] == ["#include <cuda_fp16.h>", "using T = __half;"]
    assert "constexpr int kTimes = 2;" in source.text
    assert "\x01" not in source.text


def test_each_line_knows_its_line_of_the_template(write: Any) -> None:
    template = write(TWICE).read_text().splitlines()
    for twice in (False, True):
        source = render(Twice(twice=twice), "float32")
        for text, origin in zip(source.text.splitlines(), source.lines, strict=True):
            if "{{" not in template[origin - 1] and text:
                assert text == template[origin - 1]


@pytest.mark.parametrize("dtype", Twice.dtypes)
def test_it_compiles_to_ptx_and_cubin(write: Any, dtype: str) -> None:
    write(TWICE)
    kernel = compile_kernel(Twice(), dtype, SM_86)
    assert kernel.entry.encode() in kernel.ptx
    assert b".target sm_86" in kernel.ptx
    assert kernel.cubin.startswith(b"\x7fELF")


@pytest.mark.parametrize("target", [KNOWN["sm_75"], SM_86, KNOWN["sm_120"]], ids=str)
def test_a_cubin_is_a_whole_elf_file(write: Any, target: Target, tmp_path: Path) -> None:
    write(TWICE)
    cubin = compile_kernel(Twice(), "float32", target).cubin
    (headers,) = struct.unpack_from("<Q", cubin, 32)  # the program headers are the file's end
    size, count = struct.unpack_from("<HH", cubin, 54)
    assert headers + size * count == len(cubin)
    tool = shutil.which("cuobjdump")  # of CUDA's toolkit; where it is missing, the size must do
    if tool:
        (tmp_path / "twice.cubin").write_bytes(cubin)
        listing = subprocess.run([tool, "--dump-elf-symbols", tmp_path / "twice.cubin"],
                                 capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert "test_Twice_float32" in listing


def test_a_compile_error_names_the_line_and_shows_the_cuda(write: Any) -> None:
    path = write(TWICE.replace("float(x[i])", "float(z[i])"))
    with pytest.raises(KernelError) as caught:
        compile_kernel(Twice(twice=True), "float16", SM_86)
    message = str(caught.value)
    assert message.startswith(f"{path}:12: ")  # the line of the template, not of the CUDA
    assert 'identifier "z" is undefined' in message
    assert "| extern" in message
    assert "if (i < n) y[i] = T(float(z[i]) * kTimes);" in message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("one\n{{ betta }}\n", 2, "'betta' is undefined"),
        ("one\n\n{% if twice %}\n", 3, "'endif'"),
        ("one\n{{ entry / 2 }}\n", 2, "unsupported operand"),
        ("{{ ''.__class__.__mro__ }}\n", 1, "unsafe"),
    ],
)
def test_a_wrong_template_is_told_its_line(write: Any, text: str, line: int, words: str) -> None:
    path = write(text)
    with pytest.raises(KernelError) as caught:
        render(Twice(), "float32")
    assert caught.value.where == f"{path}:{line}"
    assert words in caught.value.what


def test_a_template_lies_beside_its_module(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="has no kernel template"):
        template_path(Twice)
    write(TWICE)
    assert template_path(Twice()).name == "twice.cu.jinja"
    monkeypatch.setattr(Twice, "kernel", f"../{write('').parent.name}/twice.cu.jinja")
    with pytest.raises(KernelError, match="has no kernel template"):
        template_path(Twice)


def test_a_type_that_the_op_lacks_is_refused(write: Any) -> None:
    write(TWICE)
    with pytest.raises(RequestError, match="no kernel for 'int8'"):
        render(Twice(), "int8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3, "(3)"),
        (-(2**40), "(-1099511627776LL)"),
        (0.1, "(0.1f)"),
        (-2.0, "(-2.0f)"),
        (1e-20, "(1e-20f)"),
        (float("inf"), "__int_as_float(0x7f800000)"),
        (float("nan"), "__int_as_float(0x7fffffff)"),
        ('a "b"\n', '"a \\"b\\"\\n"'),
    ],
)
def test_literals_are_c(value: object, text: str) -> None:
    assert literal(value) == text
    assert render_text("{{ v | c }}", {"v": value}, "test") == text


def test_a_kept_kernel_is_used_and_a_damaged_one_is_not(write: Any, tmp_path: Path) -> None:
    write(TWICE)
    store = tmp_path / "kernels"
    first = compile_kernel(Twice(), "float32", SM_86, store)
    kept = {path.suffix: path for path in store.iterdir()}
    assert set(kept) == {".ptx", ".cubin"}
    check, code = kept[".ptx"].read_bytes().split(b"\n", 1)
    kept[".ptx"].write_bytes(kernels_module.digest(b"marker").encode() + b"\nmarker")
    assert compile_kernel(Twice(), "float32", SM_86, store).ptx == b"marker"  # taken from the store
    kept[".ptx"].write_bytes(check + b"\n" + code[:-1])
    assert compile_kernel(Twice(), "float32", SM_86, store).ptx == first.ptx  # compiled again
    assert kept[".ptx"].read_bytes() == check + b"\n" + code
    compile_kernel(Twice(twice=True), "float32", SM_86, store)
    compile_kernel(Twice(), "float32", KNOWN["sm_90"], store)
    assert len(list(store.iterdir())) == 6  # each has its own name; no temporary file is left


@pytest.mark.parametrize(
    ("cuda", "target", "version"),
    [(12, "sm_75", "8.0"), (12, "sm_120", "8.7"), (13, "sm_75", "9.0"), (13, "sm_121", "9.0")],
)
def test_the_ptx_is_of_the_version_that_the_oldest_driver_reads(
    cuda: int, target: str, version: str
) -> None:
    assert ptx_version(cuda, KNOWN[target]) == version


@pytest.mark.parametrize("target", ["sm_75", "sm_89", "sm_110", "sm_121"])
def test_the_ptx_states_that_version_and_keeps_to_it(target: str, tmp_path: Path) -> None:
    """An assembler refuses an instruction that came after the version that the text states."""
    kernel = compile_kernel(trtforge_ops.RMSNorm(), "float16", KNOWN[target])
    assert len(re.findall(rb"(?m)^\.version (?:8|9)\.\d$", kernel.ptx)) == 1
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("there is no ptxas, so the stated version was not held against the code")
    (tmp_path / "kernel.ptx").write_bytes(kernel.ptx)
    subprocess.run(
        [ptxas, f"-arch={target}", str(tmp_path / "kernel.ptx"), "-o", str(tmp_path / "out")],
        check=True,
    )


def test_processes_may_fill_one_store_at_once(tmp_path: Path) -> None:
    """Each writes the same kernel; whatever a reader finds is whole."""
    store, code = (
        tmp_path / "kernels",
        (
            "import sys, pathlib, trtforge_ops\n"
            "from trtforge.kernels import compile_kernel\n"
            "from trtforge.targets import KNOWN\n"
            "for _ in range(20):\n"
            "    kernel = compile_kernel(trtforge_ops.QuantizeInt8(), 'float32', KNOWN['sm_86'],"
            " pathlib.Path(sys.argv[1]))\n"
            "    assert kernel.cubin.startswith(b'\\x7fELF')\n"
        ),
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(store)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert sorted(path.suffix for path in store.iterdir()) == [".cubin", ".ptx"]


def test_without_cupy_the_remedy_is_named(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(TWICE)
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    kernels_module._toolchain.cache_clear()
    with pytest.raises(EnvironmentLacks, match=r"trtforge\[cu13\]"):
        compile_kernel(Twice(), "float32", SM_86)
