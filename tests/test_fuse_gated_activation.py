"""fuse-gated-activation: SwiGLU and GeGLU as exporters write them, and why one is left alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseGatedActivation

from trtforge.testing import apply, check_pass

X = np.linspace(-4, 4, 32, dtype=np.float32).reshape(2, 2, 8)
# The same operations, but for 0.5 and the root of two, which stand elsewhere in a GELU's product.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def model(body: str, opset: int = 18, parameters: str = "", dtype: str = "float") -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        main ({dtype}[2, 2, 8] x) => ({dtype}[2, 2, 4] y) <int64[2] sizes = {{4, 4}},
          int64[1] zero = {{0}}, int64[1] four = {{4}}, int64[1] end = {{9223372036854775807}},
          int64[1] last = {{-1}}, int64[2] odd_sizes = {{3, 5}} {parameters}> {{
            half = Constant <value_float = 0.5> ()
            one = Constant <value_float = 1.0> ()
            root2 = Constant <value_float = 1.41421356> ()
            {body}
        }}
    """


HALVES = {
    "Split with sizes": "g, u = Split <axis = -1> (x, sizes)",
    "Split in two": "g, u = Split <axis = 2, num_outputs = 2> (x)",
    "Slices": "g = Slice (x, zero, four, last) u = Slice (x, four, end, last)",
}
SILU = "s = Sigmoid (g) a = Mul (g, s) y = Mul (a, u)"
GELU = "d = Div (g, root2) e = Erf (d) p = Add (e, one) m = Mul (g, p) a = Mul (m, half)"
GELU += " y = Mul (u, a)"


def call(model: ir.Model) -> ir.Node:
    (node,) = [node for node in model.graph if node.domain == "trtforge"]
    return node


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize(("activation", "name"), [(SILU, "silu"), (GELU, "gelu")])
def test_halves_of_one_tensor_are_fused(halves: str, activation: str, name: str) -> None:
    text = model(f"{HALVES[halves]} {activation}")
    after = check_pass(FuseGatedActivation(), text, {"x": X}, changes=1, **ROUNDING)
    assert call(after).attributes["activation"].value == name
    assert [node.op_type for node in after.graph if node.op_type != "Constant"] == [
        "GatedActivation"
    ]


@pytest.mark.parametrize("halves", HALVES)
def test_the_gate_may_be_the_second_half(halves: str) -> None:
    swapped = HALVES[halves].replace("g", "t").replace("u =", "g =").replace(", u", ", g")
    text = model(f"{swapped} {SILU}".replace("t,", "u,").replace("t =", "u ="))
    after = check_pass(FuseGatedActivation(), text, {"x": X}, changes=1, **ROUNDING)
    assert call(after).attributes["gate_last"].value == 1


def test_the_operator_gelu_is_fused_in_its_tanh_form() -> None:
    body = f'{HALVES["Slices"]} a = Gelu <approximate = "tanh"> (g) y = Mul (a, u)'
    after = check_pass(FuseGatedActivation(), model(body, 20), {"x": X}, changes=1, **ROUNDING)
    assert call(after).attributes["activation"].value == "gelu_tanh"


PROJECTED = "g = MatMul (x, wg) u = MatMul (x, wu)"
BIASED = "h = MatMul (x, wg) g = Add (h, bg) k = MatMul (x, wu) u = Add (bu, k)"


def projected(body: str) -> str:
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> str:
        numbers = ", ".join(f"{value:.4f}" for value in random.normal(size=shape).reshape(-1))
        return f", float[{', '.join(map(str, shape))}] {name} = {{{numbers}}}"

    matrices = weights("wg", 8, 4) + weights("wu", 8, 4)
    return model(body + SILU, parameters=matrices + weights("bg", 4) + weights("bu", 4))


