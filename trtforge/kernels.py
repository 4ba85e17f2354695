"""CUDA kernels from templates: Jinja text, then CUDA C++, then PTX and CUBIN.

NVRTC compiles without a GPU and without a driver. The template sees the op's attributes by name,
``T`` (the CUDA element type), ``dtype`` (ONNX's name of it) and ``entry`` (the name that the
kernel must have), and nothing else; an unknown name is an error.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.errors import EnvironmentLacks, RequestError, StepError
from trtforge.store import atomic_file, digest

if TYPE_CHECKING:
    from trtforge.ops import CustomOp
    from trtforge.targets import Target

CUDA_TYPES: Mapping[str, tuple[str, str]] = {
    "float32": ("float", ""),
    "float16": ("__half", "cuda_fp16.h"),
    "bfloat16": ("__nv_bfloat16", "cuda_bf16.h"),
    "int8": ("signed char", ""),
    "int32": ("int", ""),
    "int64": ("long long", ""),
}
"""ONNX's element types: CUDA's name and the header that it needs."""

_MARK = re.compile("\x01(\\d+)\x02")
_TAG = re.compile(r"\{[%{#].*?[%}#]\}", re.DOTALL)


class KernelError(StepError):
    """A kernel template does not render, or what it renders does not compile."""


@dataclass(frozen=True)
class Source:
    """A rendered kernel."""

    text: str
    """CUDA C++."""
    entry: str
    """The kernel's name."""
    template: Path
    lines: tuple[int, ...]
    """For each line of ``text`` the line of the template that it comes from; 0: from neither."""


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel."""

    entry: str
    """The kernel's name in the code."""
    ptx: bytes
    """Runs on the compute capability it was compiled for and on later ones."""
    cubin: bytes
    """Runs on that compute capability (and later minor versions of it) only."""
    source: Source


def template_path(op: CustomOp | type[CustomOp]) -> Path:
    """Return the template of ``op``: the file ``op.kernel`` beside the module that defines it.

    Raises:
        KernelError: there is no such file, or it is in another folder.
    """
    kind = op if isinstance(op, type) else type(op)
    path = Path(inspect.getfile(kind)).parent / kind.kernel
    if Path(kind.kernel).name != kind.kernel or not path.is_file():
        raise KernelError(
            f"custom op {kind.name} has no kernel template {str(path)!r}",
            remedy=f"write it beside {kind.__module__} and name it in {kind.__name__}.kernel",
        )
    return path


def attributes(op: CustomOp) -> dict[str, float | str]:
    """Return the ONNX attributes of ``op`` by name: its dataclass fields."""
    return {field.name: getattr(op, field.name) for field in fields(op)}


def render(op: CustomOp, dtype: str) -> Source:
    """Render the template of ``op`` for one element type, for example ``"float16"``.

    Raises:
        KernelError: the template is wrong; the message names its line.
        RequestError: ``dtype`` is none of the op's types.
    """
    if dtype not in op.dtypes or dtype not in CUDA_TYPES:
        raise RequestError(
            f"custom op {op.name} has no kernel for {dtype!r}",
            remedy=f"use one of {', '.join(d for d in op.dtypes if d in CUDA_TYPES)}",
        )
    path = template_path(op)
    cuda_type, header = CUDA_TYPES[dtype]
    entry = f"{op.domain}_{op.op_type}_{dtype}".replace(".", "_").replace("-", "_")
    names = {**attributes(op), "T": cuda_type, "dtype": dtype, "entry": entry}
    marked = render_text(_mark_lines(path.read_text("utf-8")), names, path)
    lines, origins = ([f"#include <{header}>"], [0]) if header else ([], [])
    for line in marked.splitlines():
        marks = _MARK.findall(line)
        lines.append(_MARK.sub("", line))
        origins.append(int(marks[-1]) if marks else (origins or [1])[-1])
    return Source("\n".join(lines) + "\n", entry, path, tuple(origins))


