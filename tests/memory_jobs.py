"""Builds a model with TensorRT-RTX and returns its memory totals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from trtforge.context import Silent


def build_memory(model: onnx.ModelProto, folder: Path, target: int = 89) -> dict[str, Any]:
    """Return TensorRT's own figures in bytes."""
    from trtforge_plugins.tensorrt import build_job
    from trtforge_plugins.tensorrt.order import BuildOrder

    path = folder / "model.onnx"
    onnx.save(model, path)
    order = BuildOrder(
        "tensorrt_rtx", str(path), "ERROR", engine=str(folder / "model.engine"),
        layers=str(folder / "model.layers"), profiles=[], targets=[target],
    )  # fmt: skip
    built = build_job.build(asdict(order), Silent())
    assert not built["refused"]
    return dict(built["memory"])
