"""`check` refuses what the builder refuses, and nothing that it builds: both are asked each time.

These are the cases that TensorRT's parser takes: growing Loops, Attention without a kernel, float32
on Turing, and ranges that do not fit. All builds are real ones, by TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt import TensorRT

from trtforge import Context, Request, ShapeRange, TrtforgeError
from trtforge.targets import read_target

pytestmark = pytest.mark.slow
HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
STEP = TensorRT(ask_again=0)  # one process parses and builds all


def agree(
    text: str, folder, *, target: str = "sm_89", shapes: Mapping[str, str] | None = None
) -> str:
    """Return the code of the refusal, or nothing; the build and `check` must say the same."""
    model = ir.from_onnx_text(HEAD + text)
    profile = {name: ShapeRange.read(shape) for name, shape in (shapes or {}).items()}
    request = Request("m.onnx", (profile,) if profile else (), (read_target(target),))
    told = {each.code for each in STEP.examine(model, Context(model, folder, request)).refused}
    refusal = ""
    try:
        STEP.build(model, Context(model, folder, request))
    except TrtforgeError as error:
        refusal = error.code
    assert told == ({refusal} if refusal else set())
    return refusal


LOOP = (
    "g (float[SIZE] x, int64 n) => (float[K] y) <bool c = {1}> { y = Loop (n, c, x) "
    "<body = b (int64 i, bool ci, float[P] s) => (bool co, float[Q] t) "
    "{ co = Identity (ci) MADE }> }"
)
GROW, KEEP = "t = Concat <axis = 0> (s, s)", "t = Relu (s)"
CUT = "q = Constant <value_ints = [0]> () r = Constant <value_ints = [2]> () t = Slice (s, q, r)"


@pytest.mark.parametrize(
    ("size", "made", "code"),
    [
        ("4", GROW, "loop-changes-shape"),
        ("N", GROW, "loop-changes-shape"),
        ("N", GROW.replace("s)", "x)"), "loop-changes-shape"),
        ("3", CUT, "loop-changes-shape"),
        ("N", CUT, ""),
        ("4", KEEP, ""),
        ("N", KEEP, ""),
    ],
)
def test_loops(size: str, made: str, code: str, tmp_path) -> None:
    text = LOOP.replace("SIZE", size).replace("MADE", made)
    assert agree(text, tmp_path, shapes={"x": "1:2:4"} if size == "N" else None) == code


ATTENTION = (
    "g (TYPE[B,H,16,D] q, TYPE[B,H,16,D] k, TYPE[B,H,16,D] v) => (TYPE[B,H,16,D] y) "
    "{ y = Attention (q, k, v) }"
)


@pytest.mark.parametrize("target", ["sm_75", "sm_89"])
@pytest.mark.parametrize(
    ("dtype", "batch", "heads", "size", "builds"),
    [
        ("float16", 1, 2, 64, True),
        ("float16", 2, 1, 9, True),
        ("float16", 1, 2, 256, True),
        ("float16", 1, 1, 64, False),
        ("float16", 1, 2, 8, False),
        ("float16", 1, 2, 257, False),
        ("float", 1, 2, 64, False),
    ],
)
def test_attention(  # noqa: PLR0917  # each argument is one thing that decides
    dtype: str, batch: int, heads: int, size: int, builds: bool, target: str, tmp_path
) -> None:
    text = ATTENTION.replace("TYPE", dtype).replace("16,D", f"16,{size}")
    text = text.replace("[B,H,", f"[{batch},{heads},")
    assert agree(text, tmp_path, target=target) == ("" if builds else "attention-without-kernel")


def test_attention_of_a_tensor_with_itself_crashes_tensorrt_and_is_refused(tmp_path) -> None:
    text = "g (float16[2,2,16,64] q) => (float16[2,2,16,64] y) { y = Attention (q, q, q) }"
    model = ir.from_onnx_text(HEAD + text)
    ctx = Context(model, tmp_path, Request("m.onnx", (), (read_target("sm_89"),)))
    (found,) = STEP.examine(model, ctx).refused
    assert "one tensor, q" in found.evidence
    with pytest.raises(TrtforgeError) as raised:
        STEP.build(model, ctx)
    assert raised.value.code == "tensorrt-crashed"


PRODUCT = "g (float[8,16] x, float[16,16] w) => (float[8,16] y) { y = MatMul (x, w) }"
CONVOLUTION = "g (float[1,4,8,8] x, float[4,4,3,3] w) => (float[A,B,C,D] y) { y = Conv (x, w) }"
IN_SPACE = CONVOLUTION.replace(",8]", ",8,8]").replace(",3]", ",3,3]").replace("D]", "D,E]")
EINSUM = 'g (float[8,8] x) => (float[8,8] y) { y = Einsum <equation = "EQ"> (IN) }'
RECURRENT = (
    "g (float[3,2,4] x, float[1,12,4] w) => (float[3,1,2,4] y) "
    "{ y = GRU <hidden_size = 4> (x, w, w) }"
)


@pytest.mark.parametrize(
    ("text", "builds"),
    [
        (PRODUCT, False),
        (PRODUCT.replace("float", "float16"), True),
        (PRODUCT.replace("MatMul", "Gemm"), False),
        (EINSUM.replace("EQ", "ij,ij->ij").replace("IN", "x, x"), False),
        (EINSUM.replace("EQ", "ij->ji").replace("IN", "x"), True),
        (RECURRENT, False),
        (CONVOLUTION, True),
        (CONVOLUTION.replace("Conv ", "ConvTranspose "), True),
        (IN_SPACE, False),
        (IN_SPACE.replace("Conv ", "ConvTranspose "), False),
        (IN_SPACE.replace("float", "float16"), True),
    ],
)
def test_float32_on_turing(text: str, builds: bool, tmp_path) -> None:
    code = "" if builds else "float32-product-on-turing"
    assert agree(text, tmp_path, target="sm_75") == code
    assert agree(text, tmp_path, target="sm_86") == ""


@pytest.mark.parametrize("target", ["sm_90", "sm_100", "sm_120", "sm_121"])
def test_targets(target: str, tmp_path) -> None:
    code = "" if target.startswith("sm_12") else "target-not-built"
    text = "g (float[2,4] x) => (float[2,4] y) { y = Relu (x) }"
    assert agree(text, tmp_path, target=target) == code


RESHAPE = "g (float[N,4] x) => (float[1,4] y) <int64[2] s = {1, 4}> { y = Reshape (x, s) }"
ADD = "g (float[N,4] x) => (float[M,4] y) <float[2,1] w = {1, 2}> { y = Add (x, w) }"
PAIR = "g (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Add (x, z) }"
VALUES = "g (float[N,4] x, int64[2] s) => (float[A,B] y) { y = Reshape (x, s) }"


@pytest.mark.parametrize(
    ("text", "shapes", "code"),
    [
        (RESHAPE, {"x": "1x4:1x4:8x4"}, ""),
        (RESHAPE, {"x": "1x4:8x4:8x4"}, "shapes-do-not-fit"),
        (ADD, {"x": "1x4:2x4:8x4"}, ""),
        (ADD, {"x": "1x4:4x4:8x4"}, "shapes-do-not-fit"),
        (PAIR, {"x": "1x4:2x4:8x4", "z": "1x4:2x4:8x4"}, ""),
        (PAIR, {"x": "1x4:2x4:8x4", "z": "1x4:3x4:8x4"}, "bad-profile"),
        (PAIR, {"x": "1x4:2x4:8x4"}, "no-profile"),
        (PAIR, {"x": "1x4:2x4:8x4", "z": "1x5:2x5:8x5"}, "bad-profile"),
        (PAIR, {"x": "1x4:2x4:8x4", "z": "1:2:8"}, "bad-profile"),
        (PAIR, {"x": "1x4:2x4:8x4", "z": "1x4:2x4:8x4", "zz": "1:2:3"}, "bad-profile"),
        (VALUES, {"x": "1x4:2x4:8x4", "s": "1x4:2x4:8x4"}, ""),
        (VALUES, {"x": "1x4:2x4:8x4", "s": "1:2:8"}, "bad-profile"),
        (VALUES, {"x": "1x4:2x4:8x4"}, "no-profile"),
    ],
)
def test_ranges(text: str, shapes: dict[str, str], code: str, tmp_path) -> None:
    assert agree(text, tmp_path, shapes=shapes) == code


def test_products_that_do_not_fit_at_the_usual_shapes_are_built_and_told_as_advice(
    tmp_path,
) -> None:
    text = "g (float[4,N] x) => (float[4,2] y) <float[2,2] w = {1,2,3,4}> { y = MatMul (x, w) }"
    shapes = {"x": "4x1:4x4:4x8"}
    assert agree(text, tmp_path, shapes=shapes) == ""
    model = ir.from_onnx_text(HEAD + text)
    profile = {name: ShapeRange.read(shape) for name, shape in shapes.items()}
    ctx = Context(model, tmp_path, Request("m.onnx", (profile,), (read_target("sm_89"),)))
    (advice,) = STEP.examine(model, ctx).findings
    assert (advice.code, advice.op, advice.level) == ("shapes-do-not-fit", "MatMul", "advice")