def render_text(text: str, names: Mapping[str, object], where: Path | str) -> str:
    """Render Jinja ``text`` in a sandbox; a name that is not in ``names`` is an error.

    Raises:
        KernelError: the text is wrong; ``where`` and the line are named.
    """
    from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # no autoescape: the result is CUDA or ONNX text, not HTML
    environment.filters["c"] = literal
    try:
        return environment.from_string(text).render(names)
    except TemplateSyntaxError as error:
        raise KernelError(str(error.message), where=f"{where}:{error.lineno}") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        line = _template_line(error)
        raise KernelError(
            _MARK.sub("", str(error)),
            where=f"{where}:{line}" if line else str(where),
            remedy=f"the template may use: {', '.join(sorted(names))}",
        ) from error


def literal(value: object) -> str:
    """Write a Python value as a C literal; the template filter ``c``.

    Raises:
        TypeError: it is no bool, int, float or text.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"({value}{'LL' if abs(value) >= 2**31 else ''})"
    if isinstance(value, float):
        if math.isnan(value):
            return "__int_as_float(0x7fffffff)"
        if math.isinf(value):
            return f"__int_as_float({'0x7f800000' if value > 0 else '0xff800000'})"
        return f"({value!r}f)"
    if isinstance(value, str):
        return json.dumps(value)
    raise TypeError(f"{value!r} has no C literal")


def compile_kernel(op: CustomOp, dtype: str, target: Target, store: Path | None = None) -> Kernel:
    """Compile the kernel of ``op`` for one element type and one compute capability.

    Args:
        op: The custom op with its attributes set.
        dtype: ONNX's element type: ``"float16"``.
        target: The compute capability.
        store: Folder in which compiled kernels are kept, named by everything that decides them;
            many processes may share it. Without one, nothing is kept.

    Raises:
        KernelError: it does not compile; the message shows the lines.
        EnvironmentLacks: CuPy, NVRTC or CUDA's headers are not here.
    """
    source = render(op, dtype)
    nvrtc, version, include = _toolchain()
    options = (f"--gpu-architecture={target.name}", "--std=c++17", f"-I{include}")
    key = digest("\0".join((source.text, version, *options[:-1])).encode())
    kept = _read_kept(store, key)
    ptx, cubin = kept or _compile(nvrtc, source, options)
    if store is not None and kept is None:
        for suffix, code in ((".ptx", ptx), (".cubin", cubin)):
            with atomic_file(store / f"{key}{suffix}") as file:
                file.write(digest(code).encode() + b"\n" + code)
    return Kernel(source.entry, ptx, cubin, source)


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
    program = nvrtc.createProgram(source.text, source.template.name, (), ())
    try:
        nvrtc.compileProgram(program, options)
        ptx, cubin = nvrtc.getPTX(program), nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise _explain(source, nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)
    return (ptx if isinstance(ptx, bytes) else ptx.encode()), cubin


def _explain(source: Source, log: str) -> KernelError:
    """Make an error that shows the compiler's words, the template's line and the CUDA around it."""
    name = source.template.name
    found = re.search(re.escape(name) + r"\((\d+)\)", log)
    if found is None:
        return KernelError(f"the kernel does not compile:\n{log}", where=str(source.template))
    line = int(found[1])
    rows = source.text.splitlines()
    excerpt = "\n".join(
        f"  {'>' if number == line else ' '} {number:4} | {rows[number - 1]}"
        for number in range(max(1, line - 3), min(len(rows), line + 3) + 1)
    )
    return KernelError(
        f"the kernel does not compile:\n{log.strip()}\nthe CUDA that was rendered:\n{excerpt}",
        where=f"{source.template}:{source.lines[line - 1]}",
    )


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


def _mark_lines(text: str) -> str:
    """Put an invisible line number before each line that does not start inside a Jinja tag."""
    inside = [match.span() for match in _TAG.finditer(text)]
    marked, start = [], 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        in_tag = any(low < start < high for low, high in inside)
        marked.append(line if in_tag else f"\x01{number}\x02{line}")
        start += len(line)
    return "".join(marked)


def _template_line(error: BaseException) -> int | None:
    """Return the template's line in which an error of rendering arose."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
