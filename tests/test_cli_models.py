"""What the commands answer to questions about models."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from command import done
from models import STATIC
from trtforge_plugins.importers.onnx_file import ImportOnnx

from trtforge import demo

pytestmark = pytest.mark.usefixtures("two_models")

DONE, REQUIREMENT_MISSED = 0, 1


def test_check_a_model_that_tensorrt_takes():
    assert re.search(
        r"static.onnx: tensorrt_rtx .* takes it as it is", done("check", "static.onnx").out
    )
    assert done("check", "static.onnx", "--json").json["findings"] == []


def test_check_a_model_that_needs_converting():
    answer = done("check", demo.MODEL, code=REQUIREMENT_MISSED)
    assert "1 finding of tensorrt_rtx" in answer.out
    assert "ReduceMean 'node_mean'" in answer.out
    assert "After the recipe `convert`: TensorRT takes it" in answer.out
    assert f"To do: trtforge run convert --model {demo.MODEL}" in answer.out
    found = done("check", demo.MODEL, "--json", code=REQUIREMENT_MISSED).json
    assert found["findings"][0]["op"] == "ReduceMean"
    assert found["findings"][0]["mended"] is True
    assert found["left"] == 0


def test_check_a_model_that_nothing_mends():
    text = STATIC.replace('"" : 21', '"" : 21, "acme" : 1').replace("Neg", "acme.Mystery")
    Path("m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    answer = done("check", "m.onnx", code=REQUIREMENT_MISSED)
    assert "Mystery 'second': " in answer.out
    assert "    To do: " in answer.out
    assert "After the recipe `convert`: 1 finding\n" in answer.out
    assert "trtforge run convert" not in answer.out


AXES = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2,3] x, int64[k] axes) => (float[n] y) { y = ReduceSum <keepdims = 0> (x, axes) }"""


def test_check_names_the_input_to_freeze_and_run_and_verify_know_it():
    Path("m.onnx").write_bytes(onnx.parser.parse_model(AXES).SerializeToString())
    answer = done("check", "m.onnx", code=REQUIREMENT_MISSED)
    assert "After the recipe `convert`: 1 finding\n" in answer.out
    assert "freeze 'axes'" in answer.out
    assert "`freeze-inputs: {values: {axes: [1]}}`" in answer.out
    setting = answer.out.partition("--set '")[2].partition("'")[0]
    done("run", "convert", "--model", "m.onnx", "--set", setting, "-o", "out")
    assert "takes it as it is" in done("check", "out/model.onnx").out
    assert "4 samples: synthesized" in done("verify", "m.onnx", "out/model.onnx").out
    np.savez("x.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3))
    assert "2 samples" in done("verify", "m.onnx", "out/model.onnx", "--data", "x.npz").out


@pytest.mark.parametrize("model", [demo.MODEL, "static.onnx", "good.onnx"])
def test_the_recipe_of_init_runs_as_it_is(model):
    assert "next: trtforge run my.yaml" in done("init", model, "-o", "my.yaml").out
    text = Path("my.yaml").read_text()
    assert f'model: "{model}"' in text
    assert ("shapes:" in text) is (model != "static.onnx")
    report = done("run", "my.yaml", "--json").json
    assert report["verdict"]["exit_code"] == DONE
    assert report["engines"][0]["targets"] == ["sm_80", "sm_86", "sm_89", "sm_120"]
    assert done("init", model, "-o", "my.yaml", "--force").code == DONE


def test_init_below_another_folder_names_the_model_from_there():
    Path("recipes").mkdir()
    done("init", "static.onnx", "-o", "recipes/my.yaml")
    assert done("run", "recipes/my.yaml", "--dry-run").code == DONE


def test_init_of_a_model_that_code_makes(monkeypatch):
    """A recipe may not name code, so the user does; the importer itself is another test's."""
    monkeypatch.setattr(
        "trtforge_plugins.importers.torch_model.ImportTorch.run",
        lambda self, ctx: ImportOnnx(source="static.onnx").run(ctx),
    )
    answer = done("init", "my.models:make", "-o", "my.yaml")
    assert answer.out == "wrote my.yaml; next: trtforge run my.yaml --model my.models:make\n"
    assert "\nmodel:" not in Path("my.yaml").read_text()
    assert done("run", "my.yaml", "--model", "my.models:make", "--dry-run").code == DONE


OTHER = STATIC.replace("Neg (a)", "Identity (a)")


def test_a_run_without_comparison():
    done("run", "convert", "-m", "good.onnx", "--no-compare", "--out", "out")
    report = json.loads(Path("out/report.json").read_text())
    assert report["comparison"] is None
    assert "compare" not in [stage["name"] for stage in report["stages"]]


def test_verify_equal_and_different_models():
    Path("other.onnx").write_bytes(onnx.parser.parse_model(OTHER).SerializeToString())
    np.savez("data.npz", x=np.ones((4, 8), np.float32))
    equal = done("verify", "static.onnx", "static.onnx", "--data", "data.npz")
    assert re.search(r"^y +0 +0 +1\.000000 +inf", equal.out, re.MULTILINE)
    assert "4 samples: data.npz\n" in equal.out
    found = done("verify", "static.onnx", "static.onnx", "--json").json
    assert found["outputs"][0]["sqnr_db"] == "Infinity"
    assert found["real"] is False
    different = done("verify", "static.onnx", "other.onnx", code=REQUIREMENT_MISSED)
    assert "trtforge: not met: " in different.err
    assert "not real data: give some with --data" in different.out
    missed = done("verify", "static.onnx", "other.onnx", "--json", code=REQUIREMENT_MISSED).json
    assert "cosine" in missed["missed"][0]


def test_verify_models_of_different_interface():
    answer = done("verify", "good.onnx", "static.onnx", code=REQUIREMENT_MISSED)
    assert "input 'x' has shape (2, 8) instead of ('N', 16, 8, 8)" in answer.out
    assert "trtforge: not met: " in answer.err
