"""The memory plan: buffers never overlap, kernels are joined as TensorRT joins them, totals fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from conversion import needs_tensorrt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_jobs import build_memory
from onnx import numpy_helper
from trtforge_plugins.memory import PlanMemory
from trtforge_plugins.memory.placement import ALIGNMENT, Buffer, block_size, place
from trtforge_plugins.memory.prediction import WORKSPACE, predict

from trtforge import (
    ByteSize,
    Context,
    Engine,
    Memory,
    Request,
    Requirements,
    ShapeRange,
    StepError,
    check,
)
from trtforge.check_page import render
from trtforge.memory_picture import Level, columns
from trtforge.memory_plan import MemoryPlan, describe
from trtforge.verdict import missed

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
buffers = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 9), st.integers(0, 5000)).map(
        lambda t: Buffer(t[0], t[2], t[0] + t[1])
    ),
    max_size=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(buffers)
def test_buffers_that_live_together_never_overlap(given_buffers: list[Buffer]) -> None:
    placed = place(given_buffers)
    assert sorted(each.buffer for each in placed) == sorted(given_buffers)
    for index, one in enumerate(placed):
        for other in placed[:index]:
            together = max(one.buffer.first, other.buffer.first) <= min(
                one.buffer.last, other.buffer.last
            )
            apart = one.end <= other.offset or other.end <= one.offset
            assert apart or not together or not one.buffer.size or not other.buffer.size


@pytest.mark.parametrize(("second", "beside"), [("x", 2), ("a", 0)])
def test_kernels_that_could_run_beside_others_are_told(second: str, beside: int) -> None:
    """TensorRT may run them on auxiliary streams, and then needs more than is predicted."""
    text = f"""{HEAD} g (float[1,4,8,8] x, float[4,4,1,1] v, float[4,4,1,1] w)
        => (float[1,4,8,8] a, float[1,4,8,8] b) {{ a = Conv (x, v) b = Conv ({second}, w) }}"""
    plan = predict(ir.from_onnx_text(text), {})
    assert plan.beside == beside
    told = " ".join(describe(plan))
    assert (f"{beside} library kernels could run beside others" in told) == bool(beside)
    assert ("max_aux_streams: 0" in told) == bool(beside)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(buffers)
def test_the_block_holds_what_lives_at_any_step(given_buffers: list[Buffer]) -> None:
    size = block_size(place(given_buffers))
    for step in range(30):
        assert size >= sum(b.size for b in given_buffers if b.first <= step <= b.last)


def test_first_fit_leaves_the_gap_of_a_small_buffer_that_outlives_a_large_one() -> None:
    """As in a residual block: the shortcut stays, two narrow tensors take turns between."""
    kib = 1024
    shortcut, narrow = Buffer(0, 64 * kib, 3), Buffer(1, 16 * kib, 2)
    other, result = Buffer(2, 16 * kib, 3), Buffer(3, 64 * kib, 4)
    assert block_size(place([shortcut, narrow, other, result])) == 160 * kib


def model(body: str, weights: str = "") -> ir.Model:
    text = f"{HEAD} g (float[8, 64, 64, 64] x) => (float[n, c, h, w] y) {weights} {{ {body} }}"
    return ir.from_proto(onnx.parser.parse_model(text))


def names(plan: MemoryPlan) -> list[str]:
    return [moment.title for moment in plan.timeline]


TENSOR = 8 * 64 * 64 * 64 * 4  # bytes of x


def test_arithmetic_is_one_kernel_and_stores_nothing() -> None:
    plan = predict(model("a = Sigmoid (x) b = Mul (a, x) y = Exp (b)"), {})
    assert names(plan) == ["Sigmoid+Mul+Exp"]
    assert plan.activation == 0


def test_an_activation_joins_the_convolution_before_it() -> None:
    body = """w = ConstantOfShape <value = float[1] {0.5}> (s) a = Conv (x, w) b = Relu (a)
        c = Conv (b, w) y = Relu (c)"""
    plan = predict(model(body, "<int64[4] s = {64, 64, 1, 1}>"), {})
    assert names(plan) == ["Conv", "Conv"]
    assert plan.activation == 2 * TENSOR + WORKSPACE  # x with its channels last, and b


def test_a_tensor_that_is_read_late_is_kept_until_then() -> None:
    body = "a = MaxPool <kernel_shape = [1, 1]> (x) b = MaxPool <kernel_shape = [1, 1]> (a)"
    short = predict(model(f"{body} y = MaxPool <kernel_shape = [1, 1]> (b)"), {})
    kept = predict(model(f"{body} c = MaxPool <kernel_shape = [1, 1]> (b) y = Add (a, c)"), {})
    assert short.activation == 2 * TENSOR
    assert kept.activation == 3 * TENSOR
    assert kept.peak is not None
    assert dict(kept.peak.tensors) == {"a": TENSOR, "b": TENSOR, "c": TENSOR}


ATTENTION = """<ir_version: 10, opset_import: ["" : 20]>
    g (TYPE[2, 8, 512, 64] x) => (TYPE[2, 8, 512, 64] y)
    { q = MatMul (x, u) k = MatMul (x, v) z = MatMul (x, w)
      t = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, t) p = Softmax (s)
      a = MatMul (p, z) y = MatMul (a, o) }"""


def attention(dtype: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(ATTENTION.replace("TYPE", dtype))
    random = np.random.default_rng(0)
    kind = np.float16 if dtype == "float16" else np.float32
    arrays = {name: random.standard_normal((64, 64)).astype(kind) for name in "uvwo"}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model


@pytest.mark.parametrize(("dtype", "stored"), [("float", True), ("float16", False)])
def test_scores_of_attention_are_stored_in_float32_only(dtype: str, stored: bool) -> None:
    plan = predict(ir.from_proto(attention(dtype)), {})
    assert any(name == "s" for moment in plan.timeline for name, _ in moment.tensors) == stored


@needs_tensorrt
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_attention_needs_what_tensorrt_reports(dtype: str, tmp_path: Path) -> None:
    proto = attention(dtype)
    found = build_memory(proto, tmp_path)["activation"]
    plan = predict(ir.from_proto(proto), {})
    assert abs(plan.activation - found) <= 0.2 * found  # the bound that docs/memory.md states


@needs_tensorrt
def test_an_image_is_copied_so_that_its_channels_come_last(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[2, 3, 512, 512] x, float[16, 3, 3, 3] w) => (float[2, 16, n, m] y)
        {{ c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
          y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) }}"""
    proto = onnx.parser.parse_model(text)
    plan = predict(ir.from_proto(proto), {})
    image, convolved = 2 * 3 * 512 * 512 * 4, 2 * 16 * 256 * 256 * 4
    assert dict(plan.timeline[0].tensors) == {"x, channels last": image, "c": convolved}
    assert plan.activation == image + convolved + WORKSPACE
    found = build_memory(proto, tmp_path)["activation"]
    assert abs(plan.activation - found) <= 0.001 * found  # the filter is an input, and turned, too


