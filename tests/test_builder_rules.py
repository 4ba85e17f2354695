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


def test_attention_is_told_as_advice() -> None:
    """Whether there is a kernel for its sizes only a build can say."""
    text = "g (float[1,2,4,8] q) => (float[1,2,4,8] y) { y = Attention (q, q, q) }"
    head = HEAD.replace(": 21", ": 23")
    (found,) = refused_by_builder(ir.from_onnx_text(head + text))
    assert (found.code, found.level) == ("attention-without-kernel", "advice")
