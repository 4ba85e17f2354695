"""Models, shapes and targets that cannot be used, given to the real command."""

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from refusals import CONV, refused

pytestmark = pytest.mark.usefixtures("place")


def zipped():
    with zipfile.ZipFile("m.onnx", "w") as archive:
        archive.writestr("data.pkl", b"x")


MODEL_FILES = {
    "missing": (None, "there is no such file"),
    "empty": (b"", "the file is empty"),
    "cut short": (CONV[: len(CONV) // 2], "damaged, cut short"),
    "text": (b"this is my model\n", "this is a text file"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "random bytes": (np.random.default_rng(0).bytes(4096), "no ONNX model"),
    "zip archive": (zipped, "a zip archive"),
    "gzip": (gzip.compress(CONV), "compressed with gzip"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("command", [["run", "convert", "--model"], ["check"], ["init"]])
def test_a_file_that_is_no_model(name, command):
    content, says = MODEL_FILES[name]
    if callable(content):
        content()
    elif content is not None:
        Path("m.onnx").write_bytes(content)
    refused(*command, "m.onnx", says=["m.onnx", says])


@pytest.mark.parametrize(("file", "says"), [("none.pt2", "no such file"), ("m.pth", "pickled")])
def test_a_file_that_pytorch_would_not_help_with(file, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # Python's mark of what cannot be imported
    refused("run", "convert", "--model", file, says=[file, says])


def test_a_folder_without_a_model():
    Path("empty").mkdir()
    refused("run", "convert", "--model", "empty", says=["empty"])


def test_a_model_that_breaks_onnx_rules(place):
    text = '<ir_version: 10, opset_import: ["" : 21]> m (float[4] x) => (float[4] y) {y = Add(x)}'
    Path("m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    refused("run", "convert", "-m", "m.onnx", says=["m.onnx", "breaks ONNX's rules"])


def test_a_small_model_that_claims_a_trillion_elements():
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=b"")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10**6, 10**6])], [weight],
    )  # fmt: skip
    Path("m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert Path("m.onnx").stat().st_size < 100
    refused("run", "convert", "-m", "m.onnx", says=["tensor 'w'", "need 4000000000000"])


def external(location):
    """Write the model with its weights said to be in the file ``location``."""
    model = onnx.ModelProto.FromString(CONV)
    for tensor in model.graph.initializer:
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": 0, "length": size}.items():
            tensor.external_data.add(key=key, value=str(value))
    Path("m.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("weights.bin", "the data file is missing"),
        ("../weights.bin", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("short.bin", "too short"),
    ],
)
def test_external_data_that_is_not_there_or_not_ours(place, location, says):
    (place.parent / "weights.bin").write_bytes(bytes(2**16))
    Path("short.bin").write_bytes(b"1")
    external(location)
    refused("run", "convert", "-m", "m.onnx", says=["m.onnx", location, says])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no_such_package:make", "no_such_package"),
        ("json:no_such_function", "no_such_function"),
        ("json:", "json:"),
    ],
)
def test_code_that_is_not_there(source, says):
    pytest.importorskip("torch", reason="import-torch is not tested: pip install torch")
    refused("run", "convert", "-m", source, says=[says])


# Shapes and targets


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("y=1x16x8x8", "no input 'y'"),
        ("X=1x16x8x8", "no input 'X'"),
        ("x=8x16x8x8:1x16x8x8:8x16x8x8", "are not in order"),
        ("x=1x16x8x8:1x16x8x8", "is not a shape"),
        ("x=1x16x8", "has rank 4"),
        ("x=1x3x8x8", "dimension 1 is 16"),
        ("x=-1x16x8x8", "is not a shape"),
        ("x=big", "is not a shape"),
        ("x=99999999999x16x8x8", "outside 0.."),
        ("x", "not of the form INPUT=SHAPE"),
    ],
)
def test_shapes_that_do_not_fit(shape, says):
    arguments = ("run", "fp16", "-m", "good.onnx", "--target", "sm_86", "--shape", shape)
    refused(*arguments, says=[says])
    refused(*arguments, "--dry-run", says=[says])


def test_a_dynamic_input_without_shapes():
    answer = refused("run", "fp16", "-m", "good.onnx", "--target", "sm_86")
    assert "the input 'x' is dynamic (Nx16x8x8)" in answer.err
    assert "shapes: {x: {min: 1x16x8x8, opt: 8x16x8x8, max: 32x16x8x8}}" in answer.err


def test_an_unknown_target():
    shape = ("--shape", "x=1x16x8x8")
    arguments = ("run", "fp16", "-m", "good.onnx", *shape)
    refused(*arguments, "--target", "sm_88", says=["unknown target 'sm_88'", "To do:", "sm_89"])
    refused(*arguments, "--target", "H100", says=["unknown target 'H100'", "sm_90"])


def test_a_target_without_the_type():
    arguments = ["--target", "sm_86", "--shape", "x=1x16x8x8", "--set", "load-data.synthesize=true"]
    answer = refused("run", "fp8", "-m", "good.onnx", *arguments, unchanged=False)
    assert "sm_86" in answer.err
    assert "float8" in answer.err.lower()
