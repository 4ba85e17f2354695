"""A third party's package works like ours: installed, found by its entry point, held to the rules.

It is a real package. Where it is not installed, pip installs it into a folder of its own first.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import trtforge as tf
from trtforge.testing import apply, check_pass

PACKAGE = Path(__file__).parent / "example_plugin"


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module that the entry point names, from the installed package."""
    folder = tmp_path_factory.mktemp("site")
    if "acme" not in entry_points(group="trtforge").names:
        source = shutil.copytree(PACKAGE, folder / "source")  # building leaves files beside it
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
             "--no-build-isolation", "--target", str(folder), str(source)],
            check=True,
        )  # fmt: skip
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    (entry,) = entry_points(group="trtforge", name="acme")
    yield entry.load()
    if str(folder) in sys.path:
        sys.path.remove(str(folder))


def test_it_offers_one_of_each_kind(acme: Any) -> None:
    offered = {component.name: component for component in acme.trtforge_components()}
    assert {name: kind.__mro__[1] for name, kind in offered.items()} == {
        "acme-drop-dropout": tf.Pass,
        "acme-fuse-clip": tf.SurgeonPass,
        "acme-calibrate-percentile": tf.Calibrator,
        "acme-wall-clock": tf.Profiler,
        "acme::Swish": tf.CustomOp,
    }


def test_its_pass_keeps_the_rules_of_passes(acme: Any) -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[2] x) => (float[2] y) {
            a = Dropout (x)
            b = Relu (a)
            y = Dropout (b)
        }
    """
    x = np.array([-1, 1], np.float32)
    after = check_pass(acme.DropDropout(), text, {"x": x}, changes=2)
    assert [node.op_type for node in after.graph] == ["Relu"]


def test_its_pass_is_as_short_as_the_docs_promise(acme: Any) -> None:
    import inspect

    lines = [line for line in inspect.getsource(acme.DropDropout).splitlines() if line.strip()]
    assert len(lines) <= 15


def test_its_surgeon_pass_keeps_the_rules_of_passes(acme: Any) -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[3] x) => (float[3] y) <float low = {0}, float high = {6}> {
            a = Max (x, low)
            y = Min (a, high)
        }
    """
    x = np.array([-1, 3, 9], np.float32)
    after = check_pass(acme.FuseClip(), text, {"x": x}, changes=1)
    assert [node.op_type for node in after.graph] == ["Clip"]


def test_its_surgeon_pass_says_why_it_left_a_node_alone(acme: Any) -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        main (float[2] x) => (float[2] y) <float[2] low = {0, 1}, float high = {6}> {
            a = Max (x, low)
            [top] y = Min (a, high)
        }
    """
    _, changes, notes = apply(acme.FuseClip(), text)
    assert changes == 0
    assert [(note.node, note.text) for note in notes] == [
        ("top", "its limits are no scalar constants")
    ]


def context(model: str, feeds: list[dict[str, Any]], workdir: Path) -> tf.Context:
    ctx = tf.Context(ir.from_onnx_text(model), workdir, tf.Request(source="test"))
    ctx.put(tf.Batches(tuple(feeds), source="test"))
    return ctx


SQUARE = """
    <ir_version: 10, opset_import: ["" : 20]>
    main (float[N, 1000] x) => (float[N, 1000] y) { s = Mul (x, x) y = Neg (s) }
"""


def test_its_calibrator_clips_outliers(acme: Any, tmp_path: Path) -> None:
    x = np.full((1, 1000), 2, np.float32)
    x[0, 0] = 1000  # one outlier in a thousand
    ctx = context(SQUARE, [{"x": x}, {"x": 2 * x}], tmp_path)
    acme.CalibratePercentile(percentile=99).run(ctx)
    ranges = ctx.get(tf.Ranges)
    assert {name: found.high for name, found in ranges.by_tensor.items()} == {
        "x": 3.0,  # mean of 2 and 4
        "s": 10.0,  # mean of 4 and 16
        "y": 10.0,
    }
    assert (ranges.samples, ranges.method) == (2, "percentile 99")


def test_its_calibrator_refuses_a_senseless_option(acme: Any, tmp_path: Path) -> None:
    ctx = context(SQUARE, [{"x": np.ones((1, 1000), np.float32)}], tmp_path)
    with pytest.raises(tf.RequestError, match="not within 0 and 100"):
        acme.CalibratePercentile(percentile=101).run(ctx)


def test_its_profiler_measures(acme: Any, tmp_path: Path) -> None:
    ctx = context(SQUARE, [{"x": np.ones((1, 1000), np.float32)}], tmp_path)
    acme.WallClock(runs=5).run(ctx)
    timings = ctx.get(tf.Timings)
    assert timings.runs == 5
    assert 0 < timings.median_ms <= timings.p90_ms <= timings.p99_ms


def test_its_custom_op_is_what_it_declares(acme: Any) -> None:
    from trtforge.op_testing import check_op

    for op in (acme.Swish(), acme.Swish(beta=1.702)):
        evidence = check_op(op, [[(2, 3)], [(1000,)], [(0,)]])
        assert "float16 sm_120" in evidence.compiled