@pytest.mark.parametrize("body", [PROJECTED, BIASED])
def test_two_projections_of_one_tensor_become_one(body: str) -> None:
    # One product of eight columns instead of two of four: the sums may be added in another order.
    after = check_pass(
        FuseGatedActivation(), projected(body), {"x": X}, changes=1, rtol=1e-5, atol=1e-5
    )
    names = [node.op_type for node in after.graph if node.op_type != "Constant"]
    assert names == ["MatMul", *(["Add"] if body == BIASED else []), "GatedActivation"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model("g, u = Split <axis = -1> (x, odd_sizes) " + SILU), "neither halves of one tensor"),
        (model("g, r = Split <axis = -1> (x, sizes) u = Identity (g) " + SILU), "neither halves"),
        (model("g, r = Split <axis = -1> (x, sizes) " + SILU.replace("(a, u)", "(a, g)")), "same"),
        (model(HALVES["Slices"] + SILU.replace("y =", "q =") + " y = Add (q, s)"), "'s' inside of"),
        (projected("w = Identity (wu) g = MatMul (x, wg) u = MatMul (x, w)"), "neither halves of"),
        (projected(BIASED.replace("bu, k", "k, k")), "neither halves of one tensor nor two proj"),
        (projected("h = MatMul (x, wg) g = Add (h, bg) u = MatMul (x, wu)"), "one has no bias"),
        (
            projected(PROJECTED).replace("y = Mul (a, u)", "q = Mul (a, u) y = Add (u, q)"),
            "the projection 'u' is used elsewhere too",
        ),
        (model(HALVES["Slices"] + SILU, dtype="float16"), "keep_rounding: false"),
    ],
)
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    after, changes, notes = apply(FuseGatedActivation(), text)
    assert changes == 0
    assert not after.functions
    assert [note for note in notes if reason in note.text], notes


def test_float16_inside_is_accepted_where_it_is_asked_for() -> None:
    text = model(HALVES["Slices"] + SILU, dtype="float16")
    # Up to three roundings to float16 fewer or elsewhere, each of half a unit in the last place.
    step = FuseGatedActivation(keep_rounding=False)
    check_pass(step, text, {"x": X.astype(np.float16)}, changes=1, rtol=2e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    halves=st.sampled_from(["Split in two", "Slices"]), activation=st.sampled_from([SILU, GELU]),
    rows=st.integers(1, 4), columns=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_value_gives_the_same(
    halves: str, activation: str, rows: int, columns: int, seed: int
) -> None:
    text = model(f"{HALVES[halves]} {activation}").replace("four = {4}", f"four = {{{columns}}}")
    text = text.replace("[2, 2, 4] y", f"[{rows}, 2, {columns}] y")
    text = text.replace("[2, 2, 8] x", f"[{rows}, 2, {2 * columns}] x")
    x = np.random.default_rng(seed).normal(size=(rows, 2, 2 * columns)).astype(np.float32) * 5
    check_pass(FuseGatedActivation(), text, {"x": x}, changes=1, **ROUNDING)


@pytest.mark.parametrize("export", fusions.EXPORTERS)
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model]) -> None:
    """An MLP as in LLaMA, one as in Stable Diffusion, and one of Gemma's kind, in turn."""
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")
    silu, gelu, linear = torch.nn.functional.silu, torch.nn.functional.gelu, torch.nn.Linear

    class Three(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.gate, self.up = linear(8, 16, bias=False), linear(8, 16, bias=False)
            self.both, self.fused = linear(16, 16), linear(8, 16)

        def forward(self, x):
            x = silu(self.gate(x)) * self.up(x)
            value, gate = self.both(x).chunk(2, dim=-1)
            x = value * gelu(gate)
            gate, value = self.fused(x).chunk(2, dim=-1)
            return gelu(gate, approximate="tanh") * value

    exported = export(Three(), (torch.rand(2, 3, 8),))
    (x,) = exported.graph.inputs
    feeds = {str(x.name): np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)}
    after = check_pass(FuseGatedActivation(), exported, feeds, changes=3, rtol=1e-4, atol=1e-6)
    found = [node.attributes for node in after.graph if node.domain == "trtforge"]
    assert [(a["activation"].value, a["gate_last"].value) for a in found] == [
        ("silu", 0), ("gelu", 1), ("gelu_tanh", 0),
    ]  # fmt: skip


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, _, _ = apply(FuseGatedActivation(), model(f"{HALVES['Split in two']} {SILU}"))
    assert fusions.layer_kinds(after, tmp_path) == ["custom_layer"]
