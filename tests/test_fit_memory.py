"""Fitting a budget: what is tried in which order, what it brings, what is left if nothing fits.

Most tests replace TensorRT by figures that follow a rule; two build.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from math import log2, prod
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from command import trtforge
from conversion import needs_tensorrt
from hypothesis import given
from hypothesis import strategies as st
from test_split import hourglass
from trtforge_plugins.memory import FitMemory
from trtforge_plugins.memory.attempts import ATTEMPTS
from trtforge_plugins.memory.searching import largest
from trtforge_plugins.tensorrt import TensorRT

from trtforge import (
    BuildError,
    ByteSize,
    Context,
    Engine,
    Memory,
    Request,
    RequestError,
    Requirements,
    ShapeRange,
)
from trtforge.chain import Chain
from trtforge.verdict import missed

MODEL = """<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4, l] x) => (float[n, 4, l] y)
    { a = MaxPool <kernel_shape = [1]> (x) y = Softmax (a) }"""


@given(st.integers(-3, 70), st.integers(-3, 70), st.integers(0, 8), st.integers(1, 64))
def test_the_search_finds_the_largest_that_fits(
    limit: int, guess: int, low: int, more: int
) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    high = low + more
    found = largest(low, high, lambda size: size <= guess, fits)
    assert found == (min(limit, high) if limit >= low else low - 1)
    assert len(asked) == len(set(asked))
    assert all(low <= size <= high for size in asked)
    if guess == limit and low <= guess < high:
        assert len(asked) == 2  # a right prediction is confirmed from both sides
    assert len(asked) <= 2 * log2(more + 1) + 2


@dataclass
class Rule:
    """TensorRT as these tests see it: a block of 1000 bytes a sample, less by some options.

    A sample is 1024 numbers. The weights are the constants of the model.
    """

    built: list[TensorRT] = field(default_factory=list)
    failure: str = ""

    def build(self, step: TensorRT, model: ir.Model, ctx: Context) -> Engine:
        self.built.append(step)
        if self.failure:
            raise BuildError(self.failure, code=self.failure)
        largest = [prod(s.max) for p in ctx.request.profiles for s in p.values()]
        block = 1000 * max(largest, default=1024) // 1024
        block -= 100 if step.workspace is not None else 0
        path = ctx.path("engines", "m.engine")
        path.write_bytes(b"engine")
        half = any(v.dtype == ir.DataType.FLOAT16 for node in model.graph for v in node.outputs)
        weights = sum(v.const_value.nbytes for v in model.graph.initializers.values())
        memory = Memory(activation=block // 2 if half else block, weights=500 + weights)
        return Engine(path, "tensorrt_rtx", "1", ("sm_89",), 6, 1.0, memory)


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    found = Rule()
    monkeypatch.setattr(TensorRT, "build", lambda *given: found.build(*given))  # noqa: PLW0108  # a function becomes a method, a bound method does not
    return found


def fitted(
    folder: Path, limit: int, step: FitMemory, shapes: str = "1x4x256:4x4x256:32x4x256"
) -> Context:
    require = Requirements(activation_memory=ByteSize(limit))
    request = Request("m.onnx", ({"x": ShapeRange.read(shapes)},), require=require)
    ctx = Context(ir.from_proto(onnx.parser.parse_model(MODEL)), folder, request)
    step.run(ctx)
    return ctx


def texts(ctx: Context) -> list[str]:
    return [note.text for note in ctx.notes]


def test_what_fits_as_asked_is_built_once(tmp_path: Path, rule: Rule) -> None:
    ctx = fitted(tmp_path, 32_000, FitMemory())
    assert len(rule.built) == 1
    assert ctx.get(Engine).path == tmp_path / "engines" / "m.engine"
    assert ctx.get(Engine).path.is_file()
    assert not (tmp_path / "fit").exists()
    assert missed(ctx) == []


def test_the_largest_batch_that_fits_is_found_and_stated(tmp_path: Path, rule: Rule) -> None:
    ctx = fitted(tmp_path, 20_999, FitMemory())
    assert ctx.get(Engine).memory.activation == 20_000
    assert str(ctx.request.profiles[0]["x"]) == "1x4x256:4x4x256:20x4x256"
    texts = [note.text for note in ctx.notes]
    assert any(text.startswith("batch: largest that fits is 20") for text in texts)
    assert texts[-1].startswith("chosen: as asked, then batches up to 20: activations 19.53KiB")
    assert texts[-1].endswith("it fits")
    assert missed(ctx) == []


def test_the_batch_is_lowered_wherever_an_input_has_it(tmp_path: Path, rule: Rule) -> None:
    """As for a cache of keys, whose second axis it is; other axes stay."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4] x, float[2, n, l] past) => (float[n, 4] y, float[2, n, l] z)
        { y = Softmax (x) z = Softmax (past) }"""
    ranges = {"x": "1x4:2x4:32x4", "past": "2x1x512:2x2x512:2x32x1024"}
    profile = {name: ShapeRange.read(each) for name, each in ranges.items()}
    require = Requirements(activation_memory=ByteSize(40_000))
    request = Request("m.onnx", (profile,), require=require)
    ctx = Context(ir.from_proto(onnx.parser.parse_model(text)), tmp_path, request)
    FitMemory(attempts=("batch",)).run(ctx)
    fitted_to = {name: str(each.max) for name, each in ctx.request.profiles[0].items()}
    assert fitted_to == {"x": "20x4", "past": "2x20x1024"}


def test_each_change_is_measured_and_what_brings_nothing_is_undone(
    tmp_path: Path, rule: Rule
) -> None:
    attempts = ("aux-streams", "workspace", "float16")
    ctx = fitted(tmp_path, 16_000, FitMemory(attempts=attempts))
    texts = [note.text for note in ctx.notes]
    assert texts[0].startswith("as asked: activations 31.25KiB")
    assert "no auxiliary streams: activations 31.25KiB" in texts[1]
    assert texts[1].endswith("no nearer, so undone")
    assert "workspace of 64MiB: activations 31.15KiB" in texts[2]
    assert texts[2].endswith("kept")
    assert texts[3].startswith("workspace of 8MiB")
    assert "cast to float16: activations 15.58KiB" in texts[4]
    assert rule.built[-1].max_aux_streams is None
    assert rule.built[-1].workspace == ByteSize("64MiB")
    assert missed(ctx) == []


def test_where_nothing_fits_the_closest_is_kept_and_the_requirement_missed(
    tmp_path: Path, rule: Rule
) -> None:
    ctx = fitted(tmp_path, 100, FitMemory(attempts=("batch", "aux-streams")))
    assert ctx.get(Engine).memory.activation == 4000  # the usual batch: it is not lowered further
    assert "batch: not even 4 fits; built: 4" in [note.text for note in ctx.notes]
    assert "does not fit" in ctx.notes[-1].text
    assert missed(ctx) == ["activation memory is 3.91KiB, over the required 100B"]


def test_a_smaller_batch_than_the_usual_one_is_taken_where_it_may(
    tmp_path: Path, rule: Rule
) -> None:
    ctx = fitted(tmp_path, 2500, FitMemory(attempts=("batch",), smallest_batch=1))
    assert str(ctx.request.profiles[0]["x"]) == "1x4x256:2x4x256:2x4x256"
    assert missed(ctx) == []


@pytest.mark.parametrize(
    ("shapes", "limit", "largest"),
    [
        # 8 grades of 32 lie between 128 and 384; 4 samples of 4x256 are 4000
        ("1x4x32:4x4x128:4x4x384", 4000, "1x4x32:4x4x128:4x4x256"),
        ("1x4x32:4x4x128:4x4x384", 4400, "1x4x32:4x4x128:4x4x256"),  # 281 is no multiple of 32
        ("1x4x32:4x4x128:4x4x384", 5999, "1x4x32:4x4x128:4x4x352"),
        # the batch is another attempt's: it stays
        ("1x4x128:2x4x128:4x4x256", 3000, "1x4x128:2x4x128:4x4x128"),
    ],
)
def test_the_largest_shapes_that_fit_are_multiples_of_what_the_given_ones_share(
    shapes: str, limit: int, largest: str, tmp_path: Path, rule: Rule
) -> None:
    ctx = fitted(tmp_path, limit, FitMemory(attempts=("shapes",)), shapes)
    assert str(ctx.request.profiles[0]["x"]) == largest
    found = next(text for text in texts(ctx) if text.startswith("shapes: "))
    assert found.startswith(f"shapes: largest that fits is x {largest.rpartition(':')[2]}; built: ")
    assert texts(ctx)[-1].endswith("it fits")
    assert missed(ctx) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("workspace", [{"workspace": ByteSize("64MiB")}, {"workspace": ByteSize("8MiB")}]),
        ("tactics", [{"tactic_shared_memory": ByteSize("48KiB")}]),
        ("aux-streams", [{"max_aux_streams": 0}]),
        ("weight-streaming", [{"weight_streaming": True}]),
    ],
)
def test_an_attempt_that_is_an_option_of_the_build(
    name: str, options: list[dict[str, object]], tmp_path: Path, rule: Rule
) -> None:
    fitted(tmp_path, 100, FitMemory(attempts=(name,), tensorrt={"optimization_level": 2}))
    assert len(rule.built) == 1 + len(options)
    for step, changed in zip(rule.built, [{}, *options], strict=True):
        assert step.optimization_level == 2
        assert {**vars(rule.built[0]), **changed} == vars(step)


PRODUCT = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[4, 256] x) => (float[4, 256] y) { y = MatMul (x, w) }"""


