"""Adapter and plugins touch only what four versions of TensorRT have, or ask through `feature`.

The lists in ``data/tensorrt_api`` are the names that each version really offers; they were made
by ``scripts/extract_tensorrt_api.py``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt import adapter, loaded_engine
from trtforge_plugins.tensorrt.backend import TensorRT
from trtforge_plugins.tensorrt.library import Library
from trtforge_plugins.tensorrt.order import BuildOrder
from trtforge_plugins.tensorrt.plugin import Callbacks

from trtforge import ByteSize, Context, Request

VERSIONS = {
    file.stem: frozenset(file.read_text().split())
    for file in sorted((Path(__file__).parent / "data" / "tensorrt_api").glob("*.txt"))
}
LEVELS = ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")

# What the variables of adapter.py are. One that is not named here must not have attributes.
CLASS_OF = {
    "trt": "",
    "self.trt": "",
    "builder": "Builder",
    "self._builder": "Builder",
    "network": "INetworkDefinition",
    "self._network": "INetworkDefinition",
    "parser": "OnnxParser",
    "self._parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "error": "ParserError",
    "error.code()": "ErrorCode",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
}
# Ours or Python's own.
OURS = {
    "', '",
    "'; '",
    "Path(order.timing_cache_out)",
    "TYPES",
    "each",
    "engine.get_tensor_dtype(name)",
    "feature(self.trt, 'ComputeCapability')",
    "file",
    "importlib",
    "memoryview(plan)",
    "ml_dtypes",
    "name",
    "name[2:]",
    "np",
    "order",
    "owner",
    "progress",
    "ranges",
    "self",
    "self._listener",
    "self.steps",
    "severity",
    "type(owner)",
}


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield ``(owner, dotted name)`` of each outermost attribute access: ``("trt", "A.B")``."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        names: list[str] = []
        at: ast.expr = node
        while isinstance(at, ast.Attribute) and ast.unparse(at) not in CLASS_OF:
            names.insert(0, at.attr)
            at = at.value
        if names:
            yield ast.unparse(at), ".".join(names)


def optional(tree: ast.AST) -> set[str]:
    """Return the names that are asked for through ``feature(owner, "name")``."""
    return {
        ast.literal_eval(node.args[1])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "feature"
        and isinstance(node.args[1], ast.Constant)
    }


def versions_that_pass(function: ast.AST) -> set[str]:
    """Return the versions that have all that ``function`` asks for through ``feature``."""
    return {
        version
        for version, names in VERSIONS.items()
        if all(any(full.endswith(name) for full in names) for name in optional(function))
    }


def problems(source: str) -> list[str]:
    """Return each name in ``source`` that a version lacks, and each owner that is not known."""
    found = []
    for part in parts(ast.parse(source)):
        passing = versions_that_pass(part)
        for owner, name in attributes(part):
            if owner in CLASS_OF:
                full = f"{CLASS_OF[owner]}.{name}".strip(".").removesuffix(".__init__")
                lacking = [version for version in passing if full not in VERSIONS[version]]
                if lacking:
                    found.append(f"{full}: not in {', '.join(sorted(lacking))}")
            elif owner not in OURS:
                found.append(f"{owner}.{name}: whose attribute is this?")
    return found


def parts(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield functions and methods, and the module's other statements."""
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            yield from statement.body
        else:
            yield statement


def test_the_lists_are_of_the_versions_we_serve():
    assert list(VERSIONS) == [
        "tensorrt-10.13.3.9",
        "tensorrt-10.16.1.11",
        "tensorrt-11.4.0.106",
        "tensorrt_rtx-1.7.1.116",
    ]


@pytest.mark.parametrize("module", [adapter, loaded_engine], ids=lambda each: each.__name__)
def test_only_what_every_version_has_is_touched(module):
    assert problems(inspect.getsource(module)) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16: not in tensorrt-11"),
        ("builder.platform_has_fast_fp16", "Builder.platform_has_fast_fp16: not in tensorrt-11"),
        ("config.num_compute_capabilities = 1", "not in tensorrt-10.13.3.9, tensorrt-10.16"),
        ("something.set_flag(1)", "something.set_flag: whose attribute is this?"),
    ],
)
def test_the_audit_finds_what_a_version_lacks(line, problem):
    assert problem in problems(line)[0]


def test_names_that_are_asked_through_feature_exist_somewhere():
    guarded = optional(ast.parse(inspect.getsource(adapter)))
    assert guarded == {"ComputeCapability", "set_compute_capability"}
    everything = set().union(*VERSIONS.values())
    for name in guarded:
        assert any(entry.split(".")[-1] == name for entry in everything)


