"""fuse-instance-norm: the operator in one to three dimensions, and why one is left alone."""

from __future__ import annotations

from pathlib import Path

import fusions
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtforge_plugins.fuse import FuseInstanceNorm

from trtforge.testing import apply, check_pass

# Mean and variance are the same sums, added in another order; the values are below 10.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
PARAMETERS = "float[3] weight = {1, -2, 0.5}, float[3] bias = {0, 1, 2}"
NODE = "y = InstanceNormalization <epsilon = 0.01> (x, weight, bias)"


def model(shape: str, body: str = NODE, parameters: str = PARAMETERS) -> str:
    return f"""
        <ir_version: 10, opset_import: ["" : 18]>
        main (float{shape} x) => (float{shape} y) <{parameters}> {{ {body} }}
    """


@settings(max_examples=15, deadline=None)
@given(space=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_the_operator_is_fused_in_any_size(space: list[int], seed: int) -> None:
    shape = (2, 3, *space)
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 3
    text = model(str(list(shape)))
    after = check_pass(FuseInstanceNorm(), text, {"x": x}, changes=1, **ROUNDING)
    (node,) = after.graph
    assert node.op_type == "InstanceNorm"
    assert node.attributes["epsilon"].value == pytest.approx(0.01)


GROUPS = """
    f = Reshape (x, by_group) n = InstanceNormalization (f, ones, zeros)
    s = Shape (x) y = Reshape (n, s)
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model("[2, 3, 2, 2, 2, 2]"), "one, two or three dimensions of space"),
        (model("[N, C, 4]"), "'weight' is not known to be one number per channel"),
        (
            model(
                "[2, 4, 3]",
                GROUPS,
                "int64[3] by_group = {0, 2, -1}, float[2, 2, 6] f,"
                "float[2] ones = {1, 1}, float[2] zeros = {0, 0}",
            ),
            "fuse-group-norm takes it",
        ),
    ],
)
def test_one_is_left_alone_with_its_reason(text: str, reason: str) -> None:
    after, changes, notes = apply(FuseInstanceNorm(), text)
    assert changes == 0
    assert not after.functions
    assert [note for note in notes if reason in note.text], notes


@pytest.mark.parametrize("export", fusions.EXPORTERS)
def test_real_exports_are_fused(export: fusions.Callable[..., ir.Model]) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test exports")
    layers = [torch.nn.InstanceNorm2d(3, affine=True), torch.nn.Conv2d(3, 3, 3, padding=1)]
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    exported = export(torch.nn.Sequential(*layers), [torch.from_numpy(x)])
    (given_x,) = exported.graph.inputs
    after = check_pass(FuseInstanceNorm(), exported, {str(given_x.name): x}, changes=1, **ROUNDING)
    assert fusions.ops_of(after) == {"InstanceNorm": 1}


@pytest.mark.slow
def test_an_engine_runs_the_plugin(tmp_path: Path) -> None:
    """Built, not executed."""
    after, _, _ = apply(FuseInstanceNorm(), model("[2, 3, 4, 5]"))
    assert fusions.layer_kinds(after, tmp_path) == ["custom_layer"]
