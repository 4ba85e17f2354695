"""import-onnx: what it takes, what it gives, what it refuses."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from trtforge_plugins.importers.onnx_file import ImportOnnx

import trtforge as tf
from trtforge import model_file

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
scale (float[N,4] x) => (float[N,4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { y = Mul (x, w) }
"""
UNSORTED = MODEL.replace("y = Mul (x, w)", "y = Relu (a) a = Mul (x, w)")


@pytest.fixture
def ctx(tmp_path: Path) -> tf.Context:
    return tf.Context(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), tmp_path, tf.Request(""))


def test_a_file_and_its_folder_are_accepted(tmp_path: Path, ctx: tf.Context) -> None:
    path = tmp_path / "models" / "scale.onnx"
    model_file.save(ir.from_onnx_text(MODEL), path)
    for source in (str(path), str(path.parent)):
        assert ImportOnnx.accepts(source)
        assert ImportOnnx().load(source, ctx).graph.name == "scale"


def test_other_files_are_left_to_other_importers(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    assert not ImportOnnx.accepts(str(tmp_path))
    assert not ImportOnnx.accepts("model.pt2")


def test_a_model_that_breaks_onnx_rules_is_refused(tmp_path: Path, ctx: tf.Context) -> None:
    path = tmp_path / "unsorted.onnx"
    path.write_bytes(onnx.parser.parse_model(UNSORTED).SerializeToString())
    with pytest.raises(tf.ModelError, match="topologically sorted"):
        ImportOnnx().load(str(path), ctx)
