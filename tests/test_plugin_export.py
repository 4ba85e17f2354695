"""Custom ops as TensorRT plugins in C++: rules, kernels and launches are those of the op itself.

What TensorRT does with such a plugin needs its headers (NvInferRuntime.h), which no package of the
test environment has. Where they are found, in TENSORRT_INCLUDE or the usual places, the plugin is
compiled against them and an engine is built with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import onnx_ir as ir
import pytest
import trtforge_ops
from command import trtforge
from trtforge_plugins.tensorrt import library
from trtforge_plugins.tensorrt.plugin_nodes import with_plugins

from trtforge import Context, Request, model_file
from trtforge.cache import default_root
from trtforge.kernels import compile_kernel, cuda_headers
from trtforge.op_attributes import write_op
from trtforge.op_examples import examples_of
from trtforge.op_testing import call_model, shapes_of
from trtforge.ops import launches
from trtforge.plugin_export import export_plugin
from trtforge.plugin_rules import NotExportable, Variant, write_rules
from trtforge.plugin_variants import variants_asked_for
from trtforge.targets import KNOWN
from trtforge.worker import Job, Worker

DATA = Path(__file__).parent / "data" / "plugin_cpp"
STORE = default_root() / "kernels"
REFUSED = {
    trtforge_ops.NonMaxSuppression: "without end",
    trtforge_ops.RotatedNonMaxSuppression: "without end",
}
"""Ops whose rules are not expressions of sizes, and what says so: they stay plugins in Python."""
EXPORTED = [kind for kind in trtforge_ops.OPS if kind not in REFUSED]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="NOT COMPILED: there is no C++ compiler (g++, or CXX)"
)


def compiled(folder, *files, options=()):
    """Compile C++ into a program or library; return it."""
    made = folder / "made"
    include = ["-isystem", cuda_headers(), "-I", str(folder), "-I", str(DATA)]
    done = subprocess.run(
        [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", *include, *map(str, files),
         "-o", str(made), "-ldl", *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def output(program, **variables):
    done = subprocess.run(
        [program], capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    return done.stdout.splitlines()


def only_rules(kind, folder, monkeypatch):
    """Export without compiling kernels."""
    monkeypatch.setattr("trtforge.plugin_export._jobs", lambda *_: ())
    return export_plugin(variants_asked_for(kind), [KNOWN["sm_86"]], folder)


MAIN = """
{includes}
#include "tell_rules.h"
int main()
{{
{calls}
}}
"""


def in_python(rules, dtype, shapes):
    """The line that the program prints, by the rules of the op itself."""
    op = rules.variant.op
    outputs, tactic = op.shapes(*shapes), op.tactic(dtype, shapes)
    started = "".join(
        f" {each.kernel},{each.grid},{each.block},{each.shared_bytes}{list(each.scalars)}"
        for each in launches(op, shapes, outputs, tactic)
    )
    number = [dict(each) for each in rules.tactics].index(dict(tactic)) + 1
    sizes = "".join(str(list(shape)) for shape in outputs)
    return f"{sizes} {number} {op.workspace(shapes, outputs)} ''{started}"


def cases_of(kind):
    """Small examples and large ones: the large ones take other ways through the rules."""
    return [(each.op, shapes_of(each.inputs)) for timed in (False, True)
            for each in examples_of(kind, timed=timed)]  # fmt: skip


@needs_compiler
@pytest.mark.slow
def test_the_rules_in_cpp_say_what_the_ops_say(tmp_path, monkeypatch):
    includes, calls, expected = [], [], []
    for kind in EXPORTED:
        cases = cases_of(kind)
        ops, ranks = (dict.fromkeys(part) for part in (
            [op for op, _ in cases], [tuple(map(len, shapes)) for _, shapes in cases]))  # fmt: skip
        monkeypatch.setattr("trtforge.plugin_export._jobs", lambda *_: ())
        variants = [Variant(op, tuple(kind.dtypes), tuple(ranks)) for op in ops]
        exported = export_plugin(variants, [KNOWN["sm_86"]], tmp_path / kind.__name__)
        includes.append(f'#include "{kind.__name__}/rules.h"')
        for op, shapes in cases:
            number = list(ops).index(op)
            for type_number, dtype in enumerate(kind.dtypes):
                given = "{" + ", ".join("{" + ", ".join(map(str, s)) + "}" for s in shapes) + "}"
                name = f"{kind.name.replace('::', '_')}_plugin"
                calls.append(f"    TELL({name}), {number}, {type_number}, {given});")
                expected.append(in_python(exported.rules[number], dtype, shapes))
    text = MAIN.format(includes="\n".join(includes), calls="\n".join(calls))
    (tmp_path / "main.cpp").write_text(text)
    assert output(compiled(tmp_path, tmp_path / "main.cpp")) == expected


def test_what_a_rule_refuses_is_refused_at_run_time_in_its_words(tmp_path, monkeypatch):
    only_rules(trtforge_ops.Det, tmp_path / "det", monkeypatch)
    rules = (tmp_path / "det" / "rules.h").read_text()
    assert 'problem = "custom op trtforge::Det takes square matrices of at most 64 rows' in rules


@pytest.mark.parametrize(("kind", "cause"), REFUSED.items(), ids=lambda each: str(each)[-20:])
def test_ops_that_cannot_be_exported_say_why(kind, cause):
    with pytest.raises(NotExportable, match=cause):
        write_rules(variants_asked_for(kind)[0])


def test_rules_as_written(tmp_path, monkeypatch, request):
    """A golden file: what a reader of the generated C++ sees. `--update` writes it anew."""
    only_rules(trtforge_ops.CumSum, tmp_path / "cumsum", monkeypatch)
    golden = DATA / "cumsum_rules.h"
    written = (tmp_path / "cumsum" / "rules.h").read_text()
    if request.config.getoption("--update"):
        golden.write_text(written)
    assert written == golden.read_text()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """GroupNorm with two kernels and a workspace, for two GPUs."""
    op = trtforge_ops.GroupNorm(groups=4, activation="silu")
    folder = tmp_path_factory.mktemp("export") / "group_norm"
    targets = [KNOWN["sm_80"], KNOWN["sm_90"]]
    return export_plugin([Variant(op, ("float16",), ((4, 1, 1),))], targets, folder, STORE)


@pytest.fixture(scope="module")
def program(exported):
    """What the plugin does in TensorRT's enqueue, on a driver that only writes down."""
    driver = compiled(
        exported.folder, DATA / "fake_driver.cpp",
        options=("-shared", "-fPIC"),
    )  # fmt: skip
    driver.rename(exported.folder / "libcuda.so.1")
    ours = [exported.folder / name for name in ("kernels.cpp", "codes.cpp")]
    return compiled(exported.folder, DATA / "start.cpp", *ours)