@pytest.mark.parametrize("version", [20, 21], ids=["upgraded first", "as it is"])
def test_weights_in_fewer_bits_start_from_the_whole_ones(
    tmp_path: Path, rule: Rule, version: int
) -> None:
    """Four bits need opset 21, to which the attempt upgrades by itself."""
    model = ir.from_proto(onnx.parser.parse_model(PRODUCT.replace(": 21", f": {version}")))
    array = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    model.graph.initializers["w"] = ir.Value(name="w", const_value=ir.tensor(array, name="w"))
    (node,) = model.graph
    node.replace_input_with(1, model.graph.initializers["w"])
    attempts = ("int8-weights", "int4-weights")
    request = Request("m.onnx", require=Requirements(total_memory=ByteSize("1KiB")))
    ctx = Context(model, tmp_path, request)
    FitMemory(attempts=attempts).run(ctx)
    whole, int8, int4 = (text.partition("total ")[2].partition(",")[0] for text in texts(ctx)[:3])
    assert (whole, int8, int4) == ("257.46KiB", "66.46KiB", "37.46KiB")
    assert texts(ctx)[1].startswith("INT8 weights: ")
    assert texts(ctx)[2].startswith("INT4 weights: ")
    assert [each.dtype.name for each in ctx.model.graph.initializers.values()] == ["INT4", "FLOAT"]


