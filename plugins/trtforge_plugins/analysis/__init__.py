"""What an engine costs by counting, and which ONNX node and torch module is behind each layer."""

from __future__ import annotations

from trtforge_plugins.analysis.advise import Advise
from trtforge_plugins.analysis.predict import Predict

__all__ = ["Advise", "Predict"]
