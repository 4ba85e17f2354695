"""Models with NVFP4 under ONNX Runtime: the same numbers as ONNX's own evaluator gives."""

from functools import cache
from pathlib import Path

import ml_dtypes
import models
import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.placement import points_to_measure

from trtforge import Context, Range, Ranges, Request
from trtforge.float4 import uses_float4
from trtforge.reference import Reference

PRODUCT = """
<ir_version: 10, opset_import: ["" : 23]>
product (float[3,32] x) => (float[3,16] y) <float[32,16] w> { [product] y = MatMul (x, w) }
"""


class TRT_FP4DynamicQuantize(OpRun):  # noqa: N801  # the evaluator finds it by this name
    """Blocks of 16 along the last axis, as TensorRT documents it, in ml_dtypes' own rounding."""

    op_domain = "trt"

    def _run(self, x, scale, axis=-1, block_size=16, scale_type=17):
        assert (axis, block_size, scale_type) == (-1, 16, 17)
        blocks = x.reshape(*x.shape[:-1], -1, 16)
        largest = np.abs(blocks).max(-1)
        low = (largest / np.float32(6) / scale).astype(ml_dtypes.float8_e4m3fn)
        step = np.expand_dims(low.astype(np.float32) * scale, -1)
        scaled = np.divide(blocks, step, out=np.zeros_like(blocks), where=step != 0)
        return scaled.astype(ml_dtypes.float4_e2m1fn).reshape(x.shape), low


@cache
def quantized(amax: float) -> ir.Model:
    ctx = Context(ir.from_proto(models.parse(PRODUCT)), Path(), Request("m"))
    ctx.put(Ranges({"x": Range(-amax, amax)}, "fixed", 1, "test"))
    assert [str(point.tensor.name) for point in points_to_measure(ctx.model)] == ["x"]
    InsertQDQ(dtype="float4e2m1").run(ctx)
    return ctx.model


def evaluated(model: ir.Model, x: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=[TRT_FP4DynamicQuantize])
    (y,) = evaluator.run(None, {"x": x})
    return y


# Up to the range: beyond it TensorRT's saturation is a matter of its own.
NUMBERS = st.floats(-8, 8, width=32) | st.sampled_from([0.0, 0.25, 2.5, 5.0, 8.0])


@settings(deadline=None)  # the machine may be busy
@given(arrays(np.float32, (3, 32), elements=NUMBERS))
def test_the_reference_computes_what_the_onnx_evaluator_computes(x: np.ndarray) -> None:
    model = quantized(8.0)
    found = Reference(model, provider="cpu").run({"x": x})["y"]
    # The same terms, added in another order.
    np.testing.assert_allclose(found, evaluated(model, x), rtol=1e-5, atol=1e-5)


def test_only_models_with_4_bit_numbers_are_rewritten() -> None:
    assert uses_float4(quantized(1.0))
    assert not uses_float4(ir.from_proto(models.parse(models.MLP)))


def test_the_error_is_that_of_the_type() -> None:
    """Two roundings with a bit of mantissa: each about -19 dB on normal data in blocks of 16."""
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    exact = ReferenceEvaluator(models.parse(PRODUCT)).run(None, {"x": x})[0]
    error = Reference(quantized(4.0), provider="cpu").run({"x": x})["y"] - exact
    assert 10 * np.log10(np.square(exact).sum() / np.square(error).sum()) > 14
