"""check_op refuses an op that is not what it declares; each of its checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from trtforge_ops import BiasGelu

from trtforge import CustomOp, Launch
from trtforge.op_testing import check_op, launch_op, make_inputs

CASES = [[(2, 8), (8,)]]


def wrong_shape(self: Any, *inputs: Any) -> Any:
    return (inputs[1],)


def wrong_values(self: Any, *inputs: Any) -> Any:
    return (inputs[0] + inputs[1] + 1,)


def too_many_threads(self: Any, inputs: Any, outputs: Any, tactic: Any) -> Launch:
    return Launch(grid=1, block=2048)


def scalar_of_64_bits(self: Any, inputs: Any, outputs: Any, tactic: Any) -> Launch:
    return Launch(grid=1, block=32, scalars=(2**31,))


@pytest.mark.parametrize(
    ("method", "wrong", "words"),
    [
        ("shapes", wrong_shape, r"shapes\(\) says"),
        ("reference", wrong_values, "the ONNX function of trtforge::BiasGelu in opset 15"),
        ("launch", too_many_threads, "cannot be started"),
        ("launch", scalar_of_64_bits, "does not fit the kernel's int"),
    ],
)
def test_a_wrong_method_is_found(
    method: str, wrong: Callable[..., Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BiasGelu, method, wrong)
    with pytest.raises(AssertionError, match=words):
        check_op(BiasGelu(), CASES)


def test_a_function_that_loses_the_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "s = Add (x, bias) one = Constant <value_float = 1.0> () y = Mul (s, one)"
    monkeypatch.setattr(BiasGelu, "function", body)
    with pytest.raises(AssertionError, match="invalid for float16"):
        check_op(BiasGelu(), CASES)


def test_a_function_that_fits_no_opset_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BiasGelu, "function", "y = Attention (x, bias, bias)")  # opset 23
    with pytest.raises(AssertionError, match="fits none of the opsets"):
        check_op(BiasGelu(), CASES)


def test_a_case_has_one_shape_per_input() -> None:
    with pytest.raises(AssertionError, match="has 2 inputs"):
        check_op(BiasGelu(), [[(2, 8)]])


def test_without_a_gpu_the_kernel_is_said_to_be_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from trtforge import EnvironmentLacks, op_testing

    monkeypatch.setattr(op_testing, "gpu_name", lambda: "")
    assert check_op(BiasGelu(), CASES).kernel_ran_on == ""
    inputs = make_inputs(BiasGelu(), CASES[0], "float32", np.random.default_rng(0))
    with pytest.raises(EnvironmentLacks, match="needs an NVIDIA GPU"):
        launch_op(BiasGelu(), inputs, "float32")


@dataclass(frozen=True)
class Positive(CustomOp):
    """The positive entries of x: how many there are depends on the data."""

    name = "test::Positive"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32",)
    kernel = "positive.cu.jinja"
    counted = ("y",)
    function = """
        zero = Constant <value_float = 0.0> ()
        mask = Greater (x, zero)
        y = Compress <axis = 0> (x, mask)
    """

    def shapes(self, *inputs: Any) -> Any:
        return inputs

    def launch(self, inputs: Any, outputs: Any, tactic: Any) -> Launch:
        return Launch(1, 32, scalars=inputs[0])

    def reference(self, *inputs: Any) -> Any:
        return (inputs[0][inputs[0] > 0],)


def test_the_length_of_a_counted_output_is_what_the_data_makes_it() -> None:
    given = np.asarray([1, -2, 3, 0], np.float32)
    assert check_op(Positive(), [[given], [(50,)]], targets=[]).opsets


def test_more_than_a_counted_output_can_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Positive, "shapes", lambda self, x: ((1,),))
    with pytest.raises(AssertionError, match=r"shapes\(\) says"):
        check_op(Positive(), [[np.asarray([1, 2], np.float32)]], targets=[])
