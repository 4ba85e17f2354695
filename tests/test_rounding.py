"""float16 and bfloat16 models give under ONNX Runtime what their types promise, Inf included."""

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from trtforge.reference import Reference
from trtforge.rounding import computes_in_half, round_explicitly

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


def parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + text)
    onnx.checker.check_model(model)
    return model


def reference(model: onnx.ModelProto, **inputs) -> dict[str, np.ndarray]:
    return Reference(ir.from_proto(model), provider="cpu").run(inputs)


OVERFLOWS = parse("""
overflow (float[2] x) => (float[2] y) {
    h = Cast <to=10> (x)
    square = Mul (h, h)
    small = Constant <value_float=0.001> ()
    half = Cast <to=10> (small)
    scaled = Mul (square, half)
    y = Cast <to=1> (scaled)
}
""")


def test_an_overflow_inside_a_float16_model_is_seen():
    result = reference(OVERFLOWS, x=np.array([300.0, 1.5], np.float32))["y"]
    assert np.isinf(result[0])  # 300 * 300 is beyond 65504
    assert np.isfinite(result[1])


def test_onnxruntime_alone_hides_that_overflow():
    """The reason for the module. Should this fail, ONNX Runtime rounds by itself: drop it."""
    session = onnxruntime.InferenceSession(OVERFLOWS.SerializeToString())
    assert session.run(None, {"x": np.array([300.0, 1.5], np.float32)})[0][0] < 100.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["Add", "Sub", "Mul", "Div", "Relu", "Neg", "Max"]), min_size=1, max_size=8
    ),
    st.integers(0, 2**32 - 1),
)
def test_elementwise_float16_is_right_to_the_last_bit(ops, seed):
    """float32 and one rounding give the correctly rounded float16 result of + - * /."""
    lines, last = [], "h"
    for index, op in enumerate(ops):
        operands = last if op in ("Relu", "Neg") else f"{last}, k"
        lines.append(f"v{index} = {op} ({operands})")
        last = f"v{index}"
    model = parse(f"""chain (float16[64] h, float16[64] k) => (float16[64] y) {{
        {"  ".join(lines)}
        y = Identity ({last})
    }}""")
    rng = np.random.default_rng(seed)
    feed = {name: (rng.standard_normal(64) * 50).astype(np.float16) for name in ("h", "k")}
    with np.errstate(all="ignore"):
        (expected,) = ReferenceEvaluator(model).run(None, feed)
    actual = reference(model, **feed)["y"]
    assert actual.dtype == np.float16
    np.testing.assert_array_equal(actual, expected)


def test_bfloat16_models_run_and_round():
    model = parse("""
    bf16 (bfloat16[3] x) => (bfloat16[3] y) { a = Add (x, x)  b = Mul (a, x)  y = Sub (b, x) }
    """)
    x = np.array([1.5, 3.140625, 300.0], ml_dtypes.bfloat16)
    expected = (x + x) * x - x  # ml_dtypes rounds after each operation
    actual = reference(model, x=x)["y"]
    assert actual.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(actual, expected)


def test_weights_branches_and_functions_are_rounded_as_well():
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    nested (float16[2] x, bool flag) => (float16[2] y, float16[2] z)
    <float16[2] w = {11878, 12902}>
    {
        a = Mul (x, w)
        y = If (flag) <
            then_branch = grow () => (float16[2] t) { u = Mul (a, a)  t = Sub (u, w) },
            else_branch = keep () => (float16[2] e) { e = Identity (a) }
        >
        z = local.Twice (y)
    }
    <domain: "local", opset_import: ["" : 21]>
    Twice (v) => (r) { s = Mul (v, v)  r = Mul (s, v) }
    """)
    x = np.array([7.7, 120.0], np.float16)
    w = np.array([0.1, 0.2], np.float16)  # ONNX text writes float16 as its bits: 11878, 12902
    for flag in (True, False):
        result = reference(model, x=x, flag=np.array(flag))
        a = x * w
        y = a * a - w if flag else a
        np.testing.assert_array_equal(result["y"], y)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(result["z"], y * y * y)


def test_a_loop_carries_rounded_values():
    model = parse("""
    loop (float16[1] x) => (float16[1] y) {
        n = Constant <value_int=5> ()
        go = Constant <value = bool {1}> ()
        y = Loop (n, go, x) <body = step (int64 i, bool c, float16[1] v) => (bool d, float16[1] r) {
            d = Identity (c)
            s = Mul (v, v)
            r = Sub (s, x)
        }>
    }
    """)
    x = np.array([1.7], np.float16)
    expected = x
    for _ in range(5):
        expected = expected * expected - x
    np.testing.assert_array_equal(reference(model, x=x)["y"], expected)


def test_relu_takes_the_rounding_over_so_that_it_still_fuses():
    model = ir.from_proto(
        parse("""
    conv (float16[1,1,4,4] x, float16[1,1,3,3] w) => (float16[1,1,2,2] y)
    { c = Conv (x, w)  y = Relu (c) }
    """)
    )
    operators = [node.op_type for node in round_explicitly(model).graph]
    assert operators == ["Cast", "Cast", "Conv", "Relu", "Cast", "Cast", "Cast"]


def test_interface_names_and_the_model_itself_stay():
    typed = onnx.shape_inference.infer_shapes(OVERFLOWS)  # a clone shares these inferred types
    model = ir.from_proto(typed)
    before = ir.to_proto(model).SerializeToString()
    wide = round_explicitly(model)
    assert [v.name for v in wide.graph.outputs] == ["y"]
    assert ir.to_proto(model).SerializeToString() == before
    onnx.checker.check_model(ir.to_proto(wide), full_check=True)


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("m (float[1] x) => (float[1] y) { y = Relu (x) }", False),
        ("m (float16[1] x) => (float16[1] y) { y = Relu (x) }", True),
        ("m (float[1] x) => (float[1] y) { h = Cast <to=16> (x)  y = Cast <to=1> (h) }", True),
        ("m (float[1] x) => (float[1] y) { c = Cast <to=6> (x)  y = Cast <to=1> (c) }", False),
    ],
)
def test_only_half_precision_models_are_rewritten(text, half):
    assert computes_in_half(ir.from_proto(parse(text))) is half
