"""Run by ``test_quick_plugin.py`` in a process of its own: ops as plugins that TensorRT launches.

The bindings of TensorRT and their module ``tensorrt.plugin`` are the real ones. TensorRT's own
libraries are not here (files with empty functions are in their place), so what they would make has
stand-ins: the registry of plugins, and expressions of dimensions. The calls below and their order
are those that the classes in ``tensorrt/plugin/_plugin_class.py`` expect of TensorRT.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import op_cases
import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt  # what the package `tensorrt` of the whole TensorRT is, in effect


@dataclass(frozen=True, eq=False)
class Expr:
    """Stand-in for ``IDimensionExpr`` of a dynamic size, whose number a build does not know."""

    value: int

    def is_constant(self) -> bool:
        return False

    def get_constant_value(self) -> int:
        raise AssertionError("the number of a dynamic dimension was asked for")


class Builder:
    """Stand-in for ``IExprBuilder``."""

    def constant(self, value: int) -> Expr:
        return Expr(value)

    def operation(self, operator: Any, left: Expr, right: Expr) -> Expr:
        a, b = left.value, right.value
        return Expr({
            "SUM": a + b, "SUB": a - b, "PROD": a * b, "LESS": int(a < b), "EQUAL": int(a == b),
            "FLOOR_DIV": a // b if b else 0, "CEIL_DIV": -(-a // b) if b else 0,
        }[operator.name])  # fmt: skip


class Registry:
    """Stand-in for ``IPluginRegistry``."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


class DimsExprs(list[Any]):
    """Stand-in for ``DimsExprs``: the real one takes expressions of TensorRT's library only."""

    def __init__(self, given: Any) -> None:
        super().__init__([None] * given if isinstance(given, int) else given)


class SymExpr:
    """Stand-in for ``ISymExpr``, for the same reason."""


class Scalars(list[Any]):
    """Stand-in for what takes the scalar arguments of a launch."""

    nbSymExprs = 0  # noqa: N815  # TensorRT's name

    def __setitem__(self, at: Any, value: Any) -> None:
        assert at == len(self) < self.nbSymExprs
        self.append((value.type.name, value.dtype.name, value.expr.value))


REGISTRY = Registry()
trt.get_plugin_registry = lambda: REGISTRY
trt.IDimensionExpr, trt.DimsExprs, trt.ISymExpr = Expr, DimsExprs, SymExpr

from trtforge_plugins.tensorrt.adapter import quick_plugins  # noqa: E402  # after the stand-ins
from trtforge_plugins.tensorrt.plugin import TYPES, Workshop, check_fields  # noqa: E402
from trtforge_plugins.tensorrt.quick_plugin import register, why_not  # noqa: E402

from trtforge.op_attributes import FIELD, plugin_name, write_op  # noqa: E402
from trtforge.ops import CustomOp, Shape, launches  # noqa: E402
from trtforge.targets import KNOWN  # noqa: E402

OURS = {ours: getattr(trt.DataType, theirs) for theirs, ours in TYPES.items()}
Profile = dict[str, tuple[Shape, ...]]


def description(shape: Shape, dtype: str) -> Any:
    desc = trt.PluginTensorDesc()
    desc.dims, desc.type, desc.format = trt.Dims(shape), OURS[dtype], trt.TensorFormat.LINEAR
    return desc


def dynamic(shapes: dict[str, Shape], dtype: str) -> Any:
    """A tensor all of whose sizes are dynamic."""
    found = trt.DynamicPluginTensorDesc()
    found.desc = description((-1,) * len(shapes["opt"]), dtype)
    for which, shape in shapes.items():
        setattr(found, which, trt.Dims(shape))
    return found


def created(quick: Any, workshop: Workshop, op: CustomOp) -> Any:
    """Return the plugin that the ONNX parser gets for a node that calls ``op``."""
    name = plugin_name(type(op))
    if (name, "1", op.domain) not in REGISTRY.creators:
        register(quick, workshop, type(op))
    creator = REGISTRY.get_creator(name, "1", op.domain)
    text = np.frombuffer(write_op(op).encode() + b"\0", np.int8)  # as the parser hands texts over
    fields = trt.PluginFieldCollection([trt.PluginField(FIELD, text, trt.PluginFieldType.CHAR)])
    request = trt.QuickPluginCreationRequest.UNKNOWN
    return creator.create_plugin(name, op.domain, fields, trt.TensorRTPhase.BUILD, request)


