"""cast on models that leave float16's range: what is kept, on which evidence, with which Casts.

The patterns are those of real networks. Each is proved under ONNX Runtime, which rounds where the
model rounds: plain float16 breaks the result, the mixed model keeps it.
"""

from itertools import combinations
from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from layer_dumps import HAVE_TENSORRT, build_dumps, fixed_batch
from trtforge_plugins.engine_layers import parse_layers
from trtforge_plugins.macs import heavy_nodes
from trtforge_plugins.precision import half_range, magnitudes
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.prove_precision import asked_types, prove

from trtforge import Batches, CastTo, Context, Range, Ranges, Request, StepError
from trtforge.reference import Reference

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
RANDOM = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (RANDOM.standard_normal(shape) * scale).astype(np.float32)


def context(text, *feeds):
    ctx = Context(ir.from_proto(models.parse(HEADER + text)), Path(), Request("m"))
    if feeds:
        ctx.put(Batches(feeds, "test"))
    return ctx


def cast(text, *feeds, **options):
    """The context after cast, measured on ``feeds`` where there are some."""
    ctx = context(text, *feeds)
    Cast(measure=bool(feeds), **options).run(ctx)
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=True)
    return ctx


def kept(ctx):
    return dict(ctx.get(CastTo).kept)


def casts(ctx):
    return [node for node in ctx.model.graph.all_nodes() if node.op_type == "Cast"]


def error(text, ctx, feed):
    """Largest relative error (L2) of any output against float32; Inf where it is not finite."""
    right, found = Reference(context(text).model).run(feed), Reference(ctx.model).run(feed)
    worst = 0.0
    for name, expected in right.items():
        if not np.isfinite(found[name]).all():
            return float("inf")
        worst = max(worst, np.linalg.norm(found[name] - expected) / np.linalg.norm(expected))
    return worst


RMS_NORM = """
m (float[N,64] x) => (float[N,32] y)
<float[64,64] w, float[1] two = {2.0}, float[1] e = {1e-6}, int64[1] last = {-1}, float[64,32] v>
{ [up] a = MatMul (x, w) [square] b = Pow (a, two) [mean] c = ReduceMean <keepdims=1> (b, last)
  [eps] d = Add (c, e) [root] f = Sqrt (d) [norm] g = Div (a, f) [down] y = MatMul (g, v) }"""
LARGE_LOGITS = """
m (float[N,64] x) => (float[N,32] y) <float[64,32] w, float[1] s = {3000.0}, float[32,32] v>
{ [head] a = MatMul (x, w) [scale] b = Mul (a, s) [soft] c = Softmax (b)
  [out] y = MatMul (c, v) }"""
# The feed-forward part of T5: its second product and the residual stream overflow, the norm behind
# them brings the values back.
T5 = """
m (float[N,64] x) => (float[N,64] y)
<float[64,64] wi, float[64,64] wo, float[1] s = {400.0}, float[64] one,
 float[64] zero, float[64,64] v>
{ [wi] a = MatMul (x, wi) [relu] b = Relu (a) [big] c = Mul (b, s) [wo] d = MatMul (c, wo)
  [residual] f = Add (d, x) [norm] g = LayerNormalization <axis=-1> (f, one, zero)
  [next] y = MatMul (g, v) }"""
DISTANCE = """
m (float[N,64] x) => (float[N,1] y) <float[64,64] w, int64[1] last = {-1}, float[1,1] v>
{ [up] a = MatMul (x, w) [far] b = ReduceL2 <keepdims=1> (a, last) [down] y = MatMul (b, v) }"""
VARIANCE = """
m (float[N,64] x) => (float[N,32] y) <float[64,64] w, float[64,32] v, int64[1] last = {-1}>
{ [up] a = MatMul (x, w) [square] b = Mul (a, a) [mean] c = ReduceMean <keepdims=1> (b, last)
  [root] d = Sqrt (c) [norm] g = Div (a, d) [down] y = MatMul (g, v) }"""
