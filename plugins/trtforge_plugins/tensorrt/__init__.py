"""The ``tensorrt`` step: engines by TensorRT 10, TensorRT 11 or TensorRT-RTX.

``backend`` is the step, ``build_job`` what it runs in a worker process, and ``adapter`` the only
file that imports TensorRT. The step is loaded when it is asked for: the worker process imports
this package too, and needs neither onnx nor onnx-ir.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader  # type: ignore[import-untyped]  # it ships no types

if TYPE_CHECKING:
    from trtforge_plugins.tensorrt.backend import TensorRT

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"backend": ["TensorRT"]})
__all__ = ["TensorRT"]
