"""CUDA kernels compiled by NVRTC to PTX and CUBIN, without a GPU and without a driver."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.errors import EnvironmentLacks
from trtforge.kernel_source import Source, explain, render, template_path
from trtforge.store import atomic_file, digest

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Tactic
    from trtforge.targets import Target

HEADERS = Path(__file__).parent / "cuda"
"""What a template may include: ``#include "trtforge/row.cuh"``."""

OLDEST_PTX = {12: (8, 0), 13: (9, 0)}
"""The PTX that the oldest driver of a CUDA release family reads: R525 of CUDA 12 reads 8.0, R580 of
CUDA 13 reads 9.0. NVRTC states its own, newer version, which such a driver refuses, whatever the
code uses (PTX ISA, "Release Notes": later versions only add)."""
_TARGET_SINCE = {100: (8, 6), 103: (8, 8), 110: (9, 0), 120: (8, 7), 121: (8, 8)}
"""The first PTX with a compute capability; those before Blackwell are in all of ``OLDEST_PTX``."""


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel."""

    entry: str
    """The kernel's name in the code; several kernels have it as their beginning."""
    ptx: bytes
    """Runs on the compute capability it was compiled for and on later ones, from the oldest driver
    of CUDA's release family on."""
    cubin: bytes
    """Runs on that compute capability (and later minor versions of it) only."""
    source: Source


def compile_kernel(
    op: CustomOp,
    dtype: str,
    target: Target,
    store: Path | None = None,
    *,
    tactic: Tactic | None = None,
) -> Kernel:
    """Compile the kernel of ``op`` for one element type and one compute capability.

    Args:
        op: The custom op with its attributes set.
        dtype: ONNX's element type: ``"float16"``.
        target: The compute capability.
        store: Folder in which compiled kernels are kept, named by everything that decides them;
            many processes may share it. Without one, nothing is kept.
        tactic: A choice for each of the op's tactics; None: the first of each.

    Raises:
        KernelError: it does not compile; the message shows the lines.
        EnvironmentLacks: CuPy, NVRTC or CUDA's headers are not here.
    """
    source = render(op, dtype, tactic)
    nvrtc, version, include = _toolchain()
    options = (f"--gpu-architecture={target.name}", "--std=c++17", f"-I{include}")
    stated = ptx_version(int(version.split(".")[0]), target)
    key = digest(
        "\0".join((source.text, _headers_digest(), version, stated, *options[:-1])).encode()
    )
    kept = _read_kept(store, key)
    ptx, cubin = kept or _compile(nvrtc, source, options)
    ptx = re.sub(rb"(?m)^\.version [0-9.]+", f".version {stated}".encode(), ptx, count=1)
    if store is not None and kept is None:
        for suffix, code in ((".ptx", ptx), (".cubin", cubin)):
            with atomic_file(store / f"{key}{suffix}") as file:
                file.write(digest(code).encode() + b"\n" + code)
    return Kernel(source.entry, ptx, cubin, source)


def ptx_version(cuda: int, target: Target) -> str:
    """Return the oldest PTX version that knows ``target`` and that all drivers of ``cuda`` read.

    Args:
        cuda: The major version of the CUDA release that compiles.
        target: The compute capability.
    """
    oldest = OLDEST_PTX.get(cuda, max(OLDEST_PTX.values()))
    return "{}.{}".format(*max(oldest, _TARGET_SINCE.get(target.sm, oldest)))


def code_digest(op: CustomOp) -> str:
    """Return a hash of the op's template and the device headers: of all CUDA that it may become."""
    return digest(template_path(op).read_bytes() + _headers_digest().encode())


def _read_kept(store: Path | None, key: str) -> tuple[bytes, bytes] | None:
    """Return PTX and CUBIN from the store; None when one is missing or damaged."""
    codes = []
    for suffix in (".ptx", ".cubin"):
        try:
            check, _, code = (
                (store / f"{key}{suffix}").read_bytes().partition(b"\n") if store else (b"",) * 3
            )
        except OSError:
            return None
        if check != digest(code).encode():
            return None
        codes.append(code)
    return codes[0], codes[1]


def _compile(nvrtc: Any, source: Source, options: tuple[str, ...]) -> tuple[bytes, bytes]:
    headers = _headers()
    program = nvrtc.createProgram(
        source.text, source.template.name, tuple(headers.values()), tuple(headers)
    )
    try:
        nvrtc.compileProgram(program, options)
        ptx, cubin = nvrtc.getPTX(program), nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise explain(source, nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)
    return (ptx if isinstance(ptx, bytes) else ptx.encode()), _whole(cubin)


def _whole(cubin: bytes) -> bytes:
    """Return a CUBIN with its last byte, a zero, which CuPy takes for the end of a text.

    The driver reads it without, but ``cuobjdump`` and ``nvdisasm`` refuse the file.
    """
    (headers,) = struct.unpack_from("<Q", cubin, 32)  # ELF64: e_phoff, e_phentsize, e_phnum
    size, count = struct.unpack_from("<HH", cubin, 54)
    return cubin.ljust(headers + size * count, b"\0")


def cuda_headers() -> str:
    """Return the folder of CUDA's own headers.

    Raises:
        EnvironmentLacks: CuPy, NVRTC or CUDA's headers are not here.
    """
    return _toolchain()[2]


@cache
def _headers() -> dict[bytes, bytes]:
    """Return the headers of the device library: the name in an include, and the text."""
    return {f"trtforge/{path.name}".encode(): path.read_bytes() for path in HEADERS.glob("*.cuh")}


@cache
def _headers_digest() -> str:
    return digest(b"\0".join(text for _, text in sorted(_headers().items())))


@cache
def _toolchain() -> tuple[Any, str, str]:
    """Return CuPy's NVRTC module, its version and the folder of CUDA's headers."""
    lacks = EnvironmentLacks(
        "kernels need CuPy, NVRTC and CUDA's headers, and one is missing",
        remedy='pip install "trtforge[cu13]" (or trtforge[cu12] for CUDA 12)',
    )
    try:
        from cuda import pathfinder  # type: ignore[import-untyped]  # it ships no types
        from cupy.cuda import nvrtc

        version = ".".join(map(str, nvrtc.getVersion()))
        include = pathfinder.find_nvidia_header_directory("cudart")
    except (ImportError, OSError, RuntimeError) as error:
        raise lacks from error
    if include is None:
        raise lacks
    return nvrtc, version, str(include)
