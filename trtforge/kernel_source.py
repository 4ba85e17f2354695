"""The CUDA C++ of a custom op, rendered from its Jinja template.

The template sees the op's attributes and tactics by name, ``T`` (the CUDA element type), ``dtype``
(ONNX's name of it), ``dtype_of`` (ONNX's name of each input's and output's type) and ``entry`` (the
name that the kernel must have, or, for each of several kernels, begin with), and nothing else; an
unknown name is an error.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtforge.errors import RequestError, StepError

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Tactic

CUDA_TYPES: Mapping[str, tuple[str, str]] = {
    "float32": ("float", ""),
    "float16": ("__half", "cuda_fp16.h"),
    "bfloat16": ("__nv_bfloat16", "cuda_bf16.h"),
    "float8e4m3fn": ("__nv_fp8_e4m3", "cuda_fp8.h"),
    "bool": ("bool", ""),
    "int8": ("signed char", ""),
    "uint8": ("unsigned char", ""),
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


def template_path(op: CustomOp | type[CustomOp]) -> Path:
    """Return the template of ``op``: the file ``op.kernel`` beside the module that names it.

    Raises:
        KernelError: there is no such file, or it is in another folder.
    """
    kind = op if isinstance(op, type) else type(op)
    owner = next((each for each in kind.__mro__ if "kernel" in vars(each)), kind)
    path = Path(inspect.getfile(owner)).parent / kind.kernel
    if Path(kind.kernel).name != kind.kernel or not path.is_file():
        raise KernelError(
            f"custom op {kind.name} has no kernel template {str(path)!r}",
            remedy=f"write it beside {kind.__module__} and name it in {kind.__name__}.kernel",
        )
    return path


def attributes(op: CustomOp) -> dict[str, float | str]:
    """Return the ONNX attributes of ``op`` by name: its dataclass fields."""
    return {field.name: getattr(op, field.name) for field in fields(op)}


def render(op: CustomOp, dtype: str, tactic: Tactic | None = None) -> Source:
    """Render the template of ``op`` for one element type, for example ``"float16"``.

    Args:
        op: The custom op with its attributes set.
        dtype: ONNX's name of the type that stands for T.
        tactic: A choice for each of the op's tactics; None: the first of each.

    Raises:
        KernelError: the template is wrong; the message names its line.
        RequestError: ``dtype`` is none of the op's types, or ``tactic`` is no choice of it.
    """
    if dtype not in op.dtypes or dtype not in CUDA_TYPES:
        raise RequestError(
            f"custom op {op.name} has no kernel for {dtype!r}",
            remedy=f"use one of {', '.join(d for d in op.dtypes if d in CUDA_TYPES)}",
        )
    path = template_path(op)
    cuda_type, header = CUDA_TYPES[dtype]
    entry = entry_name(op, dtype)
    chosen = _chosen(op, tactic)
    names = {
        **op.names(), **attributes(op), **chosen, "T": cuda_type, "dtype": dtype,
        "dtype_of": op.types(dtype), "entry": entry,
    }  # fmt: skip
    marked = render_text(_mark_lines(path.read_text("utf-8")), names, path)
    lines, origins = ([f"#include <{header}>"], [0]) if header else ([], [])
    for line in marked.splitlines():
        marks = _MARK.findall(line)
        lines.append(_MARK.sub("", line))
        origins.append(int(marks[-1]) if marks else (origins or [1])[-1])
    return Source("\n".join(lines) + "\n", entry, path, tuple(origins))


def entry_name(op: CustomOp, dtype: str) -> str:
    """Return the kernel's name, or what the names of several begin with."""
    return f"{op.domain}_{op.op_type}_{dtype}".replace(".", "_").replace("-", "_")


def _chosen(op: CustomOp, tactic: Tactic | None) -> Tactic:
    if tactic is None:
        return {name: choices[0] for name, choices in op.tactics.items()}
    if tactic.keys() != op.tactics.keys():
        raise RequestError(
            f"custom op {op.name} has the tactics {sorted(op.tactics)}, not {sorted(tactic)}"
        )
    for name, choice in tactic.items():
        if choice not in op.tactics[name]:
            raise RequestError(
                f"custom op {op.name} has no tactic {name}={choice}",
                remedy=f"use one of {', '.join(map(str, op.tactics[name]))}",
            )
    return dict(tactic)


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


def explain(source: Source, log: str, purpose: str = "") -> KernelError:
    """Make an error that shows the compiler's words, the template's line and the CUDA around it."""
    what = f"the kernel does not compile{' ' * bool(purpose)}{purpose}:\n{log.strip()}"
    found = re.search(re.escape(source.template.name) + r"[(:](\d+)", log)
    line = int(found[1]) if found else 0
    rows = source.text.splitlines()
    if not 1 <= line <= len(rows):
        return KernelError(what, where=str(source.template))
    excerpt = "\n".join(
        f"  {'>' if number == line else ' '} {number:4} | {rows[number - 1]}"
        for number in range(max(1, line - 3), min(len(rows), line + 3) + 1)
    )
    return KernelError(
        f"{what}\nthe CUDA that was rendered:\n{excerpt}",
        where=f"{source.template}:{source.lines[line - 1]}",
    )


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return NumPy's type (or ml_dtypes') for ONNX's name of an element type."""
    return ir.DataType[onnx_name(dtype)].numpy()


def onnx_name(dtype: str) -> str:
    """Return the name of an element type in ``onnx_ir.DataType``."""
    return {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())


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