FEEDS = {
    "rms-norm": (RMS_NORM, normal(8, 64, scale=400)),
    "logits": (LARGE_LOGITS, normal(8, 64, scale=40)),
    "t5": (T5, normal(8, 64, scale=400)),
    "distance": (DISTANCE, normal(8, 64, scale=300)),
    "variance": (VARIANCE, normal(8, 64, scale=2e-5)),
}
KEPT = {
    "rms-norm": {"square": "its output 'b' reached", "mean": "its output 'c' reached"},
    "logits": {"scale": "its output 'b' reached", "soft": "its input 'b' reached"},
    "t5": {
        "wo": "its output 'd' reached", "residual": "its output 'f' reached",
        "norm": "its input 'f' reached",
    },
    "distance": {"far": "the squares that it sums reached"},
    "variance": {"square": "its output 'b' is too small", "mean": "its output 'c' is too small"},
}  # fmt: skip


@pytest.mark.parametrize("name", FEEDS)
def test_what_overflows_stays_in_float32_with_the_evidence(name):
    text, x = FEEDS[name]
    feed = {"x": x}
    plain, mixed = cast(text), cast(text, feed)
    for node, reason in KEPT[name].items():
        assert reason in kept(mixed)[node], kept(mixed)
    if name != "distance":  # whose squares are inside the operator
        assert error(text, plain, feed) > 0.05
    assert error(text, mixed, feed) < 5e-3
    heavy = {node.name for node in mixed.model.graph if node.op_type == "MatMul"}
    assert heavy - set(kept(mixed)) == heavy - {"wo"}


def test_the_reason_names_tensor_magnitude_and_limit():
    ctx = context("m (float[N,2] x) => (float[N,2] y) <float[2,2] w> { [p] y = MatMul (x, w) }")
    ctx.put(Ranges({"x": Range(-7e4, 3.0)}, "max", 1, "test"))
    Cast().run(ctx)
    assert kept(ctx) == {"p": "its input 'x' reached 7e+04; float16 ends at 65504"}
    assert ctx.get(CastTo).measured == 1
    ctx.put(Ranges({"x": Range(-4e4, 3.0)}, "max", 1, "test"))
    ctx.model = context(
        "m (float[N,2] x) => (float[N,2] y) <float[2,2] w> { [p] y = MatMul (x, w) }"
    ).model
    Cast().run(ctx)
    assert kept(ctx) == {
        "p": "its input 'x' reached 4e+04, more than 1/2 of float16's largest 65504"
    }


def test_bfloat16_has_the_range_of_float32():
    assert kept(cast(T5, {"x": normal(4, 64, scale=400)}, to="bfloat16")) == {}


MASKED = """
m (float[N,8] x, int64[N,8] mask) => (float[N,8] y)
<float[8,8] w, float one = {{1.0}}, float low = {{{low}}}>
{{ [score] s = MatMul (x, w) [f] f = Cast <to=1> (mask) [i] i = Sub (one, f) [m] m = Mul (i, low)
   [mask] a = Add (s, m) [soft] p = Softmax (a) [out] y = MatMul (p, w) }}"""


@pytest.mark.parametrize("low", [-1e9, -10000.0, float(np.finfo(np.float32).min)])
def test_an_attention_mask_leaves_softmax_in_float16(low):
    text = MASKED.format(low=low)
    mask = np.tril(np.ones((8, 8), np.int64))
    mask[3] = 0  # a row that is masked everywhere
    feed = {"x": normal(8, 8), "mask": mask}
    ctx = cast(text, feed)
    assert set(kept(ctx)) <= {"i", "m"}
    assert np.isfinite(Reference(ctx.model).run(feed)["y"]).all()
    rows = [row for row in range(8) if row != 3]
    right = Reference(context(text).model).run(feed)["y"][rows]
    np.testing.assert_allclose(Reference(ctx.model).run(feed)["y"][rows], right, atol=5e-3)


