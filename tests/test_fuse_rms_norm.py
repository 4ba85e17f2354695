"""fuse-rms-norm: each way in which exporters write it, and each reason to leave one alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseRMSNorm

from trtforge.testing import apply, check_pass

X = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
# The mean and the root are the same operations; only x / root and x * (1 / root) round differently.
ROUNDING = {"rtol": 1e-6, "atol": 1e-6}
WEIGHT = "float[4] weight = {0.5, 1, -2, 3}"


def model(body: str, weights: str = WEIGHT, opset: int = 18, dtype: str = "float") -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        main ({dtype}[2, 3, 4] x) => ({dtype}[2, 3, 4] y)
        <{weights}, int64[1] last = {{-1}}> {{
            one = Constant <value_float = 1.0> ()
            two = Constant <value_float = 2.0> ()
            half = Constant <value_float = 0.5> ()
            minus_half = Constant <value_float = -0.5> ()
            epsilon = Constant <value_float = 0.01> ()
            {body}
        }}
    """


SQUARES = {"Pow": "s = Pow (x, two)", "Mul": "s = Mul (x, x)"}
ROOTS = {
    "Div": "r = Sqrt (a) n = Div (x, r)",
    "Reciprocal": "r = Sqrt (a) i = Reciprocal (r) n = Mul (x, i)",
    "Div from one": "r = Sqrt (a) i = Div (one, r) n = Mul (i, x)",
    "Pow": "r = Pow (a, half) n = Div (x, r)",
    "Pow inverse": "i = Pow (a, minus_half) n = Mul (x, i)",
}
WEIGHTS = {"right": "y = Mul (n, weight)", "left": "y = Mul (weight, n)"}
NEW_MEAN = "m = ReduceMean <keepdims = 1> (s, last) a = Add (m, epsilon)"
OLD_MEAN = "m = ReduceMean <axes = [-1], keepdims = 1> (s) a = Add (epsilon, m)"
PLAIN = f"{SQUARES['Pow']} {NEW_MEAN} {ROOTS['Div']} {WEIGHTS['right']}"
TENSORFLOW = f"{SQUARES['Mul']} {NEW_MEAN} r = Sqrt (a) i = Reciprocal (r) w = Mul (i, weight) "
TENSORFLOW += "y = Mul (x, w)"


@pytest.mark.parametrize("weigh", WEIGHTS)
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("opset", [17, 18])
def test_each_spelling_is_fused(square: str, root: str, weigh: str, opset: int) -> None:
    mean = OLD_MEAN if opset < 18 else NEW_MEAN
    body = f"{SQUARES[square]} {mean} {ROOTS[root]} {WEIGHTS[weigh]}"
    after = check_pass(FuseRMSNorm(), model(body, opset=opset), {"x": X}, changes=1, **ROUNDING)
    (node,) = [node for node in after.graph if node.op_type != "Constant"]
    assert (node.domain, node.op_type) == ("trtforge", "RMSNorm")
    assert [value.name for value in node.inputs if value] == ["x", "weight"]
    assert node.attributes["epsilon"].value == pytest.approx(0.01)


def test_the_weight_may_scale_the_root_as_tensorflow_writes_it() -> None:
    after = check_pass(FuseRMSNorm(), model(TENSORFLOW), {"x": X}, changes=1, **ROUNDING)
    assert fusions.ops_of(after) == {"RMSNorm": 1}


def test_the_operator_of_opset_23_is_fused() -> None:
    body = "y = RMSNormalization <epsilon = 0.01> (x, weight)"
    after, changes, _ = apply(FuseRMSNorm(), model(body, opset=23))
    assert changes == 1
    written, _, _ = apply(FuseRMSNorm(), model(PLAIN, opset=23))
    assert _call(after).attributes["epsilon"] == _call(written).attributes["epsilon"]


def _call(model: ir.Model) -> ir.Node:
    (node,) = [node for node in model.graph if node.domain == "trtforge"]
    return node


def test_casts_to_float32_inside_are_part_of_it() -> None:
    body = "w = Cast <to = 1> (x)" + PLAIN.replace("(x", "(w").replace("weight)", "wide)")
    body = body.replace("y =", "f =") + " y = Cast <to = 10> (f)"
    text = model("wide = Cast <to = 1> (weight)" + body, "float16[4] weight = {1, 2, 0, 3}")
    text = text.replace("(float[2, 3, 4]", "(float16[2, 3, 4]")
    # The same operations in float32, rounded once: one unit in the last place of float16.
    after = check_pass(
        FuseRMSNorm(), text, {"x": X.astype(np.float16)}, changes=1, rtol=1e-3, atol=1e-4
    )
    assert fusions.ops_of(after) == {"RMSNorm": 1}
    assert [node.op_type for node in after.graph if node.op_type == "Cast"] == []


def test_a_weight_with_leading_ones_becomes_a_vector() -> None:
    text = model(PLAIN, WEIGHT.replace("[4]", "[1, 1, 4]"))
    after = check_pass(FuseRMSNorm(), text, {"x": X}, changes=1, **ROUNDING)
    assert _call(after).inputs[1] is after.graph.initializers["weight_flat"]


RESIDUAL = "t = Add (x, x2) " + PLAIN.replace("(x", "(t") + " z = Identity (t)"


