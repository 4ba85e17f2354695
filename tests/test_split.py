"""Splitting a model: cheap cuts, equal outputs, a manifest that nobody can lead astray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from conversion import needs_tensorrt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import feeds, models
from trtforge_plugins.memory import Split
from trtforge_plugins.memory.pieces import pieces
from trtforge_plugins.precision import QuantizeWeights

from trtforge import Context, Engine, Memory, ModelError, Request, ShapeRange, StepError, run
from trtforge.chain import Chain, ChainPart
from trtforge.chain_runner import MANIFEST, ChainRunner, read_manifest
from trtforge.testing import apply, run_model

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'


def split(model: ir.Model, parts: int, folder: Path, **shapes: str) -> Chain:
    """The chain that the step makes; the step itself compares the outputs."""
    profile = {name: ShapeRange.read(shape) for name, shape in shapes.items()}
    ctx = Context(model, folder, Request("test", (profile,) if profile else ()))
    Split(parts=parts).run(ctx)
    return ctx.get(Chain)


def parsed(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f"{HEAD} {text}"))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(models(), st.integers(2, 4))
def test_the_parts_compute_what_the_model_does(tmp_path_factory, proto, parts) -> None:
    model = ir.from_proto(proto)
    folder = tmp_path_factory.mktemp("split")
    try:
        chain = split(model, parts, folder, x="3x4")
    except StepError as error:
        if "cannot be split" not in error.what:  # too few kernels, or a shape that is not known
            raise
        return
    runner = ChainRunner(chain)
    for feed in feeds():
        expected, found = run_model(proto, feed), runner.run(feed)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)  # order of sums


HOURGLASS = """g (float[1, 4096] x) => (float[1, 4096] y)
    <float[4096, 2] a, float[2, 4096] b, float[4096, 3] c, float[3, 4096] d>
    { p = MatMul (x, a) q = Sigmoid (p) r = MatMul (q, b) s = Sigmoid (r)
      t = MatMul (s, c) u = Sigmoid (t) y = MatMul (u, d) }"""


def hourglass() -> ir.Model:
    """Wide and narrow in turn; the narrowest tensor is q."""
    model = parsed(HOURGLASS.replace("float[4096, 2] a, float[2, 4096] b, float[4096, 3] c, "
                                     "float[3, 4096] d", "float[1] unused = {0}"))  # fmt: skip
    random = np.random.default_rng(0)
    shapes = {"a": (4096, 2), "b": (2, 4096), "c": (4096, 3), "d": (3, 4096)}
    for name, shape in shapes.items():
        array = random.standard_normal(shape).astype(np.float32) / 64
        value = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape),
            const_value=ir.tensor(array, name=name),
        )  # fmt: skip
        old = next(
            v for node in model.graph for v in node.inputs if v is not None and v.name == name
        )
        old.replace_all_uses_with(value)
        model.graph.register_initializer(value)
    return model


def test_the_cut_is_where_least_goes_from_part_to_part(tmp_path: Path) -> None:
    first, second = split(hourglass(), 2, tmp_path).parts
    assert first.outputs == second.inputs == ("q",)
    assert first.between == second.between == 8


def test_each_part_holds_only_its_own_weights(tmp_path: Path) -> None:
    chain = split(hourglass(), 2, tmp_path)
    held = [set(ir.load(part.model).graph.initializers) for part in chain.parts]
    assert held[0] & {"a", "b", "c", "d"}
    assert not held[0] & held[1]


def test_weights_behind_a_dequantization_count_where_the_cut_is_chosen(tmp_path: Path) -> None:
    """Eight equal products with INT8 weights: about half of them go into each of two parts."""
    steps = " ".join(f"h{i + 1} = MatMul (h{i}, w{i})" for i in range(8))
    text = f"g (float[1,1024] h0) => (float[1,1024] h8) {{ {steps} }}"
    model = parsed(text)
    for number, node in enumerate(list(model.graph)):
        weight = np.random.default_rng(number).standard_normal((1024, 1024)).astype(np.float32)
        value = ir.Value(name=f"w{number}", const_value=ir.tensor(weight, name=f"w{number}"))
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(weight.shape)
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)
    model, _, _ = apply(QuantizeWeights(dtype="int8"), model)
    chain = split(model, 2, tmp_path)
    held = [
        sum(value.const_value.nbytes for value in ir.load(part.model).graph.initializers.values())
        for part in chain.parts
    ]
    assert max(held) <= sum(held) * 5 / 8


def test_a_tensor_that_skips_a_part_is_counted_while_that_runs(tmp_path: Path) -> None:
    pool = "MaxPool <kernel_shape = [1]>"
    body = " ".join(f"v{n + 1} = {pool} (v{n})" for n in range(1, 12))
    model = parsed(f"""g (float[1, 4, 256] x) => (float[1, 4, 256] y)
        {{ v1 = {pool} (x) {body} y = Add (v12, v1) }}""")
    chain = split(model, 3, tmp_path)
    middle = chain.parts[1]
    assert "v1" in chain.parts[0].outputs
    assert middle.inputs == ("v1",)
    assert "v1" in chain.parts[2].inputs
    assert middle.between == 2 * 1024 * 4  # v1, which is read again later, and its output


def test_a_value_that_a_body_captures_goes_along(tmp_path: Path) -> None:
    model = parsed("""g (float[2, 8] x, bool c) => (float[2, 8] y)
        { a = Softmax (x) b = Softmax (a) d = Softmax (b)
          y = If (c) <then_branch = t () => (float[2, 8] u) { u = Add (a, d) },
                      else_branch = e () => (float[2, 8] v) { v = Neg (a) }> }""")
    chain = split(model, 2, tmp_path)
    assert "a" in chain.parts[1].inputs or "a" not in chain.parts[0].outputs
    feed = {"x": np.ones((2, 8), np.float32), "c": np.array(False)}
    np.testing.assert_array_equal(ChainRunner(chain).run(feed)["y"], run_model(model, feed)["y"])


def test_a_view_that_the_caller_and_a_later_part_read_is_repeated(tmp_path: Path) -> None:
    model = parsed("""g (float[2, 8] x) => (float[4, 4] v, float[4, 4] y)
        { a = Softmax (x) to = Constant <value_ints = [4, 4]> () v = Reshape (a, to)
          b = Softmax (v) c = Softmax (b) y = Softmax (c) }""")
    chain = split(model, 2, tmp_path)
    feed = {"x": np.random.default_rng(0).random((2, 8), np.float32)}
    found, expected = ChainRunner(chain).run(feed), run_model(model, feed)
    for name in ("v", "y"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_dynamic_shapes_reach_every_part(tmp_path: Path) -> None:
    model = parsed("""g (float[n, 2, 8] x) => (float[n, m] y)
        { s = Shape <start = 0, end = 1> (x) rest = Constant <value_ints = [-1]> ()
          to = Concat <axis = 0> (s, rest) a = MaxPool <kernel_shape = [1]> (x)
          b = Softmax (a) c = MaxPool <kernel_shape = [1]> (b) y = Reshape (c, to) }""")
    chain = split(model, 2, tmp_path, x="1x2x8:2x2x8:4x2x8")
    assert chain.parts[1].profiles[0][chain.parts[1].inputs[0]].startswith("1x2x8:2x2x8:4x2x8")
    for batch in (1, 4):
        feed = {"x": np.random.default_rng(batch).random((batch, 2, 8), np.float32)}
        found = ChainRunner(chain).run(feed)["y"]
        np.testing.assert_allclose(found, run_model(model, feed)["y"], rtol=1e-6)


def test_more_parts_than_kernels_are_refused() -> None:
    model = parsed("g (float[4] x) => (float[4] y) { y = Exp (x) }")
    with pytest.raises(StepError, match="1 kernels and cannot be split into 2"):
        pieces(model, {}, 2)


def chain_of(loading: str, **more: int) -> Chain:
    parts = tuple(
        ChainPart(
            Path(f"{n}.onnx"), ("a",), ("b",), (), between,
            Engine(
                Path("e"), "tensorrt_rtx", "1", (), 10, 1.0, Memory(activation=block, weights=held)
            ),
        )
        for n, (block, held, between) in enumerate([(100, 1000, 7), (300, 500, 5)])
    )  # fmt: skip
    return Chain(("a",), ("b",), parts, loading, **more)  # type: ignore[arg-type]  # two words


def test_engines_that_stay_loaded_add_up_and_share_one_block() -> None:
    chain = chain_of("all")
    assert (chain.activation, chain.total, chain.size) == (305, 305 + 1500, 20)


def test_engines_that_are_loaded_in_turn_need_what_the_largest_needs() -> None:
    assert chain_of("one").total == 100 + 7 + 1000


def test_the_manifest_is_read_as_written(tmp_path: Path) -> None:
    chain = split(hourglass(), 2, tmp_path)
    assert read_manifest(tmp_path / "parts") == chain


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "../part-0.onnx"}, "is no plain file name"),
        ({"model": "/etc/passwd"}, "is no plain file name"),
        ({"engine": ".."}, "is no plain file name"),
        ({"inputs": ["nobody"]}, "gives 'nobody'"),
        ({"outputs": ["other"]}, "no part"),
        ({"between": "many"}, "is no manifest of a chain: parts.0.between"),
        ({"surprise": 1}, "is no manifest of a chain: parts.0.surprise"),
    ],
)
def test_a_manifest_that_leads_astray_is_refused(tmp_path: Path, change, told: str) -> None:
    split(hourglass(), 2, tmp_path)
    place = tmp_path / "parts" / MANIFEST
    data = json.loads(place.read_text())
    data["parts"][0].update(change)
    place.write_text(json.dumps(data))
    with pytest.raises(ModelError, match=told):
        read_manifest(place.parent)


RECIPE = """
model: m.onnx
require: {total_memory: 64MiB}
stages:
  - name: build
    steps:
      - split: {parts: 2, loading: one}
      - build-parts: {tensorrt: {workspace: 1GiB}}
"""


@needs_tensorrt
def test_a_recipe_builds_an_engine_of_each_part(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    ir.save(hourglass(), "m.onnx")
    Path("r.yaml").write_text(RECIPE)
    done = run("r.yaml", out=Path("out"))
    assert done.exit_code == 0
    assert [engine.path.name for engine in done.report.engines] == [
        "part-0.engine",
        "part-1.engine",
    ]
    assert all(engine.path.is_file() for engine in done.report.engines)
    told = json.loads((tmp_path / "out" / "parts" / MANIFEST).read_text())
    assert [part["engine"] for part in told["parts"]] == ["part-0.engine", "part-1.engine"]
    assert "total memory" in (tmp_path / "out" / "report.html").read_text()