def test_the_flags_pools_and_levels_of_the_step_exist_in_every_version(tmp_path):
    order = made_order(tmp_path)
    wanted = {
        *(f"BuilderFlag.{name}" for name in order.flags),
        *(f"MemoryPoolType.{name}" for name in order.pools),
        *(f"HardwareCompatibilityLevel.{name}" for name in LEVELS),
    }
    assert len(wanted) == 10
    for version, names in VERSIONS.items():
        assert wanted <= names, version


def made_order(tmp_path: Path) -> BuildOrder:
    size = ByteSize("1GiB")
    step = TensorRT(
        workspace=size,
        tactic_shared_memory=size,
        tactic_dram=size,
        version_compatible=True,
        weight_streaming=True,
        refit=True,
    )
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 21]> g (float x) => () {}')
    ctx = Context(model, tmp_path, Request("m"))
    library = Library("tensorrt", "11")
    return step._placed(step._order(library, [], ctx.request), library, tmp_path, ctx)


# What the variables of the plugin files are; "plugin" is the module `tensorrt.plugin`.
IN_PLUGINS = {
    "plugin": {
        "trt": "", "workshop.trt": "", "self.workshop.trt": "", "self.trt": "",
        "registry": "IPluginRegistry", "maker": "IExprBuilder", "self.maker": "IExprBuilder",
    },
    "quick_plugin": {
        "quick": "plugin", "self.quick": "plugin", "self.workshop.trt": "",
        "shape": "plugin.Shape", "each": "plugin.TensorDesc", "each.dtype": "DataType",
    },
}  # fmt: skip


@pytest.mark.parametrize("module", IN_PLUGINS)
def test_plugins_touch_only_what_every_version_has(module):
    """``tensorrt.plugin`` is not in TensorRT-RTX; the other names are in all four."""
    source = inspect.getsource(importlib.import_module(f"trtforge_plugins.tensorrt.{module}"))
    owners = IN_PLUGINS[module]
    versions = [v for v in VERSIONS if module == "plugin" or "rtx" not in v]
    found = [
        f"{owners[owner]}.{name}".strip(".").removesuffix(".__init__")
        for owner, name in touched(ast.parse(source), owners)
    ]
    assert len(found) > 8  # it reads the file that it speaks of
    lacking = [(v, name) for v in versions for name in found if name not in VERSIONS[v]]
    assert lacking == []


def touched(tree: ast.AST, owners: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the outermost attribute of each access that starts with an owner."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        names: list[str] = []
        at: ast.expr | ast.AST = node
        while isinstance(at, ast.Attribute) and ast.unparse(at) not in owners:
            names.insert(0, at.attr)
            at = at.value
        if names and id(node) not in inner and ast.unparse(at) in owners:
            yield ast.unparse(at), ".".join(names)


def test_the_audit_of_plugins_finds_what_a_version_lacks():
    tree = ast.parse("self.quick.cdiv(a, b) + quick.KernelArguments + trt.IPluginV3")
    names = [name for _, name in touched(tree, IN_PLUGINS["quick_plugin"])]
    assert sorted(names) == ["KernelArguments", "cdiv"]
    assert "plugin.KernelArguments" not in VERSIONS["tensorrt-11.4.0.106"]


def test_the_callbacks_of_a_plugin_are_those_of_its_interfaces():
    """A callback with a wrong name would never be called."""
    ours = {name for name, member in vars(Callbacks).items() if inspect.isfunction(member)}
    for version, names in VERSIONS.items():
        bases = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")
        theirs = {
            name.split(".")[1] for name in names if name.split(".")[0] in bases and "." in name
        }
        assert ours - {"__init__"} <= theirs, version


def test_tensorrt_plugin_takes_the_arguments_that_it_is_given():
    """Names and order of arguments, as the sources of each version state them."""
    calls = {
        "plugin.AutoTuneCombination(io_types,layouts,tactics)",
        "plugin.KernelLaunchParams(grid_x,grid_y,grid_z,block_x,block_y,block_z,shared_mem)",
        "plugin.ShapeExpr(value)",
        "plugin.SymInt32(value)",
        "plugin.SymIntExprs(length)",
        "plugin.aot_impl(plugin_id)",
        "plugin.autotune(plugin_id)",
        "plugin.cdiv(first,second)",
        "plugin.from_shape_expr(shape_expr,dtype)",
        "plugin.register(plugin_id,lazy_register)",
    }
    for version, names in VERSIONS.items():
        assert calls <= names or "rtx" in version, version
