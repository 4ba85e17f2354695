"""For which GPUs the `tensorrt` step builds: here there may be none."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tensorrt_builds import FOUR, MLP, build
from trtforge_plugins.tensorrt import gpu, library
from trtforge_plugins.tensorrt.build_targets import build_targets

from trtforge import EnvironmentLacks, ExitCode, RequestError
from trtforge.targets import read_target

TEN = library.Library("tensorrt", "10.16.1.11")
"""TensorRT itself, which is not installed here."""


def test_without_a_gpu_and_targets_rtx_builds_for_the_common_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "current", lambda: None)
    assert build(MLP, tmp_path, {"x": "8x4"}, targets=[]).targets == FOUR


def test_without_a_gpu_tensorrt_itself_builds_nothing(monkeypatch):
    monkeypatch.setattr(gpu, "current", lambda: None)
    with pytest.raises(EnvironmentLacks, match="there is none") as raised:
        build_targets(TEN, [], ir.from_onnx_text(MLP), "none")
    assert raised.value.exit_code is ExitCode.ENVIRONMENT_LACKS
    assert "targets: [sm_86, sm_89]" in raised.value.remedy


def test_without_targets_the_gpu_of_the_machine_is_the_target(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "current", lambda: gpu.Gpu("NVIDIA L4", 89, ""))
    assert build(MLP, tmp_path, {"x": "8x4"}, targets=[]).targets == ("sm_89",)


@pytest.mark.parametrize(
    ("compatibility", "asked", "problem"),
    [
        ("none", ["sm_89"], None),
        ("none", ["sm_86", "sm_89"], "not for sm_86"),
        ("ampere_plus", ["sm_86", "sm_120"], None),
        ("ampere_plus", ["sm_75"], "not for sm_75"),
        ("same_compute_capability", ["sm_120"], "not for sm_120"),
    ],
)
def test_tensorrt_itself_builds_for_the_gpu_here(monkeypatch, compatibility, asked, problem):
    monkeypatch.setattr(gpu, "current", lambda: gpu.Gpu("NVIDIA L4", 89, ""))
    model, targets = ir.from_onnx_text(MLP), [read_target(name) for name in asked]
    if problem is None:
        assert build_targets(TEN, targets, model, compatibility) == tuple(targets)
    else:
        with pytest.raises(RequestError, match=problem):
            build_targets(TEN, targets, model, compatibility)
