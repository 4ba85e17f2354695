"""What tests of fusions share: the ops in a model, exports of PyTorch, layers of an engine."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import trtforge_ops
from trtforge_plugins.clean import FoldConstants, InferShapes
from trtforge_plugins.engine_layers import read_engine_layers
from trtforge_plugins.tensorrt import TensorRT

from trtforge import Context, Request
from trtforge.targets import KNOWN
from trtforge.testing import apply

OPS = {kind.name: kind for kind in trtforge_ops.OPS}


def ops_of(model: ir.Model) -> Counter[str]:
    """The custom ops that the model's graph calls."""
    return Counter(node.op_type for node in model.graph if node.domain == "trtforge")


def torchscript(module: Any, inputs: Sequence[Any], opset: int = 18) -> ir.Model:
    import torch

    file = io.BytesIO()
    torch.onnx.export(module.eval(), tuple(inputs), file, dynamo=False, opset_version=opset)
    return ready(ir.from_proto(onnx.load_from_string(file.getvalue())))


def dynamo(module: Any, inputs: Sequence[Any], opset: int = 18) -> ir.Model:
    import torch

    program = torch.onnx.export(
        module.eval(), tuple(inputs), dynamo=True, opset_version=opset, verbose=False
    )
    return ready(ir.from_proto(program.model_proto))


EXPORTERS: list[Callable[..., ir.Model]] = [torchscript, dynamo]


def ready(model: ir.Model) -> ir.Model:
    """The model with constants folded and shapes known, as recipes do before they fuse."""
    for step in (InferShapes(), FoldConstants(), InferShapes()):
        model, _, _ = apply(step, model)
    return model


def layer_kinds(model: ir.Model, folder: Path) -> list[str]:
    """The kinds of layers of an engine for sm_89, which is built and not executed."""
    ctx = Context(model, folder, Request("one", targets=(KNOWN["sm_89"],)), ops=OPS)
    engine = TensorRT().build(model, ctx)
    assert ctx.notes == []
    return [layer.kind for layer in read_engine_layers(engine).layers]