def residual(body: str) -> str:
    text = model(body, WEIGHT + ", float[2, 3, 4] t").replace("main (", "main (float[2, 3, 4] x2, ")
    return text.replace("=> (", "=> (float[2, 3, 4] z, ")


def test_the_addition_in_front_is_fused_and_its_sum_stays() -> None:
    feeds = {"x": X, "x2": X[::-1].copy()}
    after = check_pass(FuseRMSNorm(), residual(RESIDUAL), feeds, changes=1, **ROUNDING)
    node = _call(after)
    assert node.op_type == "AddRMSNorm"
    assert [value.name for value in node.outputs] == ["y", "t"]
    alone = check_pass(
        FuseRMSNorm(residual=False), residual(RESIDUAL), feeds, changes=1, **ROUNDING
    )
    assert fusions.ops_of(alone) == {"RMSNorm": 1}


@pytest.mark.parametrize("term", ["weight", "one"])
def test_an_addition_that_broadcasts_stays_an_addition(term: str) -> None:
    body = f"t = Add (x, {term}) " + PLAIN.replace("(x", "(t")
    text = model(body, WEIGHT + ", float[2, 3, 4] t")
    after = check_pass(FuseRMSNorm(), text, {"x": X}, changes=1, **ROUNDING)
    assert fusions.ops_of(after) == {"RMSNorm": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(PLAIN.replace("y =", "q =") + " y = Add (q, n)"), "'n' inside of it is used else"),
        (model(PLAIN.replace("last)", "first)"), WEIGHT + ", int64[1] first = {0}"), "mean does"),
        (model(PLAIN.replace("s, last", "s")), "its mean does not run along the last axis alone"),
        (model(PLAIN.replace("keepdims = 1", "keepdims = 0")), "or drops it"),
        (model("e = ReduceMax <keepdims = 0> (x)" + PLAIN.replace("epsilon", "e")), "'e' is no p"),
        (model(PLAIN, "float[3, 1] weight = {1, 2, 3}"), "does not run along the last axis"),
        (model(PLAIN, "float[1] weight = {1}"), "is not known to have 1 as last dimension"),
        (model("n2 = Identity (last) w = Cast <to = 1> (n2)" + PLAIN.replace("weight", "w")), "sh"),
        (model(PLAIN, opset=14).replace(", last)", ")"), "mean does not run"),
    ],
)
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    given = ir.from_onnx_text(text)
    after, changes, notes = apply(FuseRMSNorm(), given)
    assert changes == 0
    assert not after.functions
    assert len(notes) == 1
    assert reason in notes[0].text


@pytest.mark.parametrize(
    "almost",
    [
        PLAIN.replace("two)", "half)"),
        PLAIN.replace("Div (x, r)", "Div (s, r)"),
        PLAIN.replace("Sqrt (a)", "Exp (a)"),
        PLAIN.replace("Mul (n, weight)", "Add (n, weight)"),
    ],
)
def test_what_only_looks_like_one_is_not_touched(almost: str) -> None:
    _, changes, notes = apply(FuseRMSNorm(), model(almost))
    assert (changes, notes) == (0, [])


def test_float16_inside_is_accepted_where_it_is_asked_for() -> None:
    case = Path(__file__).parent / "golden/fuse-rms-norm/rounded-between.txt"
    text = case.read_text().partition("=== after")[0].partition("\n")[2]
    x = np.array([[1, -2, 3, 0.5], [100, 0.01, -7, 3]], np.float16)
    # One rounding to float16 less: half a unit in the last place, 2^-11, before the weight.
    check_pass(FuseRMSNorm(keep_rounding=False), text, {"x": x}, changes=1, rtol=1e-3, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5), columns=st.integers(2, 9), epsilon=st.sampled_from([1e-6, 1e-5, 1e-3]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_value_gives_the_same(
    rows: int, columns: int, epsilon: float, scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    numbers = ", ".join(f"{value:.4f}" for value in random.normal(size=columns))
    text = model(PLAIN, f"float[{columns}] weight = {{{numbers}}}")
    text = text.replace("[2, 3, 4]", f"[{rows}, {columns}]").replace("0.01", str(epsilon))
    x = (scale * random.normal(size=(rows, columns))).astype(np.float32)
    check_pass(FuseRMSNorm(), text, {"x": x}, changes=1, **ROUNDING)


@pytest.mark.parametrize("export", fusions.EXPORTERS)
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model]) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")

    class Norm(torch.nn.Module):  # as LlamaRMSNorm, Qwen2RMSNorm and T5LayerNorm compute
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, 16))

        def forward(self, x):
            dtype = x.dtype
            x = x.to(torch.float32)
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            return self.weight * x.to(dtype)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Norm(), Norm()

        def forward(self, x, y):
            total = x + self.first(y)
            return self.second(total) + total

    exported = export(Block(), (torch.rand(2, 3, 16), torch.rand(2, 3, 16)))
    names = [value.name for value in exported.graph.inputs]
    random = np.random.default_rng(0)
    feeds = {name: random.normal(size=(2, 3, 16)).astype(np.float32) for name in names}
    after = check_pass(FuseRMSNorm(), exported, feeds, changes=2, **ROUNDING)
    assert fusions.ops_of(after) == {"RMSNorm": 1, "AddRMSNorm": 1}


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, changes, _ = apply(FuseRMSNorm(), residual(RESIDUAL))
    assert changes == 1
    assert "custom_layer" in fusions.layer_kinds(after, tmp_path)
