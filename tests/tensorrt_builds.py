"""Builds by the `tensorrt` step, and the small models that they are of."""

from __future__ import annotations

import onnx_ir as ir
from trtforge_plugins.tensorrt import TensorRT

from trtforge import Context, Engine, Request, ShapeRange
from trtforge.options import bind
from trtforge.targets import read_target

MLP = """
<ir_version: 10, opset_import: ["" : 21]>
mlp (float[N,4] x) => (float[N,2] y)
<float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}>
{
    [product] a = MatMul (x, w)
    [act] y = Relu (a)
}
"""
UNKNOWN_OPERATORS = """
<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
unknown (float[2,4] x) => (float[2,4] y)
{
    [first] a = acme.Swirl (x)
    [fine] b = Relu (a)
    [second] y = acme.Twirl (b)
}
"""
FP8 = """
<ir_version: 10, opset_import: ["" : 21]>
fp8 (float[2,4] x) => (float[2,4] y)
<float s = {0.5}>
{
    [quantize] q = QuantizeLinear <output_dtype = 17> (x, s)
    [dequantize] y = DequantizeLinear (q, s)
}
"""
DISGUISED = """
<ir_version: 10, opset_import: ["" : 21, "foo" : 1]>
g (float[2,4] x) => (float[2,4] y) { [odd] y = foo.Relu (x) }
"""
FOUR = ("sm_80", "sm_86", "sm_89", "sm_120")


class Silent:
    def __init__(self):
        self.seen = []

    def update(self, label, done, total):
        self.seen.append((label, done, total))


def context(model, folder, *profiles, targets=("sm_86",)):
    return Context(
        ir.from_onnx_text(model) if isinstance(model, str) else model,
        folder,
        Request(
            "nets/mlp.onnx",
            profiles=tuple(
                {name: ShapeRange.read(shape) for name, shape in profile.items()}
                for profile in profiles
            ),
            targets=tuple(map(read_target, targets)),
        ),
        progress=Silent(),
    )


def build(model, folder, *profiles, targets=("sm_86",), **options):
    ctx = context(model, folder, *profiles, targets=targets)
    bind(TensorRT, options, "step 'tensorrt'").run(ctx)
    return ctx.get(Engine)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
