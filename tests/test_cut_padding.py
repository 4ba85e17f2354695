"""What a Slice cuts off a convolution's end is not computed: equal outputs, and fewer layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from conversion import needs_tensorrt
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_dumps import build_dumps
from onnx import numpy_helper
from trtforge_plugins.clean import CutPadding
from trtforge_plugins.engine_layers import parse_layers

from trtforge.testing import apply, check_pass


def cut_conv(pads: tuple[int, int], dilation: int, kernel: int, cut: int) -> onnx.ModelProto:
    """A convolution along ``length``, ``cut`` results of whose end are thrown away, and another."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[batch,8,length] x) => (float[batch,8,short] y)
    <int64[1] zero = {{0}}, int64[1] end = {{-{cut}}}, int64[1] last = {{-1}},
     float[batch,8,long] wide>
    {{
        wide = Conv <pads = [{pads[0]}, {pads[1]}], dilations = [{dilation}]> (x, w)
        kept = Slice (wide, zero, end, last)
        active = Relu (kept)
        y = Conv (active, v)
    }}""")
    weight = np.random.default_rng(0).standard_normal((8, 8, kernel)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.initializer.append(numpy_helper.from_array(weight[:, :, :1].copy(), "v"))
    return model


@settings(max_examples=60, deadline=None)
@given(
    pads=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    dilation=st.integers(1, 3),
    kernel=st.integers(1, 3),
    cut=st.integers(1, 7),
    length=st.integers(1, 4),
)
def test_outputs_are_the_same_wherever_it_cuts(
    pads: tuple[int, int], dilation: int, kernel: int, cut: int, length: int
) -> None:
    before = cut_conv(pads, dilation, kernel, cut)
    reach = dilation * (kernel - 1)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 8, length)).astype(np.float32)}
    fits = length + sum(pads) - reach > cut  # else there is no result
    # a convolution of another size may add in another order: some roundings of float32
    check_pass(CutPadding(), before, feeds if fits else (), rtol=1e-5, atol=1e-5)
    _, count, notes = apply(CutPadding(), before)
    assert count == (cut <= pads[1] and sum(pads) - cut >= reach)
    assert len(notes) == 1 - count


@needs_tensorrt
def test_engines_have_fewer_layers() -> None:
    before = cut_conv((4, 4), 2, 3, 4)
    after = ir.to_proto(apply(CutPadding(), before)[0])
    jobs = {"before": (before, ("SM89",)), "after": (after, ("SM89",))}
    dumps = {name: len(parse_layers(text).layers) for name, text in build_dumps(jobs).items()}
    assert dumps["after"] < dumps["before"], dumps