ROPE = """
m (int64[N] position, float[N,8] x) => (float[N,8] y)
<float[1,4] frequency = {1.0, 0.1, 0.01, 0.001}, int64[1] last = {-1}, float[8,8] w>
{ [f] f = Cast <to=1> (position) [column] c = Unsqueeze (f, last)
  [angle] a = MatMul (c, frequency) [wide] b = Concat <axis=-1> (a, a) [cos] d = Cos (b)
  [score] s = MatMul (x, w) [turn] y = Mul (s, d) }"""
TIME_STEP = """
m (float[N,1] t) => (float[N,4] y) <float[1,4] frequency = {1.0, 0.1, 0.01, 0.001}, float[4,4] w>
{ [angle] a = Mul (t, frequency) [sin] s = Sin (a) [next] y = MatMul (s, w) }"""


def test_angles_keep_their_bits():
    """A position of 3001 is 3000 or 3002 in float16: another cosine."""
    feed = {"position": np.int64([5, 999, 3001]), "x": normal(3, 8)}
    ctx = cast(ROPE)
    assert {"angle", "wide", "cos"} <= set(kept(ctx))
    assert "score" not in kept(ctx)
    assert error(ROPE, ctx, feed) < 2e-3
    time = cast(TIME_STEP)
    assert set(kept(time)) == {"angle", "sin"}
    assert error(TIME_STEP, time, {"t": np.float32([[981.0], [517.3]])}) < 2e-3


def test_an_angle_that_the_network_computes_is_an_activation():
    ctx = cast("""
        m (float[N,4] x) => (float[N,4] y) <float[4,4] w>
        { [up] a = Tanh (x) [sin] b = Sin (a) [down] y = MatMul (b, w) }""")
    assert kept(ctx) == {}


def test_no_data_to_measure_on():
    with pytest.raises(StepError, match=r"no data to measure on\n.*load-data before cast"):
        Cast(measure=True).run(context(T5))
    with pytest.raises(StepError, match=r"headroom is 0\.5"):
        Cast(headroom=0.5).run(context(T5))
    with pytest.raises(StepError, match="headroom is nan"):
        Cast(headroom=float("nan")).run(context(T5))


def test_an_interface_that_does_not_fit_is_told():
    text = "m (float[N,2] x) => (float[N,2] y) <float[2,2] w> { [p] y = MatMul (x, w) }"
    ctx = cast(text, {"x": np.full((1, 2), 1e6, np.float32)}, keep_io=False)
    assert "'x' reached 1e+06; float16 ends at 65504: leave keep_io on" in {
        note.text for note in ctx.notes
    }


def test_a_weight_tells_what_it_loses_to_underflow():
    weight = np.ones(100, np.float32)
    weight[:10], weight[10:30] = 1e-9, 1e-6
    assert half_range.underflow(weight) == (0.1, 0.2)
    assert half_range.underflow(np.zeros(4, np.float32)) == (0.0, 0.0)
    ctx = context("m (float[N,100] x) => (float[N,100] y) <float[100] w> { [m] y = Mul (x, w) }")
    ctx.model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    Cast().run(ctx)
    told = "in float16 10.0% of its entries are 0 and 20.0% denormal"
    assert [(note.node, note.text) for note in ctx.notes] == [
        ("w", f"{told}; that is less than 0.1 % of its norm")
    ]


