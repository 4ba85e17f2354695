"""import-tensorflow: SavedModel and Keras files give ONNX models with the same outputs.

TensorFlow is large and pins its own versions, so it may live in an environment of its own: set
``TRTFORGE_TENSORFLOW_PYTHON`` to that environment's interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from trtforge_plugins.importers.tensorflow_model import ImportTensorFlow

import trtforge as tf
from trtforge import model_file

ELSEWHERE = os.environ.get("TRTFORGE_TENSORFLOW_PYTHON", "")
needs_tensorflow = pytest.mark.skipif(
    not ELSEWHERE and not all(map(importlib.util.find_spec, ("tensorflow", "tf2onnx"))),
    reason="pip install 'trtforge[tensorflow]', here or where TRTFORGE_TENSORFLOW_PYTHON points",
)
MAKE_MODELS = """
import sys
import keras
import numpy as np
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    layers.Input((8, 8, 3), name="image"), layers.Conv2D(4, 3, activation="relu"),
    layers.BatchNormalization(), layers.Flatten(), layers.Dense(5, activation="softmax"),
])
folder = sys.argv[1]
model.save(f"{folder}/net.keras")
model.save(f"{folder}/net.h5")
model.export(f"{folder}/saved")
x = np.random.default_rng(0).random((3, 8, 8, 3), dtype=np.float32)
np.savez(f"{folder}/data.npz", x=x, y=model(x).numpy())
evil = keras.Sequential([layers.Input((2,)), layers.Lambda(lambda x: x * 2)])
evil.save(f"{folder}/lambda.keras")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run(
        [ELSEWHERE or sys.executable, "-c", MAKE_MODELS, str(folder)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def ctx(tmp_path: Path) -> tf.Context:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    return tf.Context(model, tmp_path / "run", tf.Request(""))


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved", "net.keras", "net.h5"])
def test_outputs_are_those_of_tensorflow(
    name: str, models: Path, ctx: tf.Context, tmp_path: Path
) -> None:
    source = str(models / name)
    assert ImportTensorFlow.accepts(source)
    model = ImportTensorFlow(python=ELSEWHERE).load(source, ctx)
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert model.opset_imports[""] == ImportTensorFlow().opset
    model_file.save(model, tmp_path / "compare.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "compare.onnx")
    data = np.load(models / "data.npz")
    actual = session.run(None, {"image": data["x"]})[0]
    # float32 sums of at most 144 terms in another order
    np.testing.assert_allclose(actual, data["y"], rtol=1e-4, atol=1e-6)


@needs_tensorflow
@pytest.mark.slow
def test_python_code_inside_a_keras_file_is_refused(models: Path, ctx: tf.Context) -> None:
    with pytest.raises(tf.ModelError, match="was not converted"):
        ImportTensorFlow(python=ELSEWHERE).load(str(models / "lambda.keras"), ctx)


@needs_tensorflow
@pytest.mark.slow
def test_a_wrong_signature_is_named(models: Path, ctx: tf.Context) -> None:
    step = ImportTensorFlow(python=ELSEWHERE, signature="predict")
    with pytest.raises(tf.ModelError, match="predict"):
        step.load(str(models / "saved"), ctx)


def test_an_interpreter_without_tensorflow_is_said(tmp_path: Path, ctx: tf.Context) -> None:
    path = tmp_path / "net.keras"
    path.touch()
    empty = tmp_path / "python"
    empty.write_text(f"#!/bin/sh\nexec {sys.executable} -S -E -s -c 'import keras'\n")
    empty.chmod(0o755)
    with pytest.raises(tf.EnvironmentLacks, match="No module named 'keras'") as lack:
        ImportTensorFlow(python=str(empty)).load(str(path), ctx)
    assert "pip install" in lack.value.remedy
    with pytest.raises(tf.EnvironmentLacks, match="cannot be started"):
        ImportTensorFlow(python=str(tmp_path / "none")).load(str(path), ctx)


def test_a_conversion_that_hangs_is_given_up(tmp_path: Path, ctx: tf.Context) -> None:
    path = tmp_path / "net.keras"
    path.touch()
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(tf.ModelError, match=r"more than 0\.2 s"):
        ImportTensorFlow(python=str(slow), timeout=0.2).load(str(path), ctx)


def test_other_models_are_left_to_other_importers(tmp_path: Path, ctx: tf.Context) -> None:
    assert not ImportTensorFlow.accepts(str(tmp_path))
    assert not ImportTensorFlow.accepts("model.onnx")
    with pytest.raises(tf.ModelError, match="no such file"):
        ImportTensorFlow().load(str(tmp_path / "none.keras"), ctx)
