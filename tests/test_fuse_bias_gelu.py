"""fuse-bias-gelu: each way in which exporters write a GELU, and each reason to leave one alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from trtforge_plugins.fuse.bias_gelu import FuseBiasGelu

from trtforge.testing import apply, check_pass

X = np.linspace(-6, 6, 16, dtype=np.float32).reshape(2, 8)
BIAS = "float[8] bias = {0.5, -1, 2, 0, 1, -0.25, 3, -2}"
# All forms compute the same in float32; they differ by the rounding of a few operations.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def model(body: str, opset: int = 18, weights: str = BIAS) -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        main (float[2, 8] x) => (float[2, 8] y) <{weights}> {{
            half = Constant <value_float = 0.5> ()
            one = Constant <value_float = 1.0> ()
            three = Constant <value_float = 3.0> ()
            cubic = Constant <value_float = 0.044715> ()
            root2 = Constant <value_float = 1.41421356> ()
            root2pi = Constant <value_float = 0.79788456> ()
            {body}
        }}
    """


ERF_AS_TORCH_WRITES_IT = """
    s = Add (x, bias)
    d = Div (s, root2)
    e = Erf (d)
    p = Add (e, one)
    m = Mul (s, p)
    y = Mul (m, half)
"""
ERF_AS_TORCHLIB_WRITES_IT = ERF_AS_TORCH_WRITES_IT.replace("(m, half)", "(half, m)")
TANH_AS_TORCH_WRITES_IT = """
    s = Add (bias, x)
    s2 = Mul (s, s)
    s3 = Mul (s, s2)
    c = Mul (cubic, s3)
    a = Add (s, c)
    i = Mul (root2pi, a)
    t = Tanh (i)
    p = Add (one, t)
    m = Mul (s, p)
    y = Mul (half, m)
"""
TANH_AS_TORCHLIB_WRITES_IT = """
    s = Add (x, bias)
    s3 = Pow (s, three)
    c = Mul (cubic, s3)
    a = Add (s, c)
    i = Mul (root2pi, a)
    t = Tanh (i)
    p = Add (t, one)
    m = Mul (s, p)
    y = Mul (half, m)
"""
TANH_AS_GPT2_WRITES_IT = """
    s = Add (x, bias)
    h = Mul (half, s)
    s3 = Pow (s, three)
    c = Mul (s3, cubic)
    a = Add (c, s)
    i = Mul (a, root2pi)
    t = Tanh (i)
    p = Add (t, one)
    y = Mul (h, p)
"""


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (ERF_AS_TORCH_WRITES_IT, "none"),
        (ERF_AS_TORCHLIB_WRITES_IT, "none"),
        (TANH_AS_TORCH_WRITES_IT, "tanh"),
        (TANH_AS_TORCHLIB_WRITES_IT, "tanh"),
        (TANH_AS_GPT2_WRITES_IT, "tanh"),
    ],
)
@pytest.mark.parametrize("opset", [15, 18, 20])
def test_a_gelu_written_out_is_fused(body: str, form: str, opset: int) -> None:
    after = check_pass(FuseBiasGelu(), model(body, opset), {"x": X}, changes=1, **ROUNDING)
    (node,) = [node for node in after.graph if node.op_type != "Constant"]
    assert (node.domain, node.op_type) == ("trtforge", "BiasGelu")
    assert [value.name for value in node.inputs if value] == ["x", "bias"]
    assert node.attributes["approximate"].value == form


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_the_operator_gelu_is_fused(form: str) -> None:
    body = f's = Add (x, bias) y = Gelu <approximate = "{form}"> (s)'
    after = check_pass(FuseBiasGelu(), model(body, 20), {"x": X}, changes=1, **ROUNDING)
    assert [node.op_type for node in after.graph if node.op_type != "Constant"] == ["BiasGelu"]


def test_both_forms_live_in_one_model() -> None:
    body = 's = Add (x, bias) g = Gelu (s) r = Add (g, bias) y = Gelu <approximate = "tanh"> (r)'
    after = check_pass(FuseBiasGelu(), model(body, 20), {"x": X}, changes=2, **ROUNDING)
    overloads = {function.overload for function in after.functions.values()}
    assert overloads == {"approximate=none", "approximate=tanh"}


def test_a_bias_with_leading_ones_is_flattened() -> None:
    body = "s = Add (x, bias) y = Gelu (s)"
    text = model(body, 20, BIAS.replace("[8]", "[1, 8]"))
    after = check_pass(FuseBiasGelu(), text, {"x": X}, changes=1, **ROUNDING)
    (node,) = [node for node in after.graph if node.op_type == "BiasGelu"]
    assert node.inputs[1] is after.graph.initializers["bias_flat"]