@pytest.mark.skipif(
    not HAVE_TENSORRT, reason="not run: no TensorRT-RTX here (pip install tensorrt-rtx)"
)
@pytest.mark.parametrize("name", ["rms-norm", "t5"])
def test_tensorrt_runs_each_product_in_the_type_that_cast_gave_it(name):
    text, x = FEEDS[name]
    ctx = Context(ir.from_proto(fixed_batch(models.parse(HEADER + text), 8)), Path(), Request("m"))
    ctx.put(Batches(({"x": x},), "test"))
    Cast(measure=True).run(ctx)
    heavy = heavy_nodes(ctx.model)
    asked = asked_types([each.node for each in heavy], None, ctx.get(CastTo))
    dumps = build_dumps({"m": (ir.to_proto(ctx.model), ("SM86",))})
    proof = prove(heavy, parse_layers(dumps["m"]), asked)
    assert proof.holds, (proof.deviations, proof.unknown)
    types = {share.dtype: set(share.nodes) for share in proof.shares}
    products = {each.node.name for each in heavy}
    assert types["float16"] == products - set(kept(ctx))
    assert types.get("float32", set()) == products & set(kept(ctx))


# Magnitudes


EDGES = [0.0, 2.0**-25, 2.0**-24, 2.0**-14, 1.0, 65504.0, 65520.0, 1e30, np.inf, np.nan]
FLOATS = st.floats(width=32) | st.sampled_from(EDGES) | st.floats(0, 2.0**-12, width=32)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(arrays(np.float32, (3, 4), elements=FLOATS), min_size=1, max_size=3))
def test_magnitudes_are_those_of_numpy(batches):
    ctx = context("m (float[N,4] x) => (float[N,4] y) { [a] y = Neg (x) }")
    feeds = Batches(tuple({"x": batch} for batch in batches), "test")
    found = magnitudes.measure(ctx.model, element_types(ctx.model), feeds, ctx)
    size = np.abs(np.concatenate(batches).astype(np.float64))
    size = size[np.isfinite(size)]
    for seen in (found["x"], found["y"]):
        assert seen.largest == size.max(initial=0)
        with np.errstate(over="ignore"):
            low = size.astype(np.float16)
        if seen.nonzeros:  # looked at closely: the first run saw Inf, NaN or a small mean
            assert seen.nonzeros == np.count_nonzero(size)
            assert seen.flushed == np.count_nonzero((low == 0) & (size > 0))
            assert seen.denormals == np.count_nonzero((size < 2.0**-14) & (size > 0))
        elif size.size and size.sum():
            loss = np.abs(np.minimum(size, 65504) - np.minimum(low.astype(float), 65504))
            assert loss[size < 2.0**-14].sum() <= 1.01 * half_range.LOST * size.sum()


def test_what_moves_data_has_the_magnitudes_of_its_inputs():
    ctx = context("""
        m (float[2,3] x, int64[1] i) => (float[3,4] y, float[1,3] z) <float[9,3] table>
        { a = Exp (x) b = Transpose (a) y = Concat <axis=1> (b, b) z = Gather (table, i) }""")
    feed = {"x": np.full((2, 3), 3, np.float32), "i": np.int64([1])}
    found = magnitudes.measure(ctx.model, element_types(ctx.model), Batches((feed,), "test"), ctx)
    assert found["b"] == found["a"]
    assert found["y"].largest == found["a"].largest
    assert found["z"].largest < 5  # the row that was looked up, not the whole table


def test_measuring_leaves_the_model_as_it_is():
    ctx = context(T5)
    before = ir.to_proto(ctx.model).SerializeToString()
    feeds = Batches(({"x": normal(2, 64)},), "test")
    magnitudes.measure(ctx.model, element_types(ctx.model), feeds, ctx)
    assert ir.to_proto(ctx.model).SerializeToString() == before


# Fewest Casts


def chains():
    """Graphs of light nodes between products, some of the nodes named to stay in float32."""
    return st.lists(st.sampled_from(["Neg", "Abs", "Exp*", "MatMul", "Add", "Sin*"]), max_size=6)


def chain(ops):
    body, last, names = [], "x", []
    for number, op in enumerate(ops):
        name = f"n{number}"
        if op.endswith("*"):
            names.append(name)
        second = {"MatMul": ", w", "Add": f", v{number - 2}" if number >= 2 else ", x"}.get(op, "")
        body.append(f"[{name}] v{number} = {op.rstrip('*')} ({last}{second})")
        last = f"v{number}"
    body.append(f"[end] y = MatMul ({last}, w)")
    text = "m (float[4,4] x) => (float[4,4] y) <float[4,4] w> { " + " ".join(body) + " }"
    return text, tuple(names)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(chains())
