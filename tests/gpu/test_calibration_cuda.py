"""Calibration on a GPU: the tensors stay there, and the statistics are those of the CPU."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import models
from trtforge_plugins.precision.collect_statistics import collect, taps
from trtforge_plugins.precision.observe import observe
from trtforge_plugins.precision.tally import Buffers, Tally

from trtforge import Batches, Context, Request


def small_resnet() -> ir.Model:
    return ir.from_proto(models.resnet50(depths=(1, 1), width=16, size=32))


def images(count: int) -> Batches:
    random = np.random.default_rng(0)
    feeds = [
        {"image": random.standard_normal((8, 3, 32, 32), dtype=np.float32)} for _ in range(count)
    ]
    return Batches(tuple(feeds), "noise")


@pytest.mark.gpu
def test_tensors_stay_on_the_gpu(cuda_provider):
    model = small_resnet()
    inputs = {value.name for value in model.graph.inputs}
    for seen in observe(model, taps(model)[0], images(1), provider="cuda"):
        computed = [array for name, array in seen.tensors.items() if name not in inputs]
        assert computed
        assert all(hasattr(array, "get") for array in computed)


@pytest.mark.gpu
def test_statistics_are_those_of_the_cpu(cuda_provider, tmp_path):
    found = {}
    for provider in ("cpu", "cuda"):
        ctx = Context(small_resnet(), tmp_path, Request("m"))
        ctx.put(images(3))
        found[provider] = collect(ctx, provider).by_tensor
    for name, expected in found["cpu"].items():
        seen = found["cuda"][name]
        assert seen.count == expected.count
        # Convolutions add up in another order on a GPU: float32's rounding, grown over ten layers.
        assert seen.amax == pytest.approx(expected.amax, rel=1e-4)
        assert seen.mean == pytest.approx(expected.mean, abs=1e-4 * expected.amax)
        np.testing.assert_allclose(seen.channel_amax, expected.channel_amax, rtol=1e-3, atol=1e-4)
        moved = np.abs(np.cumsum(seen.counts) - np.cumsum(expected.counts)).max()
        assert moved <= expected.count * 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("axis", [1, -1])
def test_the_same_values_give_the_same_histogram(gpu, axis):
    cupy = pytest.importorskip("cupy", reason="NOT RUN: CuPy is not installed")
    values = np.random.default_rng(0).standard_normal((4, 6, 50, 50), dtype=np.float32)
    ours, theirs, buffers = Tally(axis), Tally(axis), Buffers()
    for part in (values[:1], values[1:] * 8):
        ours.add(part, buffers.of(part))
        on_gpu = cupy.asarray(part)
        theirs.add(on_gpu, buffers.of(on_gpu))
    np.testing.assert_array_equal(theirs.counts, ours.counts)
    np.testing.assert_array_equal(theirs.channels, ours.channels)
    assert theirs.totals.zeros == ours.totals.zeros
    assert theirs.totals.squares == pytest.approx(ours.totals.squares, rel=1e-5)
