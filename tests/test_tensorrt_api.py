"""The adapter touches only what four versions of TensorRT have, or asks through `feature`.

The lists in ``data/tensorrt_api`` are the names that each version really offers; they were made
by ``scripts/extract_tensorrt_api.py``.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt import adapter
from trtforge_plugins.tensorrt.backend import TensorRT
from trtforge_plugins.tensorrt.library import Library
from trtforge_plugins.tensorrt.order import BuildOrder

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
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
}
# Ours or Python's own.
OURS = {
    "', '",
    "'; '",
    "Path(order.timing_cache_out)",
    "each",
    "feature(self.trt, 'ComputeCapability')",
    "file",
    "importlib",
    "memoryview(plan)",
    "name",
    "name[2:]",
    "order",
    "owner",
    "progress",
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


def test_the_adapter_touches_only_what_every_version_has():
    assert problems(inspect.getsource(adapter)) == []


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
    order = step._order(Library("tensorrt", "11"), [], ctx.request)
    return step._placed(order, tmp_path, ctx)
