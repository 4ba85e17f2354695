"""The doctor on a machine with a GPU."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from command import trtforge
from trtforge_plugins.tensorrt import gpu as cuda


@pytest.mark.gpu
def test_nvml_and_the_driver_agree_about_the_gpu(gpu):
    data = trtforge("doctor", "--json", "--gpu").json
    seen = {each["compute_capability"].replace(".", "") for each in data["environment"]["gpus"]}
    first = cuda.current()
    assert first is not None
    assert str(first.sm) in seen
    assert data["environment"]["driver"]
    assert "gpu" in [finding["code"] for finding in data["findings"]]


@pytest.mark.gpu
def test_the_gate_opens_for_this_gpu_only(gpu):
    first = cuda.current()
    assert first is not None
    answers = trtforge("doctor", "--require", f"gpu,sm_{first.sm},sm_1", "--json").json["required"]
    assert [answer["met"] for answer in answers] == [True, True, False]
