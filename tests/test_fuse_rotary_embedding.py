"""fuse-rotary-embedding: both layouts as exporters write them, and why one is left alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseRotaryEmbedding

from trtforge.testing import apply, check_pass

X = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
ANGLES = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
# The same products and sums; a difference in place of the sum with the negated is the same, too.
EXACT = {"rtol": 0.0, "atol": 0.0}
# ONNX Runtime's cosine of a number is a float32 step apart by the number's place in its tensor, and
# the fused tables are half as long: such a step of two factors, times values of up to four.
COSINE_STEP = {"rtol": 0.0, "atol": 2 * 4 * 2.0**-23}
BOUNDS = """
    int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4},
    int64[1] end = {9223372036854775807}, int64[1] last = {-1}, int64[1] behind = {4},
    int64[2] front = {0, 1}, int64[4] pairs = {1, 1, 5, 4}, int64[5] twice = {1, 1, 1, 1, 2}
"""
DOUBLED = "float[1, 1, 5, 4] c, float[1, 1, 5, 4] s"


def model(body: str, opset: int = 18, known: str = DOUBLED, x: str = "[2, 3, 5, 4]") -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        main (float{x} x, float[5, 2] angles) => (float{x} y) <{known}, {BOUNDS}> {{ {body} }}
    """


TABLES = """
    emb = Concat <axis = -1> (angles, angles)
    cos = Cos (emb) sin = Sin (emb)
    c = Unsqueeze (cos, front) s = Unsqueeze (sin, front)
"""
HALVES = "a = Slice (x, zero, two, last) b = Slice (x, two, end, last)"
TURN = (
    "nb = Neg (b) t = Concat <axis = -1> (nb, a) xc = Mul (x, c) ts = Mul (t, s) y = Add (xc, ts)"
)
LLAMA = TABLES + HALVES + TURN
SPLIT = TABLES + "a, b = Split <axis = 3, num_outputs = 2> (x)" + TURN.replace("= -1", "= 3")
EACH_HALF = f"""
    cos = Cos (angles) sin = Sin (angles) {HALVES}
    ac = Mul (a, cos) bs = Mul (b, sin) bc = Mul (cos, b) as_ = Mul (a, sin)
    l = Sub (ac, bs) r = Add (bc, as_) y = Concat <axis = -1> (l, r)
"""
PAIR_TABLES = """
    cos = Cos (angles) sin = Sin (angles) c0 = Unsqueeze (cos, front) s0 = Unsqueeze (sin, front)
    c1 = Unsqueeze (c0, behind) s1 = Unsqueeze (s0, behind)
    c2 = Expand (c1, twice) s2 = Tile (s1, twice)
    c = Reshape (c2, pairs) s = Reshape (s2, pairs)
"""
PAIRS_KNOWN = f"{DOUBLED}, float[1, 1, 5, 2, 1] c1, float[1, 1, 5, 2, 1] s1, "
PAIRS_KNOWN += "float[1, 1, 5, 2, 2] c2, float[1, 1, 5, 2, 2] s2, float[2, 3, 5, 4] t"
GPTJ = f"""
    {PAIR_TABLES}
    a = Slice (x, zero, end, last, two) b = Slice (x, one, end, last, two) nb = Neg (b)
    ua = Unsqueeze (a, last) ub = Unsqueeze (nb, behind) st = Concat <axis = -1> (ub, ua)
    shape = Shape (x) t = Reshape (st, shape) xc = Mul (x, c) ts = Mul (t, s) y = Add (ts, xc)
"""


def call(model: ir.Model) -> ir.Node:
    (node,) = [node for node in model.graph if node.domain == "trtforge"]
    return node


@pytest.mark.parametrize(
    ("text", "interleaved"),
    [
        (model(LLAMA), 0),
        (model(SPLIT), 0),
        (model(EACH_HALF, known="float[5, 2] cos, float[5, 2] sin"), 0),
        (model(GPTJ, known=PAIRS_KNOWN), 1),
    ],
    ids=["llama", "split", "each half", "gpt-j"],
)
def test_each_form_is_fused(text: str, interleaved: int) -> None:
    feeds = {"x": X, "angles": ANGLES}
    after = check_pass(FuseRotaryEmbedding(), text, feeds, changes=1, **EXACT)
    node = call(after)
    assert node.attributes["interleaved"].value == interleaved
    assert node.attributes["heads_last"].value == 0
    shapes = [tuple(value.shape or ()) for value in node.inputs if value is not None]
    assert shapes == [(2, 3, 5, 4), (5, 2), (5, 2)]
    assert "Neg" not in {node.op_type for node in after.graph}


def test_positions_may_be_in_front_of_heads() -> None:
    body = LLAMA.replace("(cos, front)", "(cos, ends)").replace("(sin, front)", "(sin, ends)")
    known = "float[1, 3, 1, 4] c, float[1, 3, 1, 4] s, int64[2] ends = {0, 2}"
    text = model(body, known=known).replace("float[5, 2] angles", "float[3, 2] angles")
    feeds = {"x": X, "angles": ANGLES[:3]}
    after = check_pass(FuseRotaryEmbedding(), text, feeds, changes=1, **EXACT)
    assert call(after).attributes["heads_last"].value == 1