def build(plugin: Any, op: CustomOp, dtype: str, profile: Profile) -> list[dict[str, Any]]:
    """Ask the plugin what TensorRT asks, and return one launch per tactic."""
    types = [port.type_for(dtype) for port in op.input_ports()]
    results = [port.type_for(dtype) for port in op.output_ports()]
    found = plugin.get_output_data_types(
        [OURS[each] for each in types], list(map(len, profile["opt"]))
    )
    assert found == [OURS[each] for each in results]
    exprs = [DimsExprs([Expr(size) for size in shape]) for shape in profile["opt"]]
    sizes = plugin.get_output_shapes(exprs, [], Builder())
    outputs = {which: op.shapes(*shapes) for which, shapes in profile.items()}
    assert [tuple(dim.value for dim in shape) for shape in sizes] == list(outputs["opt"])
    everything = [
        dynamic({which: shapes[at] for which, shapes in given.items()}, each)
        for given, names in ((profile, types), (outputs, results))
        for at, each in enumerate(names)
    ]
    combination = plugin.get_supported_format_combinations(everything, len(types))
    assert [each.type for each in combination] == [OURS[each] for each in (*types, *results)]
    plugin.configure_plugin(everything[: len(types)], everything[len(types) :])
    launched = []
    for tactic in plugin.get_valid_tactics() or [0]:
        plugin.set_tactic(tactic)
        parameters, scalars = SimpleNamespace(), Scalars()
        plugin.get_launch_params(exprs, everything, len(types), parameters, scalars, Builder())
        plain = [each.desc for each in everything]
        entry, ptx = plugin.get_kernel(plain[: len(types)], plain[len(types) :])
        launched.append({
            "tactic": tactic, "entry": entry, "scalars": list(scalars), "ptx": ptx.decode(),
            **{name: expr.expr.value for name, expr in vars(parameters).items()},
        })  # fmt: skip
    return launched


def expected(op: CustomOp, dtype: str, profile: Profile) -> list[dict[str, Any]]:
    """What the declaration says, at the usual sizes, with each choice of the op."""
    tactics: list[Any] = []
    for shapes in profile.values():
        tactic = op.tactic(dtype, shapes)
        tactics += [] if tactic in tactics else [tactic]
    found = []
    for tactic in tactics:
        (launch,) = launches(op, profile["opt"], op.shapes(*profile["opt"]), tactic)
        found.append({
            "grid_x": launch.grid, "block_x": launch.block, "shared_mem": launch.shared_bytes,
            "grid_y": 1, "grid_z": 1, "block_y": 1, "block_z": 1,
            "scalars": [("INT", "INT32", scalar) for scalar in launch.scalars],
        })  # fmt: skip
    return found


def parameters_of(ptx: str, entry: str) -> list[str]:
    """The types of the parameters of a kernel in PTX."""
    (text,) = re.findall(rf"\.entry {re.escape(entry)}\(([^)]*)\)", ptx)
    return re.findall(r"\.param \.(\w+)", text)


def check(op: CustomOp, profile: Profile, quick: Any, workshop: Workshop) -> str:
    """Hold one op to its declaration; return why TensorRT cannot launch it, or ``""``."""
    reason = why_not(op, [len(shape) for shape in profile["opt"]])
    if reason:
        return reason
    dtype = op.dtypes[0]
    found = build(created(quick, workshop, op), op, dtype, profile)
    wanted = expected(op, dtype, profile)
    assert len(found) == len(wanted), op
    for number, (one, other) in enumerate(zip(found, wanted, strict=True), 1):
        ptx = one.pop("ptx")
        pointers, scalars = ["u64"] * len(op.inputs), ["u32"] * len(other["scalars"])
        ends = ["u64"] * len(op.outputs)
        assert parameters_of(ptx, one.pop("entry")) == [*pointers, *scalars, *ends], op
        assert one.pop("tactic") == (number if len(found) > 1 else 0)
        assert one == other, (op, one, other)
    return ""


def main() -> None:
    check_fields(trt)
    quick = quick_plugins(trt, "tensorrt")
    workshop = Workshop(trt, (KNOWN["sm_80"], KNOWN["sm_89"]), Path(sys.argv[1]))
    answers = {}
    for op, cases in op_cases.CASES:
        if any("float8" in port.dtype for port in op.output_ports()):
            workshop.targets = (KNOWN["sm_89"],)
        shapes = tuple(tuple(getattr(each, "shape", each)) for each in cases[0])
        answers[f"{op}"] = check(op, {"opt": shapes, "min": shapes, "max": shapes}, quick, workshop)
    rows = {"opt": ((4096, 512), (512,)), "min": ((1, 8), (8,)), "max": ((8192, 8192), (8192,))}
    norm = next(op for op, _ in op_cases.CASES if op.op_type == "RMSNorm")
    answers["tactics"] = str(len(expected(norm, "float32", rows)))
    answers["dynamic"] = check(norm, rows, quick, workshop)
    assert workshop.failures == []
    Path(sys.argv[2]).write_text(json.dumps({"version": trt.__version__, "answers": answers}))


if __name__ == "__main__":
    main()
