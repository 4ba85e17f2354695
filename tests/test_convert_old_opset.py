"""Models of opset 6 as models of opset 7: the suite's outputs, old broadcasting included."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from conversion import assert_close, build_converted, convert, needs_tensorrt
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from trtforge.testing import run_model


def model(body: str) -> str:
    return f'<ir_version: 3, opset_import: ["" : 6]> g {body}'


@cache
def old_models() -> Mapping[str, Path]:
    """Folders of the suite's models of opset 6: what PyTorch exported in 2017."""
    found = {}
    for kind in ("pytorch-operator", "pytorch-converted"):
        for each in load_model_tests(kind=kind):
            folder = Path(each.model_dir)
            if onnx.load(folder / "model.onnx").opset_import[0].version < 7:
                found[each.name.removeprefix("test_")] = folder
    assert found
    return found


def arrays(folder: Path, kind: str) -> list[np.ndarray]:
    paths = sorted(folder.glob(f"test_data_set_0/{kind}_*.pb"))
    tensors = [onnx.TensorProto.FromString(path.read_bytes()) for path in paths]
    return [numpy_helper.to_array(tensor) for tensor in tensors]


@pytest.mark.parametrize("name", sorted(old_models()))
def test_an_old_model_keeps_its_outputs(name: str) -> None:
    folder = old_models()[name]
    before = onnx.load(folder / "model.onnx")
    after, _, notes = convert(before)
    assert after.opset_import[0].version == 7, notes
    constants = {tensor.name for tensor in before.graph.initializer}
    names = [value.name for value in before.graph.input if value.name not in constants]
    feeds = dict(zip(names, arrays(folder, "input"), strict=True))
    # The suite's own tolerances: its outputs come from PyTorch.
    assert_close(list(run_model(after, feeds).values()), arrays(folder, "output"), 1e-3, 1e-5)


def test_an_axis_of_old_broadcasting_is_kept() -> None:
    text = model(
        "(float[2,3,4] x, float[3] b) => (float[2,3,4] y) { y = Add <broadcast=1, axis=1> (x, b) }"
    )
    after, _, _ = convert(text)
    x, b = np.ones([2, 3, 4], np.float32), np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(run_model(after, {"x": x, "b": b})["y"], x + b[:, None])


def test_an_old_model_that_means_something_else_stays_with_the_reason() -> None:
    text = model("(float[2,3] x) => (float[2,3] y) { y = Dropout (x) }")
    after, count, notes = convert(text)
    assert (count, after.opset_import[0].version) == (0, 6)
    assert "at random" in notes[0].text


@pytest.mark.parametrize("version", [7, 8])
def test_integers_are_initializers_where_constant_nodes_hold_none(version: int) -> None:
    text = f"""<ir_version: 3, opset_import: ["" : {version}, "ai.onnx.ml" : 1]>
    g (float[2,5] x, int64[2] i) => (float[2,2] y)
    {{ y = ai.onnx.ml.ArrayFeatureExtractor (x, i) }}"""
    after, count, _ = convert(text)  # it holds the result to ONNX's checker
    assert count == 1
    assert [each.data_type for each in after.graph.initializer] == [onnx.TensorProto.INT64]
    assert "Constant" not in {node.op_type for node in after.graph.node}


@pytest.mark.parametrize("version", [8, 9])
def test_what_a_rule_needs_and_an_old_opset_lacks_is_a_reason(version: int) -> None:
    """Positions of maxima are compared as integers, which Less takes since version 9."""
    text = f"""<ir_version: 4, opset_import: ["" : {version}]>
    g (float[1,2,6] x) => (float[1,2,4] y, int64[1,2,4] i)
    {{ y, i = MaxPool <kernel_shape = [3]> (x) }}"""
    after, count, notes = convert(text)
    assert count == (version == 9)
    if not count:
        assert "opset 8 has not all that it takes" in notes[0].text
        assert [node.op_type for node in after.graph.node] == ["MaxPool"]


@needs_tensorrt
def test_tensorrt_builds_what_it_refused() -> None:
    text = model(
        "(float[2,3,4] x, float[3] b, float[3] s) => (float[2,3,4] y) "
        "{ z = Add <broadcast=1, axis=1> (x, b) y = PRelu (z, s) }"
    )
    build_converted({"old": text})