@needs_tensorrt
def test_a_convolution_that_gives_the_result_writes_it_twice(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[8, 64, 64, 64] x, float[64, 64, 1, 1] w) => (float[8, 64, 64, 64] y)
        {{ c = Conv (x, w) y = Relu (c) }}"""
    proto = onnx.parser.parse_model(text)
    plan = predict(ir.from_proto(proto), {})
    assert plan.activation == 2 * TENSOR + WORKSPACE
    found = build_memory(proto, tmp_path)["activation"]
    assert abs(plan.activation - found) <= 0.001 * found  # the filter is an input, and turned, too


FEED_FORWARD = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[SHAPE, 96] x) => (float[SHAPE, 96] y)
    { m = MatMul (x, w) a = Add (m, b) h = Gelu (a) y = MatMul (h, v) }"""


def feed_forward(shape: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(FEED_FORWARD.replace("SHAPE", shape))
    random = np.random.default_rng(0)
    for name, dims in (("w", (96, 384)), ("b", (384,)), ("v", (384, 96))):
        array = random.standard_normal(dims).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@needs_tensorrt
@pytest.mark.parametrize(
    ("shape", "stored"),
    [("4, 4096", False), ("1, 256, 64", False), ("4, 64, 64", True), ("4, 1, 4096", True)],
)
def test_a_bias_behind_a_product_of_four_dimensions_is_a_kernel_of_its_own(
    shape: str, stored: bool, tmp_path: Path
) -> None:
    """So the tensor is stored before and after the activation: twice the memory, as in Swin."""
    proto = feed_forward(shape)
    plan = predict(ir.from_proto(proto), {})
    wide = 4 * 4096 * 384 * 4
    assert plan.activation == (2 * wide if stored else wide + WORKSPACE)
    found = build_memory(proto, tmp_path)["activation"]
    assert abs(plan.activation - found) <= 0.2 * found  # the bound that docs/memory.md states


PARTS = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[6, 64, 64, 96] x, float16[96, 96] w) => (float16[64, 64, 96] y)
    <int64 n0 = {0}, int64 n1 = {1}, int64 n2 = {2}, int64 n3 = {3}, int64 n4 = {4}, int64 n5 = {5}>
    { c = Cast <to = 10> (x)
      p0 = Gather (c, n0) p1 = Gather (c, n1) p2 = Gather (c, n2)
      p3 = Gather (c, n3) p4 = Gather (c, n4) p5 = Gather (c, n5)
      m0 = MatMul (p0, w) a0 = Add (m0, p1) m1 = MatMul (a0, w) a1 = Add (m1, p2)
      m2 = MatMul (a1, w) a2 = Add (m2, p3) m3 = MatMul (a2, w) a3 = Add (m3, p4)
      m4 = MatMul (a3, w) y = Add (m4, p5) }"""


@needs_tensorrt
def test_of_what_only_parts_are_read_the_whole_is_never_stored(tmp_path: Path) -> None:
    """Each part is let go after its reader, as those of a cache of all layers."""
    proto = onnx.parser.parse_model(PARTS)
    plan = predict(ir.from_proto(proto), {})
    part = 64 * 64 * 96 * 2
    assert names(plan)[0] == "Cast+Gather"
    assert all(name != "c" for moment in plan.timeline for name, _ in moment.tensors)
    assert plan.activation == 7 * part + WORKSPACE  # all parts, and the first product
    found = build_memory(proto, tmp_path)["activation"]
    assert abs(plan.activation - found) <= 0.2 * found  # the bound that docs/memory.md states


NARROW = f"""{HEAD} g (float[n, 1024] x) => (float[n, 1024] y) {{
    one = Constant <value_ints = [1]> () a = Softmax (x) u = Unsqueeze (a, one)
    p = MaxPool <kernel_shape = [1]> (u) y = Squeeze (p, one) }}"""


def planned(folder: Path, **require: ByteSize) -> Context:
    """A context after the step, for batches of 1 to 256."""
    shape = ShapeRange.read({"min": "1x1024", "opt": "4x1024", "max": "256x1024"})
    request = Request("test", ({"x": shape},), require=Requirements(**require))
    ctx = Context(ir.from_proto(onnx.parser.parse_model(NARROW)), folder, request)
    PlanMemory().run(ctx)
    return ctx


def test_the_step_plans_the_largest_shapes_and_warns_of_a_budget(tmp_path: Path) -> None:
    ctx = planned(tmp_path, activation_memory=ByteSize(1000), total_memory=ByteSize("1GiB"))
    assert ctx.get(MemoryPlan).activation == 256 * 1024 * 4
    warnings = [note.text for note in ctx.notes if "above" in note.text]
    assert warnings == ["the predicted activation memory is above the required 1000B"]


def test_a_prediction_meets_no_requirement(tmp_path: Path) -> None:
    ctx = planned(tmp_path, activation_memory=ByteSize("1GiB"))
    assert missed(ctx) == [
        "activation memory was required to be at most 1GiB but never measured (predicted: 1MiB)"
    ]


def test_the_verdict_rests_on_what_tensorrt_reports(tmp_path: Path) -> None:
    ctx = planned(tmp_path, activation_memory=ByteSize("2MiB"), total_memory=ByteSize("4MiB"))
    memory = Memory(activation=3 * 2**20, weights=2**20, device_persistent=1024)
    ctx.put(Engine(tmp_path / "e", "tensorrt_rtx", "1", (), 1, 1.0, memory))
    assert missed(ctx) == [
        "activation memory is 3MiB, over the required 2MiB",
        "total memory is 4.00MiB, over the required 4MiB",
    ]


@needs_tensorrt
def test_check_plans_the_memory_and_draws_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.parser.parse_model(NARROW.replace(" a =", " a_1 =").replace("(a,", "(a_1,")), path
    )
    found = check(path, memory=True, shapes={"x": "256x1024"})
    assert found.memory is not None
    assert found.memory.activation == 256 * 1024 * 4
    page = render(found)
    assert "predicted for x 256x1024: activations 1MiB" in page
    assert "memory in use over" in page
    assert check(path).memory is None


@needs_tensorrt
def test_check_says_which_shape_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(NARROW), path)
    found = check(path, memory=True)
    assert found.memory is None
    assert "'x'" in found.memory_problem
    assert "give the shape of every dynamic input" in found.memory_problem
    assert found.memory_problem in render(found).replace("&#39;", "'")


def test_a_picture_of_many_kernels_keeps_the_highest_and_escapes_names() -> None:
    levels = [Level(1, "low")] * 3000 + [Level(2**20, "<b>high</b>")] + [Level(1, "low")] * 999
    picture = columns(levels, limit=2**19)
    assert picture.count("<path class") < 1100
    assert "&lt;b&gt;high" in picture
    assert "peak 1MiB" in picture
    assert "required 512KiB" in picture


def test_a_size_that_only_the_data_say_is_refused_by_name() -> None:
    text = f"{HEAD} g (float[4] x) => (int64[1, n] y) {{ a = NonZero (x) y = Identity (a) }}"
    with pytest.raises(StepError, match="stays unknown"):
        predict(ir.from_proto(onnx.parser.parse_model(text)), {})


def test_sizes_are_aligned() -> None:
    assert block_size(place([Buffer(0, 1, 1)])) == ALIGNMENT