def test_queries_and_keys_share_their_tables() -> None:
    body = (
        LLAMA.replace("y =", "q =")
        + """
        a2 = Slice (q, zero, two, last) b2 = Slice (q, two, end, last) nb2 = Neg (b2)
        t2 = Concat <axis = -1> (nb2, a2) qc = Mul (q, c) ts2 = Mul (t2, s) y = Add (qc, ts2)
    """
    )
    text = model(body, known=f"{DOUBLED}, float[2, 3, 5, 4] q")
    feeds = {"x": X, "angles": ANGLES}
    after = check_pass(FuseRotaryEmbedding(), text, feeds, changes=2, **EXACT)
    first, second = [node for node in after.graph if node.domain == "trtforge"]
    assert list(first.inputs)[1:] == list(second.inputs)[1:]


def test_constant_tables_are_cut() -> None:
    values = np.concatenate([ANGLES, ANGLES], axis=-1).reshape(-1)
    numbers = ", ".join(f"{value:.4f}" for value in values)
    known = f"float[5, 4] c = {{{numbers}}}, float[5, 4] s = {{{numbers}}}"
    text = model(HALVES + TURN, known=known)
    feeds = {"x": X, "angles": ANGLES}
    after = check_pass(FuseRotaryEmbedding(), text, feeds, changes=1, **EXACT)
    assert [value.name for value in call(after).inputs if value] == ["x", "c_pairs", "s_pairs"]


OTHER_TABLES = TABLES.replace("(angles, angles)", "(angles, more)").replace(
    "emb =", "more = Neg (angles) emb ="
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(OTHER_TABLES + HALVES + TURN), "two numbers of each pair in 'c' are not known"),
        (model(LLAMA, known="float[2, 1, 5, 4] c, float[2, 1, 5, 4] s"), "the same for all samp"),
        (model(LLAMA, known="float[1, 3, 5, 4] c, float[1, 3, 5, 4] s"), "one row per position"),
        (model(LLAMA, known="float[N, 1, 5, 4] c, float[N, 1, 5, 4] s"), "the same for all samp"),
        (model(LLAMA, known="float[1, 1, P, 4] c, float[1, 1, P, 4] s"), "one row per position"),
        (model(LLAMA, known="float unused"), "the shape of 'c' is not known"),
        (model(LLAMA.replace("y =", "q =") + " y = Add (q, t)"), "'t' inside of it is used else"),
        (model(LLAMA.replace("<axis = -1> (nb", "<axis = 2> (nb")), "not the last axis"),
    ],
)
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    after, changes, notes = apply(FuseRotaryEmbedding(), text)
    assert changes == 0
    assert not after.functions
    assert [note for note in notes if reason in note.text], notes


@pytest.mark.parametrize(
    "almost",
    [
        LLAMA.replace("(nb, a)", "(a, nb)"),
        LLAMA.replace("Neg (b)", "Neg (a)").replace("(nb, a)", "(nb, b)"),
        LLAMA.replace("Mul (x, c)", "Mul (t, c)"),
        LLAMA.replace("(x, two, end, last)", "(x, one, end, last)"),
        EACH_HALF.replace("Sub (ac, bs)", "Sub (bs, ac)"),
    ],
)
def test_what_only_looks_like_one_is_not_touched(almost: str) -> None:
    known = "float[5, 2] cos, float[5, 2] sin" if "c = Un" not in almost else DOUBLED
    _, changes, notes = apply(FuseRotaryEmbedding(), model(almost, known=known))
    assert (changes, notes) == (0, [])


@settings(max_examples=20, deadline=None)
@given(
    form=st.sampled_from([LLAMA, EACH_HALF]), heads=st.integers(1, 3), positions=st.integers(1, 4),
    pairs=st.integers(1, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_value_gives_the_same(
    form: str, heads: int, positions: int, pairs: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    known = f"float[1, 1, {positions}, {2 * pairs}] c, float[1, 1, {positions}, {2 * pairs}] s"
    if form is EACH_HALF:
        known = f"float[{positions}, {pairs}] cos, float[{positions}, {pairs}] sin"
    text = model(form, known=known, x=f"[2, {heads}, {positions}, {2 * pairs}]")
    text = text.replace("[5, 2] angles", f"[{positions}, {pairs}] angles")
    text = text.replace("two = {2}", f"two = {{{pairs}}}")
    feeds = {
        "x": random.normal(size=(2, heads, positions, 2 * pairs)).astype(np.float32),
        "angles": random.normal(size=(positions, pairs)).astype(np.float32),
    }
    check_pass(FuseRotaryEmbedding(), text, feeds, changes=1, **COSINE_STEP)


@pytest.mark.parametrize("export", fusions.EXPORTERS)
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model]) -> None:
    """Queries turned as in LLaMA, with tables computed from positions, and as in GPT-J."""
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")

    class Turn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.tensor([1.0, 0.1]))

        def forward(self, x, positions):
            angles = positions[:, None] * self.frequencies[None]
            embedding = torch.cat((angles, angles), dim=-1)
            cos, sin = embedding.cos()[None, None], embedding.sin()[None, None]
            half = x.shape[-1] // 2
            turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
            x = x * cos + turned * sin
            cos, sin = (
                torch.repeat_interleave(each[None, None], 2, 3)
                for each in (angles.cos(), angles.sin())
            )
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
            return x * cos + turned * sin

    positions = np.arange(5, dtype=np.float32)
    exported = export(Turn(), (torch.rand(2, 3, 5, 4), torch.rand(5)))
    x, p = (str(value.name) for value in exported.graph.inputs)
    after = check_pass(FuseRotaryEmbedding(), exported, {x: X, p: positions}, changes=2, **EXACT)
    assert fusions.ops_of(after) == {"RotaryEmbedding": 2}


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, _, _ = apply(FuseRotaryEmbedding(), model(LLAMA))
    assert "custom_layer" in fusions.layer_kinds(after, tmp_path)
