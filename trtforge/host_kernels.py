"""CUDA kernels compiled by the host's C++ compiler, to be executed on a machine without a GPU.

The compiler gets the rendered CUDA source as it is and the headers of ``trtforge/cuda/host``, which
give meaning to what CUDA C++ adds to C++: see ``block.h`` there. What C++ leaves undefined
(misaligned accesses, indices outside arrays, overflows) ends the kernel with the line that did it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.errors import EnvironmentLacks
from trtforge.kernel_source import Source, explain, render
from trtforge.kernels import HEADERS, cuda_headers
from trtforge.store import atomic_file, digest

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Launch, Tactic

HOST_HEADERS = HEADERS / "host"
CHECKS = "alignment,bounds,integer-divide-by-zero,null,shift,signed-integer-overflow"
OPTIONS = (
    "-std=c++20", "-O1", "-g1", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE",
    "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-stack-protector",
    f"-fsanitize={CHECKS}", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\(\d+\)\s*)?([\w:<> ]+?)\s+(\w+)\[\]\s*;"
)


@dataclass(frozen=True)
class HostKernel:
    """Kernels of one rendered template, loaded into this process."""

    source: Source
    library: Path
    compiler: str
    """The compiler's own name and version."""

    def run(
        self,
        launch: Launch,
        arguments: Sequence[ctypes.c_void_p | ctypes.c_int],
        *,
        backwards: bool = False,
    ) -> None:
        """Run all blocks of one launch.

        Args:
            launch: Blocks, threads, shared memory, and which kernel; its scalars are not read.
            arguments: All arguments of the kernel: addresses and ints.
            backwards: Run blocks, warps and lanes from the last to the first.

        Raises:
            AssertionError: the kernel did what a kernel must not; the message names the line.
        """
        name = f"{self.source.entry}_{launch.kernel}" if launch.kernel else self.source.entry
        function = getattr(_load(self.library), f"{name}_on_host")
        function.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        sizes = (ctypes.c_int * len(arguments))(*map(ctypes.sizeof, arguments))
        problem = function(
            pointers, sizes, len(arguments), launch.grid, launch.block, launch.shared_bytes,
            int(backwards),
        )  # fmt: skip
        if problem:
            place, _, what = problem.decode().partition("|")
            raise AssertionError(f"kernel {name}: {what}{self._line(place)}")

    def _line(self, place: str) -> str:
        """Name the line of the kernel that lies at ``place`` of the library."""
        finder = shutil.which("addr2line")
        if finder is None or place == "0":
            return ""
        found = subprocess.run(
            [finder, "-i", "-e", self.library, place], capture_output=True, text=True, check=False
        )
        lines = [
            (Path(path).name, int(line))
            for path, line in re.findall(r"^(.+):(\d+)", found.stdout, re.MULTILINE)
        ]
        ours = [
            f"{name}:{self.source.lines[line - 1]}" if name == self.source.template.name
            else f"trtforge/{name}:{line}"
            for name, line in lines if name.endswith((".cuh", self.source.template.name))
        ]  # fmt: skip
        return f", in {', called from '.join(ours)}" if ours else ""


def compile_for_host(
    op: CustomOp, dtype: str, store: Path, *, tactic: Tactic | None = None
) -> HostKernel:
    """Compile the kernel of ``op`` for this machine's CPU.

    Args:
        op: The custom op with its attributes set.
        dtype: ONNX's element type: ``"float16"``.
        store: Folder in which libraries are kept, named by everything that decides them; many
            processes may share it.
        tactic: A choice for each of the op's tactics; None: the first of each.

    Raises:
        KernelError: it does not compile; the message shows the lines.
        EnvironmentLacks: there is no C++ compiler, or CUDA's headers are not here.
    """
    source = render(op, dtype, tactic)
    compiler, version = _compiler()
    key = digest("\0".join((source.text, _headers_digest(), version, *OPTIONS)).encode())
    library = store / f"{key}.so"
    if not library.exists():
        _compile(source, compiler, library)
    return HostKernel(source, library, version)


def host_compiler() -> str:
    """Return name and version of the C++ compiler that kernels are executed with, or ``""``."""
    try:
        return _compiler()[1]
    except EnvironmentLacks:
        return ""


def _compile(source: Source, compiler: str, library: Path) -> None:
    names = re.findall(rf"\b({re.escape(source.entry)}\w*)\s*\(", source.text)
    offered = "".join(f"TRTFORGE_HOST_KERNEL({name})\n" for name in dict.fromkeys(names))
    text = _DYNAMIC_SHARED.sub(r"\1* const \2 = trtforge_host::dynamic_shared<\1>();", source.text)
    with tempfile.TemporaryDirectory(prefix="trtforge-host-") as folder:
        file, made = Path(folder, source.template.name), Path(folder, "kernel.so")
        file.write_text(text + offered, "utf-8")
        Path(folder, "trtforge").symlink_to(HEADERS)
        done = subprocess.run(
            [
                compiler, *OPTIONS, f"-I{folder}", f"-I{HOST_HEADERS}", f"-I{cuda_headers()}",
                "-include", "kernel.h", "-x", "c++", file, "-o", made,
            ],
            capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode:
            raise explain(source, done.stderr.replace(f"{folder}/", ""), "for the host")
        with atomic_file(library) as target:
            target.write(made.read_bytes())


@cache
def _compiler() -> tuple[str, str]:
    """Return the path of the C++ compiler, and its name and version."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        if path:
            words = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return path, words.stdout.partition("\n")[0]
    raise EnvironmentLacks(
        "executing a kernel without a GPU needs a C++ compiler, and none is here",
        remedy="install g++ or clang++, or name one in CXX",
    )


@cache
def _load(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))


@cache
def _headers_digest() -> str:
    files = sorted(path for path in HEADERS.rglob("*") if path.is_file())
    return digest(b"\0".join(path.read_bytes() for path in files))
