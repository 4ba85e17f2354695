"""What only a build refuses, `check` finds in the graph: each rule on a model and on its twin."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt.builder_rules import refused_by_builder

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
TOP = "g (float[2,L] x) => (float[2,K] y, int64[2,K] i) <int64[1] k = {N}> { y, i = TopK (x, k) }"
EXPAND = "g (float[N] x) => (float[M] y) <int64[1] s = {4}> { y = Expand (x, s) }"
LOOP = (
    "g (int64 n, float[2] x) => (float[2] y) <bool c = {1}> { y = Loop (n, c, x) "
    "<body = b (int64 i, bool ci, BEFORE s) => (bool co, AFTER t) "
    "{ co = Identity (ci) t = Identity (s) }> }"
)
BRANCHES = (
    "g (bool c, float[1,3] x) => (float[N] y) { y = If (c) "
    "<then_branch = t () => (THEN a) { a = Identity (x) }, "
    "else_branch = e () => (float[1,3] b) { b = Identity (x) }> }"
)
CAST = "g (float[4] x) => (float[4] y) { a = Cast <to = TYPE> (x) y = Cast <to = 1> (a) }"
INPUT = "g (TYPE[4] x) => (float[4] y) <float s = {1}> { y = DequantizeLinear (x, s) }"


def top(length: object, count: int) -> str:
    return TOP.replace("L", str(length)).replace("{N}", f"{{{count}}}")


def loop(before: str, after: str) -> str:
    return LOOP.replace("BEFORE", before).replace("AFTER", after)


@pytest.mark.parametrize(
    ("code", "bad", "good", "evidence"),
    [
        ("too-many-elements", top(5000, 3841), top(5000, 3840), "k is 3841"),
        ("topk-beyond-axis", top(8, 9), top(8, 8), "axis -1 has 8 elements"),
        ("topk-beyond-axis", top(8, 9), top("M", 9), "k is 9"),
        ("slice-out-of-bounds", EXPAND.replace("N", "3"), EXPAND.replace("N", "1"), "3 elements"),
        ("slice-out-of-bounds", EXPAND.replace("N", "3"), EXPAND.replace("N", "N"), "become 4"),
        (
            "loop-changes-type", loop("float[2]", "float16[2]"), loop("float[2]", "float[2]"),
            "t is FLOAT16",
        ),
        (
            "loop-changes-shape", loop("float[2]", "float[3]"), loop("float[P]", "float[Q]"),
            "s is [2], t is [3]",
        ),
        (
            "branches-differ", BRANCHES.replace("THEN", "float[3]"),
            BRANCHES.replace("THEN", "float[1,N]"), "a is [3], b is [1,3]",
        ),
        (
            "branches-differ", BRANCHES.replace("THEN", "float16[1,3]"),
            BRANCHES.replace("THEN", "float[1,3]"), "a is FLOAT16",
        ),
        (
            "quantized-type-loose", CAST.replace("TYPE", "17"), CAST.replace("TYPE", "10"),
            "it casts FLOAT to FLOAT8E4M3FN",
        ),
        (
            "quantized-type-loose", INPUT.replace("TYPE", "float8e4m3fn"),
            INPUT.replace("TYPE", "int8"), "the input is float8e4m3fn",
        ),
    ],
)  # fmt: skip
def test_a_rule_speaks_and_is_silent(code: str, bad: str, good: str, evidence: str) -> None:
    found = list(refused_by_builder(ir.from_onnx_text(HEAD + bad)))
    assert {each.code for each in found} == {code}
    assert evidence in found[0].evidence
    assert found[0].remedies
    assert (found[0].level, found[0].seen_in) == ("refused", "model")
    assert list(refused_by_builder(ir.from_onnx_text(HEAD + good))) == []


def test_a_condition_that_is_known_takes_one_branch() -> None:
    known = BRANCHES.replace("THEN", "float[3]").replace("(bool c, float", "(float")
    text = known.replace("=> (float[N] y)", "=> (float[N] y) <bool c = {1}>")
    assert list(refused_by_builder(ir.from_onnx_text(HEAD + text))) == []


ATTENTION = "g (TYPE[2,SIZE] q, TYPE[2,SIZE] k) => (TYPE[A,B,C,D] y) { y = Attention (q, k, k) }"


def attention(dtype: str, size: str) -> str:
    return HEAD.replace(": 21", ": 23") + ATTENTION.replace("TYPE", dtype).replace("SIZE", size)


@pytest.mark.parametrize(
    ("model", "evidence"),
    [
        (attention("float", "2,4,16"), "it computes in FLOAT"),
        (attention("float16", "2,4,8"), "its heads are 8 wide"),
        (attention("float16", "2,4,257"), "its heads are 257 wide"),
        (attention("float16", "1,4,16").replace("[2,1", "[1,1"), "one head and a batch of one"),
        (attention("float16", "2,4,16").replace("q, k, k)", "q, q, k)"), "are one tensor, q"),
    ],
)
def test_attention_without_a_kernel_is_refused(model: str, evidence: str) -> None:
    (found,) = refused_by_builder(ir.from_onnx_text(model))
    assert (found.code, found.level) == ("attention-without-kernel", "refused")
    assert evidence in found.evidence


def test_attention_with_a_kernel_is_no_finding_and_unknown_heads_are_advice() -> None:
    assert list(refused_by_builder(ir.from_onnx_text(attention("float16", "2,4,9")))) == []
    (found,) = refused_by_builder(ir.from_onnx_text(attention("float16", "H,4,16")))
    assert (found.code, found.level) == ("attention-without-kernel", "advice")


TURN = (
    "g (int64 n, float[LENGTH] x) => (float[K] y) <bool c = {1}> { y = Loop (n, c, x) "
    "<body = b (int64 i, bool ci, float[P] s) => (bool co, float[P] t) "
    "{ co = Identity (ci) MADE }> }"
)
CUT = "q = Constant <value_ints = [0]> () r = Constant <value_ints = [2]> () t = Slice (s, q, r)"
GROWN = "t = Concat <axis = 0> (s, s)"


@pytest.mark.parametrize(
    ("length", "made", "usual", "evidence"),
    [
        ("4", GROWN, {}, "s enters a turn as [4] and leaves it as [8]"),
        ("4", "t = Concat <axis = 0> (s, x)", {}, "as [8]"),
        ("N", GROWN, {}, "with open sizes of 64: s enters a turn as [64] and leaves it as [128]"),
        ("N", GROWN, {"x": (3,)}, "as [3] and leaves it as [6]"),
        ("4", CUT, {}, "as [2]"),
        ("N", CUT, {"x": (3,)}, "as [2]"),
        ("N", CUT, {"x": (2,)}, ""),
        ("N", CUT, {}, ""),
        ("N", "t = Relu (s)", {}, ""),
        ("N", "z = Constant <value_ints = [0]> () t = Unsqueeze (s, z)", {}, "as [1,64]"),
        ("N", "z = Constant <value_ints = [-1]> () t = Reshape (s, z)", {}, ""),
    ],
)  # fmt: skip
def test_a_loop_that_changes_a_shape_is_found_by_inferring_one_turn(
    length: str, made: str, usual: dict[str, tuple[int, ...]], evidence: str
) -> None:
    """TensorRT-RTX 1.7.1 refuses exactly these: it compares at the usual shapes of the range."""
    text = HEAD + TURN.replace("LENGTH", length).replace("MADE", made)
    found = list(refused_by_builder(ir.from_onnx_text(text), usual))
    assert [each.code for each in found] == (["loop-changes-shape"] if evidence else [])
    assert all(evidence in each.evidence for each in found)