def test_where_nothing_fits_all_was_tried_in_the_stated_order(tmp_path: Path, rule: Rule) -> None:
    """And the command ends with 1, the figures, what was chosen and what to do."""
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text(
        "model: m.onnx\nshapes: {x: {min: 1x4x256, opt: 4x4x256, max: 32x4x256}}\n"
        "require: {activation_memory: 100B}\nstages: [{name: build, steps: [fit-memory]}]\n"
    )
    answer = trtforge("run", tmp_path / "r.yaml", "--out", tmp_path / "out", "--no-compare")
    assert answer.code == 1
    assert "not met: activation memory is 1.90KiB, over the required 100B" in answer.err
    assert "To do: put fit-memory" in answer.err
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    (step,) = [s for stage in report["stages"] for s in stage["steps"] if s["step"] == "fit-memory"]
    told = [note["text"].partition(":")[0] for note in step["notes"]]
    first = [
        "as asked", "batch", "batches up to 4", "shapes", "cast to float16", "INT8 weights",
        "INT4 weights", "workspace of 64MiB", "workspace of 8MiB",
        "kernels with at most 48KiB of shared memory", "no auxiliary streams",
        "weights that can be streamed", "split into 2 parts",
    ]  # fmt: skip
    assert told[: len(first)] == first
    assert told[-1] == "chosen"


def test_the_page_has_the_attempts_in_their_order() -> None:
    page = (Path(__file__).parent.parent / "docs" / "memory.md").read_text()
    table = page.partition("| attempt | what it changes |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)) == ATTEMPTS


def test_builds_that_fail_are_told_and_if_all_do_the_first_error_counts(
    tmp_path: Path, rule: Rule
) -> None:
    rule.failure = "gpu-out-of-memory"
    with pytest.raises(BuildError, match="gpu-out-of-memory"):
        fitted(tmp_path, 100, FitMemory(attempts=("aux-streams",)))
    assert len(rule.built) == 2


def test_a_model_that_tensorrt_refuses_is_not_tried_again(tmp_path: Path, rule: Rule) -> None:
    rule.failure = "unsupported-operator"
    with pytest.raises(BuildError, match="unsupported-operator"):
        fitted(tmp_path, 100, FitMemory())
    assert len(rule.built) == 1


def test_it_needs_a_budget(tmp_path: Path) -> None:
    ctx = Context(ir.from_proto(onnx.parser.parse_model(MODEL)), tmp_path, Request("m"))
    with pytest.raises(RequestError, match="needs a budget"):
        FitMemory().run(ctx)


@needs_tensorrt
def test_a_model_too_large_for_one_engine_becomes_a_chain(tmp_path: Path) -> None:
    model = hourglass()
    whole = Requirements(total_memory=ByteSize(1))
    ctx = Context(model, tmp_path, Request("m.onnx", require=whole))
    FitMemory(attempts=("split",), most_parts=2).run(ctx)
    chain = ctx.get(Chain)
    assert [part.engine is not None and part.engine.path.is_file() for part in chain.parts] == [
        True, True,
    ]  # fmt: skip
    assert chain.loading == "one"
    assert (tmp_path / "parts" / "chain.json").is_file()
    assert "split into 2 parts" in ctx.notes[-1].text
    assert len(missed(ctx)) == 1