def test_the_form_can_be_chosen() -> None:
    body = "s = Add (x, bias) y = Gelu (s)"
    after = check_pass(
        FuseBiasGelu(approximate="tanh"), model(body, 20), {"x": X}, changes=1,
        atol=5e-4,  # the largest distance of the two forms
    )  # fmt: skip
    (node,) = [node for node in after.graph if node.op_type == "BiasGelu"]
    assert node.attributes["approximate"].value == "tanh"


def test_provenance_of_the_nodes_is_kept() -> None:
    given = ir.from_onnx_text(model("[bias_add] s = Add (x, bias) [act] y = Gelu (s)", 20))
    add, gelu = [node for node in given.graph if node.op_type in ("Add", "Gelu")]
    add.metadata_props["pkg.torch.onnx.stack_trace"] = "model.py:12"
    gelu.metadata_props["namespace"] = "mlp.act"
    after, _, _ = apply(FuseBiasGelu(), given)
    (node,) = [node for node in after.graph if node.op_type == "BiasGelu"]
    assert node.name == "bias_add"
    assert node.metadata_props == {
        "pkg.torch.onnx.stack_trace": "model.py:12",
        "namespace": "mlp.act",
    }


@pytest.mark.parametrize(
    ("body", "opset", "weights", "reason"),
    [
        ("y = Gelu (x)", 20, BIAS, "its argument is no sum"),
        ("s = Add (x, x) y = Gelu (s)", 20, BIAS, "no operand of its sum is a constant bias"),
        ("s = Add (x, bias) g = Gelu (s) y = Add (g, s)", 20, BIAS, "used elsewhere too"),
        (
            "s = Add (x, bias) y = Gelu (s)",
            20,
            "float[2, 1] bias = {1, 2}",
            "does not run along the last axis",
        ),
        (
            "s = Add (x, bias) y = Gelu (s)",
            20,
            "float[1] bias = {1}",
            "is not known to have the bias's length 1",
        ),
        (ERF_AS_TORCH_WRITES_IT, 14, BIAS, "needs CastLike, which opset 14 lacks"),
    ],
)
def test_a_gelu_is_left_alone_with_its_reason(
    body: str, opset: int, weights: str, reason: str
) -> None:
    after, changes, notes = apply(FuseBiasGelu(), model(body, opset, weights))
    assert changes == 0
    assert not after.functions
    assert len(notes) == 1
    assert reason in notes[0].text


@pytest.mark.parametrize(
    "almost",
    [
        ERF_AS_TORCH_WRITES_IT.replace("root2)", "three)"),
        ERF_AS_TORCH_WRITES_IT.replace("(e, one)", "(e, half)"),
        ERF_AS_TORCH_WRITES_IT.replace("(m, half)", "(m, one)"),
        ERF_AS_TORCH_WRITES_IT.replace("Mul (s, p)", "Mul (x, p)"),
        TANH_AS_TORCH_WRITES_IT.replace("Mul (s, s2)", "Mul (s2, s2)"),
        TANH_AS_TORCH_WRITES_IT.replace("(cubic, s3)", "(half, s3)"),
        TANH_AS_TORCH_WRITES_IT.replace("Add (s, c)", "Add (x, c)"),
    ],
)
def test_what_only_looks_like_a_gelu_is_not_touched(almost: str) -> None:
    _, changes, notes = apply(FuseBiasGelu(), model(almost))
    assert (changes, notes) == (0, [])


def test_a_tower_of_squares_costs_no_exponential_time() -> None:
    lines = "\n".join(f"v{i + 1} = Mul (v{i}, v{i})" for i in range(200))
    text = model(f"v0 = Identity (x) {lines} y = Identity (v200)")
    assert apply(FuseBiasGelu(), text)[1] == 0


def test_gelus_in_subgraphs_are_fused() -> None:
    text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        main (bool c, float[2, 8] x) => (float[2, 8] y) <{BIAS}> {{
            y = If (c) <
                then_branch = yes () => (float[2, 8] t) {{ s = Add (x, bias) t = Gelu (s) }},
                else_branch = no () => (float[2, 8] e) {{ e = Identity (x) }}
            >
        }}
    """
    feeds = [{"c": np.array(flag), "x": X} for flag in (True, False)]
    check_pass(FuseBiasGelu(), text, feeds, changes=1, **ROUNDING)


def test_functions_inline_to_plain_onnx_for_tensorrt() -> None:
    import onnx.inliner

    after, _, _ = apply(FuseBiasGelu(), model(TANH_AS_TORCH_WRITES_IT, 18))
    inlined = onnx.inliner.inline_local_functions(ir.to_proto(after))
    onnx.checker.check_model(inlined, full_check=True)
    assert {node.domain for node in inlined.graph.node} == {""}
    assert "Tanh" in [node.op_type for node in inlined.graph.node]
