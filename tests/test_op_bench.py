"""``trtforge op bench``: which tactic is kept, for whom it counts, and what a build makes of it.

There is no GPU here: a timer that knows its answers stands for it. tests/gpu runs the real one.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trtforge_ops
from command import trtforge
from trtforge_plugins.tensorrt import TensorRT, plugin_launch
from trtforge_plugins.tensorrt.plugin_fields import Carried, read_fields, write_fields

from trtforge import Context, Example, Request, StepError
from trtforge.cuda_timer import CudaTimer
from trtforge.kernel_source import KernelError
from trtforge.op_bench import bench_op, keep
from trtforge.op_testing import call_model
from trtforge.targets import KNOWN
from trtforge.tuning import Device, Tuned, Tuning, size_class, within

CARD = Device("Test GPU", 90, "580.1")
OP = trtforge_ops.BiasGelu()
SHAPES = ((8192, 4096), (4096,))
SMALL = Example(OP, [(3, 8), (8,)])


class Fake:
    """A GPU on which 256 threads are the fastest, and what is ``broken`` or ``wrong`` is that."""

    device = CARD

    def __init__(self, broken=(), wrong=()):
        self.broken, self.wrong, self.timed = broken, wrong, []

    def copy_bandwidth(self):
        return 4e9  # bytes per second

    def milliseconds(self, op, inputs, dtype, tactic):
        assert [array.shape for array in inputs] == [(64, 256), (256,)]
        self.timed.append(tactic)
        if tactic["block"] in self.broken:
            raise KernelError("too many registers")
        return (1 + abs(tactic["block"] - 256)) / 1000 + tactic["items"] / 10000

    def check(self, example, dtype, tactic):
        return "differs" if tactic["block"] in self.wrong else ""


EXAMPLE = Example(OP, [(64, 256), (256,)], timed=True)


def test_every_tactic_is_timed_once_and_the_fastest_is_found():
    timer, counts = Fake(), []
    result = bench_op(EXAMPLE, "float16", timer, progress=lambda *each: counts.append(each))
    assert len(timer.timed) == 9  # three blocks by three numbers of items
    assert len({tuple(tactic.values()) for tactic in timer.timed}) == 9
    assert timer.timed[0] == result.default == {"block": 128, "items": 1}
    assert result.best.tactic == {"block": 256, "items": 1}
    assert (counts[0], counts[-1]) == ((0, 9), (9, 9))


def test_bandwidth_is_of_the_bytes_that_must_move():
    result = bench_op(EXAMPLE, "float16", Fake())
    assert result.size == 2 * (64 * 256 + 256 + 64 * 256)
    assert result.best.milliseconds == pytest.approx(0.0011)
    assert result.bandwidth == pytest.approx(result.size / 0.0011e-3)
    assert result.share == pytest.approx(result.bandwidth / 4e9)
    assert result.default_milliseconds == pytest.approx(0.1291)


def test_what_does_not_run_or_is_wrong_is_never_the_fastest():
    timer = Fake(broken=[128], wrong=[256])
    result = bench_op(EXAMPLE, "float16", timer, checks=[SMALL])
    assert result.best.tactic == {"block": 512, "items": 1}
    problems = {timing.tactic["block"]: timing.problem for timing in result.timings}
    assert problems == {128: "too many registers", 256: "differs", 512: ""}


def test_where_no_tactic_can_be_used_that_is_an_error():
    with pytest.raises(StepError, match="no tactic can be used for float16"):
        bench_op(EXAMPLE, "float16", Fake(broken=[128, 256, 512]))
    with pytest.raises(StepError, match="no tactic can be used for float16: differs"):
        bench_op(EXAMPLE, "float16", Fake(wrong=[128, 256, 512]), checks=[SMALL])


class DriverError(Exception):
    """Stands for CuPy's."""


class Limited:
    """A kernel on a GPU that does not give it so much shared memory."""

    def __setattr__(self, name, value):
        raise DriverError(f"{name} = {value}: invalid argument")


def test_a_tactic_that_wants_more_than_the_gpu_has_is_left_out_with_the_reason(monkeypatch):
    kernel = SimpleNamespace(cubin=b"", entry="k")
    monkeypatch.setattr("trtforge.cuda_timer.compile_kernel", lambda *_, **__: kernel)
    loaded = SimpleNamespace(get_function=lambda _: Limited())
    monkeypatch.setattr("trtforge.cuda_timer.load_module", lambda _: loaded)
    timer = object.__new__(CudaTimer)
    timer._cupy = SimpleNamespace(
        asarray=np.asarray, empty=np.empty,
        cuda=SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability="86"),
            driver=SimpleNamespace(CUDADriverError=DriverError),
        ),
    )  # fmt: skip
    op, large = trtforge_ops.GroupNorm(4), {"block": 1024, "items": 4, "whole": 1, "kept": 12}
    inputs = [np.ones(shape, np.float16) for shape in ((1, 8, 5), (8,), (8,))]
    with pytest.raises(KernelError, match=r"GroupNorm with .* cannot be started: .* = 196608"):
        timer.milliseconds(op, inputs, "float16", large)


# What is kept


@pytest.fixture
def tuning(tmp_path):
    return Tuning(tmp_path / "tuning")


def test_a_finding_is_found_again_for_its_class_of_sizes(tuning):
    keep(bench_op(EXAMPLE, "float16", Fake()), tuning)
    assert tuning.find(OP, "float16", 90) == {"64x256 256": {"block": 256, "items": 1}}
    assert tuning.find(OP, "float32", 90) == {}
    assert tuning.find(OP, "float16", 80) == {}
    assert tuning.find(trtforge_ops.BiasGelu("tanh"), "float16", 90) == {}


