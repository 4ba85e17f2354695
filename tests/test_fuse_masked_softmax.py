"""fuse-masked-softmax: softmax of attention's scores, and why one is left alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseMaskedSoftmax

from trtforge.testing import apply, check_pass

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32) * 3
MASK = np.where(np.random.default_rng(1).random((2, 1, 4, 5)) < 0.3, -1e4, 0).astype(np.float32)
ROUNDING = {"rtol": 1e-6, "atol": 1e-7}  # a product in place of a quotient


def model(body: str, mask: str = "[2, 1, 4, 5]", dtype: str = "float", known: str = "") -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : 18]>
        main ({dtype}[2, 3, 4, 5] x, {dtype}{mask} mask) => ({dtype}[2, 3, 4, 5] y)
        <float unused {known}> {{
            factor = Constant <value_float = 0.25> ()
            {body}
        }}
    """


END = "m = Add (s, mask) y = Softmax <axis = -1> (m)"
FORMS = {
    "product": (f"s = Mul (x, factor) {END}", 0.25),
    "quotient": (f"s = Div (x, factor) {END}", 4.0),
    "mask first": ("s = Mul (factor, x) m = Add (mask, s) y = Softmax <axis = 3> (m)", 0.25),
    "no scale": ("m = Add (x, mask) y = Softmax <axis = -1> (m)", 1.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_fused(form: str) -> None:
    body, scale = FORMS[form]
    feeds = {"x": X, "mask": MASK}
    after = check_pass(FuseMaskedSoftmax(), model(body), feeds, changes=1, **ROUNDING)
    (node,) = [node for node in after.graph if node.op_type != "Constant"]
    assert (node.op_type, node.attributes["scale"].value) == ("MaskedSoftmax", scale)
    assert [value.name for value in node.inputs if value] == ["x", "mask"]


def test_one_row_of_mask_may_serve_all_queries() -> None:
    text = model(FORMS["product"][0], "[2, 1, 1, 5]")
    feeds = {"x": X, "mask": MASK[:, :, :1]}
    check_pass(FuseMaskedSoftmax(), text, feeds, changes=1, **ROUNDING)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(FORMS["product"][0], "[1, 1, 4, 5]"), "one mask per sample, for all heads"),
        (model(FORMS["product"][0], "[2, 3, 4, 5]"), "one mask per sample, for all heads"),
        (model(FORMS["product"][0], "[4, 5]"), "not known to have four axes each"),
        (model(FORMS["product"][0].replace("axis = -1", "axis = 1")), "the last of four"),
        (model(FORMS["no scale"][0].replace("y =", "q =") + " y = Add (q, m)"), "used elsewhere"),
    ],
)
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    after, changes, notes = apply(FuseMaskedSoftmax(), text)
    assert changes == 0
    assert not after.functions
    assert [note for note in notes if reason in note.text], notes


def test_float16_inside_is_accepted_where_it_is_asked_for() -> None:
    """As Hugging Face computes it: the softmax in float32, masked scores in float16."""
    body = "m = Add (x, mask) w = Cast <to = 1> (m) p = Softmax <axis = -1> (w)"
    text = model(f"{body} y = Cast <to = 10> (p)", dtype="float16")
    feeds = {"x": X.astype(np.float16), "mask": MASK.astype(np.float16)}
    _, changes, notes = apply(FuseMaskedSoftmax(), text)
    assert (changes, len(notes)) == (0, 1)
    assert "rounds 'm' inside of it to float16" in notes[0].text
    # Masked scores near 10 are no longer rounded to steps of 2^-7; the shares change by so much.
    step = FuseMaskedSoftmax(keep_rounding=False)
    check_pass(step, text, feeds, changes=1, rtol=1e-2, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    form=st.sampled_from(list(FORMS)), heads=st.integers(1, 3), queries=st.integers(1, 4),
    keys=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_value_gives_the_same(
    form: str, heads: int, queries: int, keys: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    text = model(FORMS[form][0], f"[2, 1, {queries}, {keys}]")
    text = text.replace("[2, 3, 4, 5]", f"[2, {heads}, {queries}, {keys}]")
    feeds = {
        "x": random.normal(size=(2, heads, queries, keys)).astype(np.float32),
        "mask": random.normal(size=(2, 1, queries, keys)).astype(np.float32) * 9,
    }
    check_pass(FuseMaskedSoftmax(), text, feeds, changes=1, **ROUNDING)


@pytest.mark.parametrize("export", fusions.EXPORTERS)
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model]) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")

    class Attention(torch.nn.Module):  # the attention of Hugging Face's BERT
        def forward(self, queries, keys, mask):
            scores = torch.matmul(queries, keys.transpose(-1, -2)) / 8**0.5
            return torch.softmax(scores + mask, dim=-1)

    random = np.random.default_rng(0)
    arrays = [random.normal(size=s).astype(np.float32) for s in ((2, 3, 4, 8), (2, 3, 5, 8))]
    exported = export(Attention(), [torch.from_numpy(each) for each in (*arrays, MASK)])
    names = [str(value.name) for value in exported.graph.inputs]
    feeds = dict(zip(names, (*arrays, MASK), strict=True))
    after = check_pass(FuseMaskedSoftmax(), exported, feeds, changes=1, rtol=1e-5, atol=1e-6)
    assert fusions.ops_of(after) == {"MaskedSoftmax": 1}


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, _, _ = apply(FuseMaskedSoftmax(), model(FORMS["product"][0]))
    assert fusions.layer_kinds(after, tmp_path) == ["custom_layer"]
