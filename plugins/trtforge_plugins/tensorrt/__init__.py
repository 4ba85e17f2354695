"""The ``tensorrt`` step: engines by TensorRT 10, TensorRT 11 or TensorRT-RTX.

``backend`` is the step, ``build_job`` what it runs in a worker process, and ``adapter`` the only
file that imports TensorRT.
"""

from trtforge_plugins.tensorrt.backend import TensorRT

__all__ = ["TensorRT"]