def checksum(code):
    total = 0
    for byte in code:
        total = (total * 31 + byte) % 2**32
    return total


@needs_compiler
def test_the_codes_in_cpp_are_those_that_were_compiled(exported, program):
    op = exported.rules[0].variant.op
    tactic = exported.rules[0].tactics[0]
    expected = []
    for sm in (80, 90):
        kernel = compile_kernel(op, "float16", KNOWN[f"sm_{sm}"], STORE, tactic=tactic)
        for ptx, code in ((0, kernel.cubin), (1, kernel.ptx)) if sm == 80 else ((0, kernel.cubin),):
            expected.append(f"{sm} {ptx} {len(code)} {checksum(code)} 0")
    folder = str(exported.folder)
    lines = output(program, LD_LIBRARY_PATH=folder, FAKE_ARGUMENTS="0")
    assert lines[:3] == expected


@needs_compiler
@pytest.mark.parametrize(
    ("sm", "code"), [("80", "CUBIN"), ("86", "CUBIN"), ("90", "CUBIN"), ("120", "PTX")]
)
def test_the_driver_is_asked_for_what_the_op_launches(exported, program, sm, code):
    op, shapes = exported.rules[0].variant.op, ((2, 8, 4, 4), (8,), (8,))
    tactic, outputs = op.tactic("float16", shapes), op.shapes(*shapes)
    expected = [f"load {code}"]
    for each in launches(op, shapes, outputs, tactic):
        if each.shared_bytes:
            expected.append(f"shared {each.shared_bytes}")
        arguments = " ".join(map(str, (2, 4, 6, *each.scalars, 8, 10)))
        sizes = f"{each.grid} {each.block} {each.shared_bytes}"
        expected.append(f"launch entry_{each.kernel} {sizes} 0x77 {arguments}")
    count = str(3 + len(launches(op, shapes, outputs, tactic)[0].scalars) + 2)
    lines = output(program, LD_LIBRARY_PATH=str(exported.folder), FAKE_SM=sm, FAKE_ARGUMENTS=count)
    assert [line for line in lines if line.split()[0] in ("load", "shared", "launch")] == expected
    assert "problem ''" in lines


