"""Every recipe that ships runs, on a trained model with real images, and proves its precision."""

from pathlib import Path

import models
import numpy as np
import onnx
import pytest

import trtforge
from trtforge import demo
from trtforge.host import Host

SHAPES = {"image": "1x1x8x8:32x1x8x8:256x1x8x8"}
DATA = [f"load-data.path={demo.CALIBRATION}"]
CASES = {
    # recipe: (type of most of the work, settings, targets it may be built for)
    "fp16": ("float16", [], {"sm_80", "sm_86", "sm_89", "sm_120"}),
    "bf16": ("bfloat16", [], {"sm_80", "sm_86", "sm_89", "sm_120"}),
    "int8": ("int8", DATA, {"sm_80", "sm_86", "sm_89", "sm_120"}),
    "fp8": ("float8e4m3fn", DATA, {"sm_89", "sm_120"}),
    "best": ("int8", DATA, {"sm_80", "sm_86", "sm_89", "sm_120"}),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", CASES)
def test_it_builds_what_it_promises(name, tmp_path):
    dtype, settings, targets = CASES[name]
    done = trtforge.run(name, demo.MODEL, out=tmp_path / "out", shapes=SHAPES, settings=settings)
    assert done.exit_code == 0, done.missed
    assert set(done.engine.targets) == targets
    assert sum(part.share for part in done.proof.shares if part.dtype == dtype) > 0.99
    assert done.proof.holds


def transformer(folder: Path) -> tuple[Path, list[str], dict[str, str]]:
    """Write a small BERT and random sentences; return both and the shapes."""
    onnx.save(models.bert(sequence=32), folder / "model.onnx")
    feed = models.bert_feed(32, 32, 128)
    np.savez(folder / "data.npz", **feed)
    shapes = dict.fromkeys(feed, "2x32:2x32:2x32")
    return folder / "model.onnx", [f"load-data.path={folder / 'data.npz'}"], shapes


def residual_network(folder: Path) -> tuple[Path, list[str], dict[str, str]]:
    """Write a small ResNet and random images; return both and the shapes."""
    onnx.save(models.resnet50((1, 1), width=32, size=32), folder / "model.onnx")
    images = np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "data.npz", image=images)
    shapes = {"image": "2x3x32x32:2x3x32x32:2x3x32x32"}
    return folder / "model.onnx", [f"load-data.path={folder / 'data.npz'}"], shapes


GPUS = {
    "int8": ["sm_75", "sm_80", "sm_86", "sm_89", "sm_120"],
    "best": ["sm_75", "sm_80", "sm_86", "sm_89", "sm_120"],
    "fp8": ["sm_89", "sm_120"],
}
"""Each kind of GPU that takes the type of the recipe."""


@pytest.mark.slow
@pytest.mark.parametrize("make", [transformer, residual_network])
@pytest.mark.parametrize("name", GPUS)
def test_all_that_it_asks_for_runs_in_the_type_on_each_gpu(name, make, tmp_path):
    model, data, shapes = make(tmp_path)
    for target in GPUS[name]:
        done = trtforge.run(
            name, model, out=tmp_path / target, shapes=shapes, settings=data, targets=[target]
        )
        assert done.engine.targets == (target,)
        assert done.proof.holds, (target, done.proof.deviations, done.proof.unknown)
        asked = set(done.proof.asked.values())
        # TensorRT-RTX has no INT8 convolution for Turing: insert-qdq asks for none there.
        turing = target == "sm_75" and make is residual_network
        assert turing or CASES[name][0] in asked, (target, asked)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_queries_keys_and_values_are_one_product(name, tmp_path):
    model, data, shapes = transformer(tmp_path)
    done = trtforge.run(
        name, model, out=tmp_path / "out", shapes=shapes, settings=data, targets=["sm_89"]
    )
    joined = [node for node in onnx.load(done.model).graph.node if node.op_type == "Split"]
    assert [len(node.output) for node in joined] == [3, 3]  # two layers


def test_convert_builds_nothing_and_keeps_the_outputs(tmp_path):
    done = trtforge.run("convert", demo.MODEL, out=tmp_path / "out", shapes=SHAPES)
    assert done.exit_code == 0, done.missed
    assert done.engine is None
    assert done.comparison.outputs[0].sqnr_db > 100  # only the order of sums may change


@pytest.mark.parametrize("name", ["int8", "fp8", "best"])
def test_quantizing_without_data_is_refused(name, tmp_path):
    with pytest.raises(trtforge.TrtforgeError, match=r"load-data\.path") as caught:
        trtforge.run(name, demo.MODEL, out=tmp_path / "out", shapes=SHAPES)
    assert caught.value.exit_code == 2


def test_no_recipe_is_left_out():
    assert set(CASES) | {"convert"} == set(Host().recipes)
