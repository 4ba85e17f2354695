"""Every recipe that ships runs, on a trained model with real images, and proves its precision."""

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
