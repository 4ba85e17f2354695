"""The layering, read from the imports: a file imports only from lower levels."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = """
errors
quantities delta graph_layout
array_files user_code compiled_template
file_feeds
artifacts environment ops hooks terminal demo cli.quick_start bundle
memory_plan chain
memory_picture
triton triton.config
doctor doctor.limits doctor.installation doctor.symptom runtime runtime.session
bundle.plan_header bundle.signature bundle.copying pointwise
options steps statistics analysis yaml_text graph diagnosis output_sums worker_process
worker_samples
compare to_surgeon targets symbolic op_attributes io_adapter frozen_inputs task_accuracy
context host weights feeds rounding float4 from_surgeon pictures check_page subgraph graph_summary
statistics_report graph_picture inline_weights timing_statistics
timing_files
records recipe recipe_problems schema store surgeon request_check worker model_refusals
model_file run_pictures recipe_stages artifact_file run_folder testing kernel_source verdict outcome
reference report cache recipe_reader importing kernels recipe_document
op_function chain_runner model_comparison runner report_pictures events bundle.manifest host_kernels
host_launch report_facts
page_frame op_comparison
report_page
op_sanitizer
op_testing evidence profile_text bisection accuracy_bisection bundle.storage bundle.compatibility
op_sanitizer_job markdown_summary op_examples op_scaffold plugin_rules tuning
plugin_export plugin_variants op_bench cuda_timer
session starter subject bundle.contents bundle.preflight
bundle.writer diff_figures matrix matrix.cells run_diff
layer_diff fail_if run_diff_text qualification qualification.sides
diff qualification.judge
qualification.text
diff_text
diff_page
triton.chain triton.source
triton.batches triton.model_files
triton.serving
triton.repository
doctor.facts
doctor.tensorrt_rules doctor.cuda_rules doctor.package_rules doctor.machine_rules
doctor.requirements
doctor.checkup
runtime.chain runtime.engine_store
runtime.onnx_session runtime.runner runtime.rebuild
runtime.loading
api cli.answers cli.options
matrix.execute
matrix.local matrix.on_ray matrix.runs
cli.matrix cli.plan
cli.export
cli.bundles cli.check cli.doctor cli.qualify cli.look cli.models cli.runs
cli.op_source
cli.op_bench
cli.ops
cli.bisect cli.profiles
cli.app
cli
"""
INTERFACE = {
    "trtforge", "trtforge.analysis", "trtforge.array_files", "trtforge.artifacts",
    "trtforge.bundle.contents",
    "trtforge.bundle.writer", "trtforge.compare", "trtforge.diagnosis", "trtforge.environment",
    "trtforge.errors", "trtforge.feeds", "trtforge.file_feeds",
    "trtforge.frozen_inputs", "trtforge.graph", "trtforge.hooks", "trtforge.host",
    "trtforge.io_adapter", "trtforge.kernel_source", "trtforge.kernels", "trtforge.memory_plan",
    "trtforge.chain", "trtforge.chain_runner", "trtforge.subgraph",
    "trtforge.model_comparison", "trtforge.model_file", "trtforge.op_function",
    "trtforge.op_testing", "trtforge.op_attributes", "trtforge.ops", "trtforge.cache",
    "trtforge.options",
    "trtforge.quantities", "trtforge.reference", "trtforge.runtime.session", "trtforge.symbolic",
    "trtforge.statistics", "trtforge.targets", "trtforge.task_accuracy", "trtforge.testing",
    "trtforge.timing_files", "trtforge.timing_statistics",
    "trtforge.tuning",
    "trtforge.user_code", "trtforge.weights", "trtforge.worker",
}  # fmt: skip
"""What plugins may import; docs/design.md lists it."""


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, modules=()):
    """Yield what a file imports at run time, at its top or inside functions."""
    todo = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def host_files():
    return {module_name(path): path for path in (ROOT / "trtforge").rglob("*.py")}


def levels():
    lines = LEVELS.strip().splitlines()
    return {
        f"trtforge.{name}": number for number, line in enumerate(lines) for name in line.split()
    }


def test_every_file_has_a_level():
    assert set(host_files()) - {"trtforge"} == set(levels())


DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_the_map_says_where_every_file_is():
    named = set(re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", DESIGN))
    assert {path.name for path in host_files().values()} - {"__init__.py"} <= named


def test_the_map_names_no_file_that_is_gone():
    for name in re.findall(r"`((?:[\w/]+/)?\w+\.py)`", DESIGN):
        assert [*ROOT.rglob(name)], name


def test_what_plugins_may_import_is_written_down():
    listed = DESIGN.partition("modules of it:")[2].partition("| question")[0]
    assert {f"trtforge.{name}" for name in re.findall(r"`([\w.]+)`", listed)} == INTERFACE - {
        "trtforge"
    }


def test_a_file_imports_only_from_lower_levels():
    level, files = levels(), host_files()
    wrong = [
        f"{module} imports {other}"
        for module, path in files.items()
        if module != "trtforge"
        for other in imported(path, files)
        if other in level and level[other] >= level[module]
    ]
    assert wrong == []


SHIPPED = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "custom_ops").rglob("*.py")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_use_the_public_interface_only(path):
    ours = {name for name in imported(path, host_files()) if name.split(".")[0] == "trtforge"}
    assert ours <= INTERFACE


def test_the_host_knows_no_plugin():
    names = {name for path in host_files().values() for name in imported(path)}
    assert not {name for name in names if name.startswith(("trtforge_plugins", "trtforge_ops"))}


HEAVY = {
    "tensorrt", "tensorrt_rtx", "cupy", "torch", "tensorflow", "onnxruntime", "onnx_graphsurgeon",
}  # fmt: skip


DOORS = {"to_surgeon": "onnx_graphsurgeon", "from_surgeon": "onnx_graphsurgeon"}
"""Files that are themselves imported only where their library is used."""


def top_level_imports(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("path", [*host_files().values(), *SHIPPED], ids=lambda p: p.stem)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    loaded = {name.split(".")[0] for name in top_level_imports(path)}
    assert not loaded & (HEAVY - {DOORS.get(path.stem)})