def test_an_edited_kernel_finds_nothing(tuning, monkeypatch):
    keep(bench_op(EXAMPLE, "float16", Fake()), tuning)
    monkeypatch.setattr("trtforge.tuning.code_digest", lambda _: "edited")
    assert tuning.find(OP, "float16", 90) == {}


def save(tuning, device, block, shapes=SHAPES):
    return tuning.save(device, OP, "float16", Tuned({"block": block, "items": 1}, 0.1, shapes))


def test_each_gpu_and_driver_has_its_own_and_the_latest_counts(tuning):
    places = [
        save(tuning, Device("A", 90, "1"), 128),
        save(tuning, Device("A", 90, "2"), 256),
        save(tuning, Device("B", 90, "1"), 512),
    ]
    assert len(set(places)) == 3
    for second, place in enumerate(places):
        os.utime(place, (second, second))
    assert tuning.find(OP, "float16", 90)[size_class(SHAPES)]["block"] == 512
    os.utime(places[0], (9, 9))
    assert tuning.find(OP, "float16", 90)[size_class(SHAPES)]["block"] == 128


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sizes": "1", "tactic": {"block": 3}}', "null"])
def test_a_damaged_finding_is_left_out(tuning, text):
    save(tuning, CARD, 128).write_text(text)
    assert tuning.find(OP, "float16", 90) == {}


def test_the_digest_tells_of_every_change(tuning):
    assert tuning.digest() == ""
    save(tuning, CARD, 128)
    first = tuning.digest()
    save(tuning, CARD, 256, ((1, 2), (2,)))
    assert "" != first != tuning.digest()


@pytest.mark.parametrize(
    ("shapes", "name"),
    [(((8000, 4096), (4096,)), "8192x4096 4096"), (((), (0, 1, 3)), "1 1x1x4"), (((5,),), "8")],
)
def test_classes_of_sizes(shapes, name):
    assert size_class(shapes) == name


def test_a_class_lies_within_a_profile():
    low, high = ((1, 4096), (4096,)), ((100, 4096), (4096,))
    assert within("128x4096 4096", low, high)
    assert within("1x4096 4096", low, high)
    assert not within("256x4096 4096", low, high)
    assert not within("64x2048 2048", low, high)
    assert not within("64 4096", low, high)


# What a build makes of it


@pytest.mark.slow
def test_a_build_carries_the_tuned_tactics_of_its_targets_and_sizes(tmp_path, monkeypatch):
    """Built with TensorRT-RTX, not executed."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    shapes = ((64, 256), (256,))
    save(Tuning(), Device("A", 86, "1"), 256, shapes)
    save(Tuning(), Device("A", 86, "1"), 512, ((4096, 256), (256,)))  # not of this size
    targets = (KNOWN["sm_86"], KNOWN["sm_89"])
    model = call_model(OP, shapes, "float16", 20)
    ctx = Context(model, tmp_path, Request("m", targets=targets), ops={OP.name: type(OP)})
    step = TensorRT()
    data = Path(step.build(model, ctx).path).read_bytes()
    assert b'"tuned": {"86 64x256 256": 1}' in data
    assert b'"tactics": [{"block": 256, "items": 1}, {"block": 128, "items": 1}]' in data
    before = step.environment()["tuning"]  # part of the step cache's key
    save(Tuning(), Device("A", 86, "1"), 512, shapes)
    assert step.environment()["tuning"] != before


def test_a_launch_takes_what_was_tuned_for_its_gpu_and_sizes():
    usual = dict(OP.tactic("float16", SHAPES))
    carried = Carried(
        "float16", "e", ({"block": 128, "items": 1}, usual), tuned={f"86 {size_class(SHAPES)}": 1}
    )
    again = read_fields(write_fields(carried))
    assert again == carried
    assert plugin_launch._preferred(OP, again, SHAPES, 86) == 1
    assert plugin_launch._preferred(OP, again, SHAPES, 89) == 2
    assert plugin_launch._preferred(OP, again, ((1024, 4096), (4096,)), 86) == 2


# The command


def test_without_a_gpu_it_is_exit_code_4(monkeypatch):
    monkeypatch.setattr("trtforge.cuda_timer.gpu_name", lambda: "")
    answer = trtforge("op", "bench", "RMSNorm")
    assert answer.code == 4
    assert "timing kernels needs an NVIDIA GPU" in answer.err


def test_it_reports_and_keeps(monkeypatch, tmp_path):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr("trtforge.cuda_timer.CudaTimer", lambda: Fake(broken=[512]))
    asked = ["op", "bench", "BiasGelu", "--shape", "x=64x256", "--shape", "bias=256"]
    (row,) = trtforge(*asked, "--no-save", "--json").json
    assert row["tactic"] == {"block": 256, "items": 1}
    assert row["device"] == {"name": "Test GPU", "sm": 90, "driver": "580.1"}
    assert Tuning().digest() == ""
    said = trtforge(*asked)
    assert said.code == 0, said.err
    assert "trtforge::BiasGelu(approximate=none) float16 [64,256] [256] on Test GPU" in said.out
    assert "fastest  0.0011 ms" in said.out
    assert "LEFT OUT block=512 items=2: too many registers" in said.out
    assert list(Tuning().find(OP, "float16", 90)) == ["64x256 256"]


def test_a_wrong_type_is_refused_before_a_gpu_is_asked_for():
    answer = trtforge("op", "bench", "BiasGelu", "--dtype", "int8")
    assert answer.code == 2
    assert "has no kernel for 'int8'" in answer.err
