"""Targets that a TensorRT does not build for, and nodes that do not build for one of them."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from trtforge_plugins.tensorrt.target_rules import check_targets, refused_for_turing

from trtforge import RequestError
from trtforge.targets import read_target

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
PRODUCT = "g (float[8,16] x, float[16,16] w) => (float[8,16] y) { y = MatMul (x, w) }"
CONV = "g (float[1,4,8,8,8] x, float[4,4,3,3,3] w) => (float[A,B,C,D,E] y) { y = Conv (x, w) }"
LSTM = (
    "g (float[3,2,4] x, float[1,16,4] w, float[1,16,4] r) => (float[3,1,2,4] y) "
    "{ y = LSTM <hidden_size = 4> (x, w, r) }"
)
EINSUM = (
    'g (float[8,16] x, float[8,16] z) => (float[8,N] y) { y = Einsum <equation = "EQ"> (ARGS) }'
)


def einsum(equation: str, arguments: str) -> str:
    return EINSUM.replace("EQ", equation).replace("ARGS", arguments)


def of(text: str, *targets: str) -> list[str]:
    found = refused_for_turing(ir.from_onnx_text(HEAD + text), [*map(read_target, targets)])
    return [each.evidence for each in found]


@pytest.mark.parametrize(
    "text",
    [PRODUCT, PRODUCT.replace("MatMul", "Gemm"), LSTM, CONV,
     CONV.replace("Conv", "ConvTranspose"), einsum("ij,ij->ij", "x, z")],
)  # fmt: skip
def test_float32_that_turing_does_not_compute_is_found(text: str) -> None:
    assert len(of(text, "sm_75", "sm_86")) == 1
    assert of(text, "sm_86") == []
    assert of(text.replace("float[", "float16["), "sm_75") == []


@pytest.mark.parametrize(
    "text",
    [
        CONV.replace(",8,8,8]", ",8,8]").replace(",3,3,3]", ",3,3]").replace(",E]", "]"),
        einsum("ij->i", "x").replace("[8,N]", "[8]"),
        "g (float[8,16] x) => (float[8,16] y) { y = Softmax (x) }",
    ],
)
def test_other_float32_builds_for_turing(text: str) -> None:
    assert of(text, "sm_75") == []


def test_targets_without_kernels_are_named_with_those_that_have_them() -> None:
    with pytest.raises(RequestError, match="does not build for sm_90, sm_100") as caught:
        check_targets("TensorRT-RTX 1.7.1", [86, 90, 100], [80, 86])
    assert caught.value.code == "target-not-built"
    assert "sm_80, sm_86" in caught.value.remedy
    check_targets("TensorRT-RTX 1.7.1", [86], [80, 86])
