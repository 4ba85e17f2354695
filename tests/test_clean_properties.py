"""Every clean-up pass keeps every rule of a pass on random models."""

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from random_models import feeds, models
from trtforge_plugins.clean import (
    DedupeWeights,
    DropDeadCode,
    DropIdentity,
    FoldBatchnorm,
    FoldConstants,
    InferShapes,
    MergeDuplicates,
    ResolveIf,
    TidyInitializers,
    UnrollLoop,
    UpgradeOpset,
)

from trtforge import Pass
from trtforge.testing import check_pass

EXACT = [
    DedupeWeights(),
    DropDeadCode(),
    DropIdentity(),
    FoldConstants(),
    InferShapes(),
    MergeDuplicates(),
    ResolveIf(),
    TidyInitializers(),
    UnrollLoop(),
]
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@pytest.mark.parametrize("step", EXACT, ids=lambda step: step.name)
@quick
@given(model=models())
def test_pass_keeps_every_bit(step: Pass, model: onnx.ModelProto) -> None:
    check_pass(step, model, feeds())


@quick
@given(model=models())
def test_fold_batchnorm_keeps_values(model: onnx.ModelProto) -> None:
    # Folding rounds each weight once more: a few float32 roundings (6e-8), which a small variance
    # (the scale is up to 300 for a variance near epsilon) and later nodes enlarge.
    check_pass(FoldBatchnorm(), model, feeds(), rtol=1e-3, atol=1e-3)


@quick
@given(model=models(opset=13))
def test_upgrade_opset_keeps_values(model: onnx.ModelProto) -> None:
    check_pass(UpgradeOpset(to=21), model, feeds())
