"""fuse-group-norm: as PyTorch's exporters write it, and each reason to leave one alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseGroupNorm

from trtforge.testing import apply, check_pass

X = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32) * 3
# Mean and variance are the same sums, added in another order; the values are below 10.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
PARAMETERS = "float[4, 1, 1] weight = {1, 2, -1, 0.5}, float[4, 1, 1] bias = {0, 1, -1, 2}"
FLAT = "float[4] weight = {1, 2, -1, 0.5}, float[4] bias = {0, 1, -1, 2}"


def model(
    body: str, parameters: str = PARAMETERS, target: str = "0, 2, -1", opset: int = 18
) -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        main (float[2, 4, 3, 2] x) => (float[2, 4, 3, 2] y) <{parameters},
          int64[3] by_group = {{{target}}}, float[2] ones = {{1, 1}}, float[2] zeros = {{0, 0}},
          float[2, 4, 3, 2] r, int64[3] other = {{2, 12, 2}}> {{ {body} }}
    """


NORMAL = """
    f = Reshape (x, by_group)
    n = InstanceNormalization <epsilon = 0.01> (f, ones, zeros)
    s = Shape (x)
    r = Reshape (n, s)
    m = Mul (r, weight)
"""
PLAIN = NORMAL + "y = Add (m, bias)"
SILU = NORMAL + "a = Add (m, bias) g = Sigmoid (a) y = Mul (a, g)"
OPERATOR = "a = GroupNormalization <num_groups = 2, epsilon = 0.01> (x, weight, bias)"
OPERATOR += " g = Sigmoid (a) y = Mul (g, a)"


def call(model: ir.Model) -> ir.Node:
    (node,) = [node for node in model.graph if node.domain == "trtforge"]
    return node


@pytest.mark.parametrize("target", ["0, 2, -1", "2, 2, 12"])
@pytest.mark.parametrize(("body", "activation"), [(PLAIN, "none"), (SILU, "silu")])
def test_what_pytorch_writes_is_fused(body: str, activation: str, target: str) -> None:
    text = model(body, target=target)
    after = check_pass(FuseGroupNorm(), text, {"x": X}, changes=1, **ROUNDING)
    attributes = call(after).attributes
    assert [node.op_type for node in after.graph] == ["GroupNorm"]
    assert attributes["activation"].value == activation
    assert attributes["groups"].value == 2
    assert attributes["epsilon"].value == pytest.approx(0.01)


def test_the_operator_of_opset_21_is_fused() -> None:
    text = model(OPERATOR, FLAT, opset=21)
    after = check_pass(FuseGroupNorm(), text, {"x": X}, changes=1, **ROUNDING)
    assert call(after).attributes["activation"].value == "silu"


def test_the_activation_stays_where_something_else_reads_its_input() -> None:
    body = SILU.replace("y = Mul (a, g)", "z = Mul (a, g) y = Add (z, a)")
    after = check_pass(FuseGroupNorm(), model(body), {"x": X}, changes=1, **ROUNDING)
    assert call(after).attributes["activation"].value == "none"
    assert "'a' inside of it is used elsewhere" in apply(FuseGroupNorm(), model(body))[2][0].text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(PLAIN.replace("(f, ones", "(f, zeros")), "groups have weights of their own"),
        (model(PLAIN, target="1, 4, -1"), "does not cut each sample into groups"),
        (model(PLAIN.replace("(n, s)", "(n, s2)").replace("s = Shape (x)", "s2 = Size (x)"),
               PARAMETERS).replace("float[2, 4, 3, 2] r, ", ""), "is not known to have the shape"),
        (model(PLAIN, PARAMETERS.replace("[4, 1, 1] w", "[2, 1, 2] w")), "one number per channel"),
        (model(PLAIN, FLAT).replace("4, 3, 2]", "4, 3, 4]"), "one number per channel"),
        (model(PLAIN.replace("y =", "q =") + "y = Add (q, m)"), "'m' inside of it is used else"),
        (model(OPERATOR.replace("num_groups = 2", "num_groups = 4"), FLAT.replace("[4] weight",
         "[2] weight").replace("1, 2, -1, 0.5", "1, 2"), opset=18), "one number per channel"),
    ],
)  # fmt: skip
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    after, changes, notes = apply(FuseGroupNorm(), text)
    assert changes == 0
    assert not after.functions
    assert [note for note in notes if reason in note.text], notes


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 3), each=st.integers(1, 3), space=st.integers(1, 5),
    activation=st.sampled_from([PLAIN, SILU]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_value_gives_the_same(
    groups: int, each: int, space: int, activation: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    channels = groups * each

    def vector(name: str) -> str:
        numbers = ", ".join(f"{value:.3f}" for value in random.normal(size=channels))
        return f"float[{channels}, 1, 1] {name} = {{{numbers}}}"

    text = model(activation, f"{vector('weight')}, {vector('bias')}", f"0, {groups}, -1")
    text = text.replace("[2, 4, 3, 2]", f"[2, {channels}, {space}, 2]")
    for name, number in (("ones", 1), ("zeros", 0)):
        numbers = ", ".join([str(number)] * groups)
        old = f"float[2] {name} = {{{number}, {number}}}"
        text = text.replace(old, f"float[{groups}] {name} = {{{numbers}}}")
    x = random.normal(size=(2, channels, space, 2)).astype(np.float32)
    check_pass(FuseGroupNorm(), text, {"x": x}, changes=1, **ROUNDING)


@pytest.mark.parametrize("export", fusions.EXPORTERS)
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model]) -> None:
    """The residual block of a diffusion model: two group normalizations with SiLU, one without."""
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(2, 4) for _ in range(3))
            self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
            for norm in self.norms:
                torch.nn.init.normal_(norm.weight)
                torch.nn.init.normal_(norm.bias)

        def forward(self, x):
            silu = torch.nn.functional.silu
            y = self.conv(silu(self.norms[0](x)))
            return self.norms[2](x + self.conv(silu(self.norms[1](y))))

    exported = export(Block(), (torch.rand(2, 4, 3, 2),))
    (x,) = exported.graph.inputs
    after = check_pass(FuseGroupNorm(), exported, {str(x.name): X}, changes=3, **ROUNDING)
    found = [n.attributes["activation"].value for n in after.graph if n.domain == "trtforge"]
    assert found == ["silu", "silu", "none"]


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, _, _ = apply(FuseGroupNorm(), model(SILU))
    assert fusions.layer_kinds(after, tmp_path) == ["custom_layer"]