@needs_compiler
def test_a_gpu_that_is_older_than_all_kernels_is_named(exported, program):
    folder = str(exported.folder)
    lines = output(program, LD_LIBRARY_PATH=folder, FAKE_SM="75", FAKE_ARGUMENTS="0")
    assert "problem 'no kernel was exported for sm_75'" in lines


@needs_compiler
def test_without_a_driver_it_says_so(program):
    lines = output(program, LD_LIBRARY_PATH="", FAKE_ARGUMENTS="0")
    if "problem ''" in lines or any("load" in line for line in lines):
        pytest.skip("this machine has a CUDA driver")
    assert "problem 'the CUDA driver (libcuda.so.1) is not here'" in lines


# The command


def test_export_writes_a_plugin_and_says_what_is_in_it(tmp_path):
    answer = trtforge(
        "op", "export", "BiasGelu", "--cpp", "-o", tmp_path / "p", "--dtype", "float16",
        "--target", "sm_86", "--set", "approximate=tanh", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (variant,) = answer.json["variants"]
    assert variant["attributes"] == {"approximate": "tanh"}
    assert variant["types"] == ["float16"]
    assert sorted(variant["ranks"]) == [[2, 1], [3, 1]]
    assert answer.json["targets"] == [86]
    names = {"CMakeLists.txt", "codes.cpp", "kernels.cpp", "kernels.h", "plugin.cpp", "rules.h"}
    assert {path.name for path in (tmp_path / "p").iterdir()} == names
    plugin = (tmp_path / "p" / "plugin.cpp").read_text()
    assert 'kNAME = "trtforge_BiasGelu"' in plugin
    assert 'node.text("approximate", "none") == "tanh"' in plugin


def test_export_takes_attributes_and_ranks_from_a_model(tmp_path):
    op = trtforge_ops.BiasGelu("tanh")
    model_file.save(call_model(op, [(2, 3, 4, 8), (8,)], "float16", 20), tmp_path / "m.onnx")
    asked = ["op", "export", "BiasGelu", "--cpp", "--model", tmp_path / "m.onnx"]
    answer = trtforge(*asked, "-o", tmp_path / "p", "--target", "sm_86", "--json")
    assert answer.code == 0, answer.err
    (variant,) = answer.json["variants"]
    assert (variant["attributes"], variant["ranks"]) == ({"approximate": "tanh"}, [[4, 1]])
    asked[2] = "RMSNorm"
    assert "no node of the model calls trtforge::RMSNorm" in trtforge(*asked, "-o", "q").err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["RMSNorm"], 2, "add --cpp"),
        (["RMSNorm", "--cpp", "--dtype", "float"], 2, "has no kernel for 'float'"),
        (
            ["RMSNorm", "--cpp", "--dtype", "bfloat16", "--target", "sm_75"],
            2,
            "none of the targets",
        ),
        (["NonMaxSuppression", "--cpp"], 3, "without end"),
        (["RMSNorm", "--cpp", "--model", "m.onnx", "--set", "epsilon=1"], 2, "leave --set"),
    ],
)
def test_wrong_requests_write_nothing(arguments, code, said, tmp_path):
    answer = trtforge("op", "export", *arguments, "-o", tmp_path / "p")
    assert answer.code == code
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    answer = trtforge("op", "export", "RMSNorm", "--cpp", "-o", tmp_path)
    assert answer.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# With TensorRT's headers


def tensorrt_headers():
    """Folders with NvInferRuntime.h and what it includes of CUDA; none: they are not here."""
    places = [
        os.environ.get("TENSORRT_INCLUDE", ""), os.environ.get("TENSORRT_ROOT", "") + "/include",
        "/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu", "/usr/include",
        "/usr/local/tensorrt/include", "/opt/tensorrt/include",
    ]  # fmt: skip
    ours = [place for place in places if Path(place, "NvInferRuntime.h").is_file()]
    cuda = [*os.environ.get("CUDA_INCLUDE", "").split(os.pathsep), "/usr/local/cuda/include",
            cuda_headers()]  # fmt: skip
    crt = [place for place in cuda if Path(place, "crt/host_defines.h").is_file()]
    return [*ours[:1], *crt[:1], cuda_headers()] if ours and crt else []


needs_tensorrt_headers = pytest.mark.skipif(
    COMPILER is None or not tensorrt_headers(),
    reason="NOT COMPILED against TensorRT: NvInferRuntime.h (TENSORRT_INCLUDE) and CUDA's "
    "crt/host_defines.h (CUDA_INCLUDE) are not both here, nor in the usual places",
)
KINDS = [trtforge_ops.BiasGelu, trtforge_ops.NonZero, trtforge_ops.QuantizeFloat8]


