"""fuse-layer-norm: each way in which exporters write it, and each reason to leave one alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseLayerNorm, FuseRMSNorm

from trtforge.testing import apply, check_pass

X = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4) ** 3
# The same sums in another order of operations: some units in the last place of values near 10.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
PARAMETERS = "float[4] weight = {0.5, 1, -2, 3}, float[4] bias = {1, 0, -1, 2}"


def model(body: str, parameters: str = PARAMETERS, opset: int = 18) -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        main (float[2, 3, 4] x) => (float[2, 3, 4] y) <{parameters}, int64[1] last = {{-1}}> {{
            one = Constant <value_float = 1.0> ()
            two = Constant <value_float = 2.0> ()
            half = Constant <value_float = 0.5> ()
            epsilon = Constant <value_float = 0.01> ()
            {body}
        }}
    """


STATISTICS = """
    m = ReduceMean <keepdims = 1> (x, last)
    d = Sub (x, m)
    s = Pow (d, two)
    v = ReduceMean <keepdims = 1> (s, last)
    a = Add (v, epsilon)
"""
TORCH = f"{STATISTICS} r = Sqrt (a) n = Div (d, r) w = Mul (n, weight) y = Add (w, bias)"
FORMS = {
    "torch, nine nodes": TORCH,
    "two distances": TORCH.replace("s = Pow (d", "d2 = Sub (x, m) s = Pow (d2"),
    "opset 13": TORCH.replace("keepdims = 1> (x, last)", "axes = [2]> (x)").replace(
        "keepdims = 1> (s, last)", "axes = [-1]> (s)"
    ),
    "keras": f"{STATISTICS.replace('Pow (d, two)', 'Mul (d, d)')} r = Sqrt (a)"
    "i = Reciprocal (r) f = Mul (i, weight) xf = Mul (x, f) mf = Mul (m, f) b = Sub (bias, mf)"
    "y = Add (xf, b)",
    "factor first": f"{STATISTICS} r = Pow (a, half) i = Div (one, r) f = Mul (weight, i)"
    "w = Mul (d, f) y = Add (bias, w)",
    "operator": "y = LayerNormalization <axis = 2, epsilon = 0.01> (x, weight, bias)",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_fused(form: str) -> None:
    text = model(FORMS[form], opset=17 if form == "opset 13" else 18)
    after = check_pass(FuseLayerNorm(), text, {"x": X}, changes=1, **ROUNDING)
    (node,) = [node for node in after.graph if node.op_type != "Constant"]
    assert (node.domain, node.op_type) == ("trtforge", "LayerNorm")
    assert [value.name for value in node.inputs if value] == ["x", "weight", "bias"]
    assert node.attributes["epsilon"].value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(TORCH.replace("y =", "q =") + " y = Add (q, d)"), "'d' inside of it is used else"),
        (model(TORCH.replace("(s, last)", "(s)")), "its mean does not run along the last axis"),
        (model(TORCH, PARAMETERS.replace("float[4] b", "float[3, 4] b")), "'bias' does not run al"),
        (model(FORMS["operator"].replace("axis = 2", "axis = 1")), "not run along the last axis"),
        (model("y = LayerNormalization (x, weight)"), "it has no bias"),
        (model("y, m = LayerNormalization (x, weight, bias)"), "it has further outputs"),
        (model("e = Identity (epsilon)" + TORCH.replace("v, epsilon", "v, e")), "no positive con"),
    ],
)
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    text = text.replace("{1, 0, -1, 2}", "{1, 0, -1, 2, 1, 1, 1, 1, 1, 1, 1, 1}")
    text = text if "[3, 4] bias" in text else text.replace(", 1, 1, 1, 1, 1, 1, 1, 1}", "}")
    after, changes, notes = apply(FuseLayerNorm(), text)
    assert changes == 0
    assert not after.functions
    assert [note.text for note in notes if reason in note.text], notes


def test_the_operator_may_stay() -> None:
    _, changes, notes = apply(FuseLayerNorm(operator=False), model(FORMS["operator"]))
    assert changes == 0
    assert "operator: false" in notes[0].text


def test_fuse_rms_norm_leaves_it_alone() -> None:
    _, changes, notes = apply(FuseRMSNorm(), model(TORCH))
    assert changes == 0
    assert "fuse-layer-norm takes it" in notes[0].text


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from([form for form in FORMS if form != "opset 13"]), rows=st.integers(1, 5),
    columns=st.integers(2, 9), shift=st.sampled_from([0.0, 3.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_value_gives_the_same(
    form: str, rows: int, columns: int, shift: float, seed: int
) -> None:
    random = np.random.default_rng(seed)

    def vector(name: str) -> str:
        numbers = ", ".join(f"{value:.4f}" for value in random.normal(size=columns))
        return f"float[{columns}] {name} = {{{numbers}}}"

    text = model(FORMS[form], f"{vector('weight')}, {vector('bias')}")
    text = text.replace("[2, 3, 4]", f"[{rows}, 2, {columns}]")
    x = (random.normal(size=(rows, 2, columns)) + shift).astype(np.float32)
    check_pass(FuseLayerNorm(), text, {"x": x}, changes=1, **ROUNDING)


@pytest.mark.parametrize(("export", "opset"), [(fusions.torchscript, 14), *(
    (export, 18) for export in fusions.EXPORTERS
)])  # fmt: skip
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model], opset: int) -> None:
    """Opset 14 has no operator for it; it is raised to 15, whose CastLike the op's body needs."""
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")
    torch.manual_seed(0)
    layers = [torch.nn.LayerNorm(16), torch.nn.Linear(16, 16), torch.nn.LayerNorm(16, eps=1e-3)]
    exported = export(torch.nn.Sequential(*layers), (torch.rand(2, 3, 16),), opset)
    exported.graph.opset_imports[""] = max(15, opset)
    (x,) = exported.graph.inputs
    feeds = {str(x.name): np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)}
    after = check_pass(FuseLayerNorm(), exported, feeds, changes=2, **ROUNDING)
    assert fusions.ops_of(after) == {"LayerNorm": 2}


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, _, _ = apply(FuseLayerNorm(), model(TORCH))
    assert fusions.layer_kinds(after, tmp_path) == ["custom_layer"]
