"""What the tests of conversion rules share: cases of the ONNX suite, how to run a model, builds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from layer_dumps import HAVE_TENSORRT, build_dumps
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase
from onnx.reference import ReferenceEvaluator
from trtforge_plugins.convert import MakeConvertible

from trtforge.context import Note
from trtforge.testing import apply, run_model

Arrays = Mapping[str, np.ndarray]
needs_tensorrt = pytest.mark.skipif(
    not HAVE_TENSORRT, reason="not run: no TensorRT-RTX here (pip install tensorrt-rtx)"
)


@cache
def _all_cases() -> Mapping[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite overflows and divides by zero on purpose
        return {case.name.removeprefix("test_"): case for case in collect_testcases(None)}


def suite(*prefixes: str) -> Sequence[str]:
    """Names of the suite's node models that start with one of ``prefixes``, as the suite has them.

    Their ``_expanded`` forms consist of other operators and are left out.
    """
    names = [name for name in _all_cases() if name.startswith(prefixes) and "expanded" not in name]
    assert names, f"the suite has no case that starts with {prefixes}"
    return names


def case(name: str) -> TestCase:
    return _all_cases()[name]


def convert(model: str | onnx.ModelProto) -> tuple[onnx.ModelProto, int, list[Note]]:
    """The model after shape inference and make-convertible, the number of rewrites, the notes."""
    import onnx_ir as ir

    proto = onnx.parser.parse_model(model) if isinstance(model, str) else model
    known = onnx.shape_inference.infer_shapes(proto)
    after, count, notes = apply(MakeConvertible(), known)
    result = ir.to_proto(after)
    onnx.checker.check_model(result, full_check=True)
    assert [v.name for v in result.graph.input] == [v.name for v in proto.graph.input]
    assert [v.name for v in result.graph.output] == [v.name for v in proto.graph.output]
    again, second, _ = apply(MakeConvertible(), after)
    assert second == 0, f"a second run rewrites {second} nodes of {again}"
    return result, count, notes


def build_converted(models: Mapping[str, str | onnx.ModelProto]) -> dict[str, str]:
    """TensorRT's layer dumps of the models after conversion; fails where it builds no engine."""
    return build_dumps({name: (convert(model)[0], ("SM89",)) for name, model in models.items()})


def evaluate(model: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """Outputs of ONNX Runtime, or of the ONNX reference where it has no kernel for the model."""
    try:
        return run_model(model, feeds)
    except (
        onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
        onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
        RuntimeError,  # "Numpy_type 256 can't be converted": it feeds no bfloat16
    ):
        return reference(model, feeds)


def reference(model: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """Outputs of the ONNX reference evaluator."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


def check_suite_case(name: str) -> tuple[onnx.ModelProto, int]:
    """Convert a model of the suite and hold its outputs to the suite's, with its tolerances."""
    given = case(name)
    after, count, _ = convert(given.model)
    names = [value.name for value in after.graph.input]
    for inputs, expected in given.data_sets:
        arrays = [np.asarray(each) for each in inputs]  # the suite has NumPy's scalars as well
        found = evaluate(after, dict(zip(names, arrays, strict=True)))
        assert_close(list(found.values()), expected, given.rtol, given.atol or 1e-7)
    return after, count


def check_same(
    text: str, feeds: Arrays, rtol: float = 0, atol: float = 0
) -> tuple[onnx.ModelProto, int]:
    """Convert ONNX text and hold the outputs to those before, under ONNX Runtime."""
    after, count, _ = convert(text)
    expected = run_model(onnx.parser.parse_model(text), feeds)
    assert_close(list(run_model(after, feeds).values()), list(expected.values()), rtol, atol)
    return after, count


def assert_close(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray], rtol: float, atol: float
) -> None:
    """Equal types and shapes, and values within the tolerances; NaN equals NaN."""
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        wide = (np.asarray(each).astype(np.float64) for each in (one, other))
        np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)
