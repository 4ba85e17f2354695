"""A custom op as C++ source of a TensorRT plugin, which needs no Python: kernels lie in it.

The plugin has the name, version and namespace of the plugin in Python, and keeps the same field in
the engine, so engines that were built with one run with the other.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.errors import RequestError
from trtforge.kernel_source import entry_name
from trtforge.kernels import compile_kernel
from trtforge.op_attributes import FIELD, PLUGIN_VERSION, plugin_name, type_name, write_op
from trtforge.plugin_rules import Variant, VariantRules, write_rules
from trtforge.store import write_error

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Port, Tactic
    from trtforge.targets import Target

TYPES = {
    "float32": "kFLOAT", "float16": "kHALF", "bfloat16": "kBF16", "int8": "kINT8",
    "uint8": "kUINT8", "int32": "kINT32", "int64": "kINT64", "bool": "kBOOL",
    "float8e4m3fn": "kFP8",
}  # fmt: skip
"""ONNX's element types in TensorRT's spelling."""
WORDS = 8
"""Numbers in a line of an array."""


@dataclass(frozen=True)
class Code:
    """A compiled kernel and what it is for; ``array`` numbers its bytes."""

    variant: int
    type: int
    tactic: int
    sm: int
    ptx: bool
    array: int
    size: int


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    rules: tuple[VariantRules, ...]
    codes: tuple[Code, ...]
    code_bytes: int


def export_plugin(
    variants: Sequence[Variant],
    targets: Sequence[Target],
    folder: Path,
    store: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write the C++ source of a plugin.

    Args:
        variants: One op with several sets of attributes; the same types for each.
        targets: Compute capabilities: a CUBIN for each that has the type, PTX for later GPUs.
        folder: The new folder.
        store: Where compiled kernels are kept.
        progress: Told how many kernels are compiled, and of how many.

    Raises:
        NotExportable: a rule of the op cannot be written in C++.
        KernelError: a kernel does not compile.
        RequestError: the folder exists, or no target has one of the types.
        EnvironmentLacks: CuPy, NVRTC or CUDA's headers are not here.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            f"{folder} exists and is not empty", remedy="give a new folder, or remove this one"
        )
    rules = tuple(map(write_rules, variants))
    arrays: dict[bytes, int] = {}
    jobs = [job for number, each in enumerate(rules) for job in _jobs(number, each, targets)]
    codes: list[Code] = []
    for done, job in enumerate(jobs):
        progress(done, len(jobs))
        codes += job.compiled(store, arrays)
    progress(len(jobs), len(jobs))
    texts = _texts(rules, codes, arrays)
    try:
        _write(texts, folder)
    except OSError as error:
        raise write_error(error, folder, "the plugin") from error
    return Exported(folder, rules, tuple(codes), sum(map(len, arrays)))


@dataclass(frozen=True)
class _Job:
    """A kernel to compile: of a variant, for a type, with a tactic, for a target."""

    op: CustomOp
    dtype: str
    chosen: Tactic
    target: Target
    is_oldest: bool
    numbers: tuple[int, int, int]
    """Of the variant, the type and the tactic."""

    def compiled(self, store: Path | None, arrays: dict[bytes, int]) -> list[Code]:
        """Compile it; its bytes go to ``arrays``, numbered. The oldest target gives PTX, too."""
        kernel = compile_kernel(self.op, self.dtype, self.target, store, tactic=self.chosen)
        found = [(False, kernel.cubin), *([(True, kernel.ptx)] if self.is_oldest else [])]
        return [
            Code(*self.numbers, self.target.sm, ptx, arrays.setdefault(c, len(arrays)), len(c))
            for ptx, c in found
        ]


def _jobs(number: int, rules: VariantRules, targets: Sequence[Target]) -> Iterator[_Job]:
    for type_number, dtype in enumerate(rules.variant.dtypes):
        fitting = sorted(t for t in targets if dtype in t.dtypes or _is_plain(dtype))
        if not fitting:
            raise RequestError(
                f"none of the targets has {dtype}", remedy="leave the type out, or add a target"
            )
        for tactic, chosen in enumerate(rules.tactics, 1):
            for target in fitting:
                numbers, is_oldest = (number, type_number, tactic), target is fitting[0]
                yield _Job(rules.variant.op, dtype, chosen, target, is_oldest, numbers)


def _is_plain(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "bool"))


def _texts(
    rules: Sequence[VariantRules], codes: Sequence[Code], arrays: dict[bytes, int]
) -> dict[str, str]:
    from jinja2 import Environment, StrictUndefined

    op, dtypes = rules[0].variant.op, rules[0].variant.dtypes
    kind = type(op)
    outputs = [port.name for port in kind.output_ports()]
    ports = (*kind.input_ports(), *kind.output_ports(), *kind.count_ports())
    names = {
        "op": op.name, "plugin": plugin_name(kind), "namespace": f"{plugin_name(kind)}_plugin",
        "version": PLUGIN_VERSION, "domain": op.domain, "field": FIELD,
        "variants": rules, "dtypes": dtypes, "types": [_data_type(d) for d in dtypes],
        "entries": [f'"{entry_name(op, dtype)}"' for dtype in dtypes],
        "ports": [_port(port, dtypes[0]) for port in ports],
        "inputs": len(kind.inputs), "outputs": len(kind.outputs),
        "counted": [outputs.index(name) for name in kind.counted],
        "texts": [json.dumps(write_op(each.variant.op)) for each in rules],
        "matches": [_matches(each.variant.op) for each in rules], "fields": _fields(kind),
        "arrays": [_words(code) for code in arrays], "codes": codes,
    }  # fmt: skip
    environment = Environment(
        block_start_string="[%", block_end_string="%]", variable_start_string="[[",
        variable_end_string="]]", comment_start_string="[#", comment_end_string="#]",
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # the result is C++
    )  # fmt: skip
    environment.filters["pairs"] = lambda tactic: ", ".join(f"{k} {v}" for k, v in tactic.items())
    templates = [
        each for each in (files("trtforge") / "templates" / "plugin").iterdir()
        if each.name.endswith(".jinja")
    ]  # fmt: skip
    return {
        each.name.removesuffix(".jinja"): environment.from_string(each.read_text("utf-8")).render(
            names
        )
        for each in templates
    }


def _data_type(dtype: str) -> str:
    return f"DataType::{TYPES[dtype]}"


def _port(port: Port, any_type: str) -> dict[str, Any]:
    is_t = port.dtype == "T"
    return {"name": port.name, "is_t": is_t, "type": _data_type(any_type if is_t else port.dtype)}


def _matches(op: CustomOp) -> list[str]:
    """Return what must hold of a node that gives the op's attributes one by one."""
    tests = []
    for field in fields(op):
        value = getattr(op, field.name)
        name, default = json.dumps(field.name), _default(field)
        if isinstance(value, int):
            tests.append(f"node.isInteger({name}, {int(value)}, {int(default or 0)})")
        elif isinstance(value, float):
            tests.append(f"node.isReal({name}, {_real(value)}, {_real(default or 0.0)})")
        elif isinstance(value, str):
            text, otherwise = json.dumps(value), json.dumps(default or "")
            tests.append(f"node.text({name}, {otherwise}) == {text}")
        else:
            tests.append("false")  # lists and tensors come as text only, exactly
    return tests


def _default(field: Any) -> Any:
    return None if field.default is MISSING else field.default


def _real(value: float) -> str:
    if np.isnan(value):
        return 'std::nan("")'
    if np.isinf(value):
        return "HUGE_VAL" if value > 0 else "-HUGE_VAL"
    return float(value).hex()


def _fields(kind: type[CustomOp]) -> list[dict[str, str]]:
    names = {"int": "kINT32", "bool": "kINT32", "float": "kFLOAT32"}
    return [
        {"name": field.name, "type": names.get(type_name(field), "kCHAR")} for field in fields(kind)
    ]


def _words(code: bytes) -> str:
    """Write bytes as little-endian words, with at least one zero byte behind them (for PTX)."""
    padded = code + bytes(8 - len(code) % 8)
    words = [f"0x{word:x}" for word in np.frombuffer(padded, "<u8")]
    return ",\n".join(
        ", ".join(words[start : start + WORDS]) for start in range(0, len(words), WORDS)
    )


def _write(texts: dict[str, str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        made = Path(place, "plugin")
        made.mkdir()
        for name, text in texts.items():
            (made / name).write_text(text, "utf-8")
        if folder.exists():
            folder.rmdir()  # it is empty
        shutil.move(made, folder)