@needs_tensorrt_headers
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_plugin_compiles_against_tensorrt(kind, tmp_path, monkeypatch):
    only_rules(kind, tmp_path / "p", monkeypatch)
    include = [word for place in tensorrt_headers() for word in ("-isystem", place)]
    for option in ((), ("-DTRTFORGE_REGISTER_ON_LOAD",)):
        done = subprocess.run(
            [COMPILER, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *option,
             *include, str(tmp_path / "p" / "plugin.cpp")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]


@needs_tensorrt_headers
@pytest.mark.slow
@pytest.mark.parametrize("kind", [trtforge_ops.BiasGelu, trtforge_ops.NonZero], ids=str)
def test_tensorrt_builds_an_engine_with_the_plugin(kind, tmp_path):
    """Built, not executed: TensorRT-RTX loads the library, parses and builds with it."""
    example = examples_of(kind)[0]
    variant = Variant(example.op, ("float16",), (tuple(map(len, shapes_of(example.inputs))),))
    exported = export_plugin([variant], [KNOWN["sm_86"]], tmp_path / "p", STORE)
    include = [word for place in tensorrt_headers() for word in ("-isystem", place)]
    made = compiled(
        exported.folder, *exported.folder.glob("*.cpp"),
        options=("-shared", "-fPIC", "-fvisibility=hidden", *include),
    )  # fmt: skip
    model = call_model(example.op, example.inputs, "float16", 20)
    ctx = Context(model, tmp_path, Request("m", targets=(KNOWN["sm_86"],)), ops={kind.name: kind})
    ir.save(with_plugins(model, "auto", ctx.request.targets, ctx).model, tmp_path / "m.onnx")
    payload = {
        "library": str(made),
        "model": str(tmp_path / "m.onnx"),
        "texts": [write_op(variant.op)],
    }
    job = Job("tensorrt_jobs:build_with_library", payload, "the build with a C++ plugin")
    with Worker(environment=library.find().variables()) as worker:
        built = worker.call(job)
    assert built["layers"].count("PLUGIN_V3") == 1
    assert built["size"] > 0
    assert built["carries"] == payload["texts"]


@needs_tensorrt_headers
@pytest.mark.slow
def test_a_node_may_give_its_attributes_one_by_one(tmp_path):
    """As a model has them that another tool wrote: INT32, FLOAT32 and text, or left out."""
    kind = trtforge_ops.GroupNorm
    usual, rough = (kind(groups=4, activation="silu", epsilon=each) for each in (1e-5, 1e-3))
    exported = export_plugin(
        [Variant(op, ("float16",), ((3, 1, 1),)) for op in (rough, usual)],
        [KNOWN["sm_86"]], tmp_path / "p", STORE,
    )  # fmt: skip
    include = [word for place in tensorrt_headers() for word in ("-isystem", place)]
    made = compiled(
        exported.folder, *exported.folder.glob("*.cpp"),
        options=("-shared", "-fPIC", "-fvisibility=hidden", *include),
    )  # fmt: skip
    model = call_model(usual, [(2, 12, 7), (12,), (12,)], "float16", 20)
    ctx = Context(model, tmp_path, Request("m", targets=(KNOWN["sm_86"],)), ops={kind.name: kind})
    model = with_plugins(model, "auto", ctx.request.targets, ctx).model
    (node,) = model.graph
    del node.attributes["trtforge"]
    texts = [write_op(rough), write_op(usual)]
    payload = {"library": str(made), "model": str(tmp_path / "m.onnx"), "texts": texts}
    job = Job("tensorrt_jobs:build_with_library", payload, "the build with a C++ plugin")
    wanted = {
        (): [],  # the default of activation is no SiLU, which was not exported
        (("groups", 4), ("activation", "silu")): [write_op(usual)],
        (("groups", 4), ("activation", "silu"), ("epsilon", 1e-3)): [write_op(rough)],
        (("groups", 4), ("activation", "silu"), ("epsilon", 0.5)): [],
        (("groups", 8), ("activation", "silu")): [],
    }
    found = {}
    for given in wanted:
        one_by_one = {"plugin_version": "1", "plugin_namespace": kind.name.partition("::")[0]}
        node.attributes.clear()
        for attribute in ir.convenience.convert_attributes({**one_by_one, **dict(given)}):
            node.attributes.add(attribute)
        ir.save(model, tmp_path / "m.onnx")
        with Worker(environment=library.find().variables()) as worker:
            found[given] = worker.call(job)["carries"]
    assert found == wanted