def test_no_other_choice_of_light_nodes_has_fewer_casts(ops):
    text, names = chain(ops)
    ours = cast(text, keep=names) if names else None
    if ours is None:
        return
    light = [f"n{i}" for i, op in enumerate(ops) if op in ("Neg", "Abs", "Add")]
    choices = [c for size in range(len(light) + 1) for c in combinations(light, size)]
    fewest = min(len(casts(cast(text, keep=(*names, *choice)))) for choice in choices)
    assert len(casts(ours)) == fewest
    assert ours.get(CastTo).casts_after == fewest


def test_there_is_no_cast_pair_between_two_kept_nodes():
    ctx = cast(
        """
        m (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] g>
        { [a] a = MatMul (x, w) [one] b = Exp (a) [scale] c = Mul (b, g) [move] d = Transpose (c)
          [two] e = Log (d) [z] y = MatMul (e, w) }""",
        keep=("one", "two"),
    )
    assert len(casts(ctx)) == 4  # x, a, e, y
    assert kept(ctx)["scale"] == "between nodes that stay in float32 it saves Casts"


def test_a_cast_of_the_lower_type_between_heavy_nodes_is_not_saved_by_float32_products():
    ctx = cast(
        """
        m (float[N,4] x) => (float[N,4] y) <float[4,4] w>
        { [a] a = MatMul (x, w) [one] b = Exp (a) [p] c = MatMul (b, w) [two] d = Exp (c)
          [z] y = MatMul (d, w) }""",
        keep=("one", "two"),
    )
    assert set(kept(ctx)) == {"one", "two"}


# Q/DQ


QDQ = """
m (float[N,32] x) => (float[N,32] y) <float[32,32] w>
{ [p] y = MatMul (x, w) }"""


def quantized(amax):
    ctx = context(QDQ)
    ctx.put(Ranges({"x": Range(-amax, amax)}, "max", 1, "test"))
    InsertQDQ().run(ctx)
    del ctx.artifacts[Ranges]
    return ctx


@pytest.mark.parametrize(
    ("amax", "reason"),
    [
        (1.0, None),
        (4e4, None),  # x cannot get larger: it is clipped
        (1e5, "its input 'x_DequantizeLinear' reached 1.008e+05; float16 ends at 65504"),
        (1e9, "its input 'x_DequantizeLinear' reached 1.008e+09; float16 ends at 65504"),
        (1e-7, "'x_DequantizeLinear' is too small: its largest value 1.01e-07 is denormal"),
    ],
)
def test_a_scale_tells_the_range_of_what_it_makes(amax, reason):
    ctx = quantized(amax)
    Cast().run(ctx)
    assert (reason or "") in kept(ctx).get("p", "")
    assert bool(reason) == ("p" in kept(ctx))
    x = normal(4, 32, scale=amax / 3)
    right, found = (Reference(m).run({"x": x})["y"] for m in (context(QDQ).model, ctx.model))
    # INT8 over a range of three deviations leaves a signal some 30 dB (3 %) above its noise.
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
@pytest.mark.parametrize("amax", [1.0, 2e-3, 3.3e-4])
def test_quantizing_and_dequantizing_use_the_same_scale(amax, to):
    """The scale of QuantizeLinear stays float32, but with the value that the lower type has."""
    ctx = quantized(amax)
    Cast(to=to).run(ctx)
    nodes = {node.op_type: node for node in ctx.model.graph if node.name.startswith("x_")}
    up, down = (
        nodes[kind].inputs[1].const_value.numpy() for kind in ("QuantizeLinear", "DequantizeLinear")
    )
    assert (up.dtype.name, down.dtype.name) == ("float32", to)
    assert float(up) == float(down) >= np.float32(amax / 127)
