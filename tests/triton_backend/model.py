"""A Triton backend in Python that stands in for those that no package brings.

Under the name ``onnxruntime`` it runs the ONNX model, by ONNX Runtime. Under the name ``tensorrt``
it looks whether each engine that the configuration names is there, and answers with zeros.
https://github.com/triton-inference-server/backend/blob/main/docs/python_based_backends.md
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One instance of a model."""

    @staticmethod
    def auto_complete_config(config):
        """Leave the configuration as it was written."""
        return config

    def initialize(self, arguments):
        """Open the model."""
        config = json.loads(arguments["model_config"])
        folder = Path(arguments["model_repository"]) / arguments["model_version"]
        self.outputs = config["output"]
        self.batched = config["max_batch_size"] > 0
        self.session = None
        if config["platform"] == "onnxruntime_onnx":
            import onnxruntime

            file = config["default_model_filename"] or "model.onnx"
            place = folder / file
            place = place / "model.onnx" if place.is_dir() else place
            self.session = onnxruntime.InferenceSession(str(place))
        else:
            missing = [name for name in config["cc_model_filenames"].values()
                       if not (folder / name).is_file()]  # fmt: skip
            if missing:
                raise triton.TritonModelException(f"there is no {missing}")

    def execute(self, requests):
        """Answer what Triton has put together."""
        return [triton.InferenceResponse(self._answer(request)) for request in requests]

    def _answer(self, request):
        # By DLPack, since the backend's own way to NumPy knows its layout before 2.0 only.
        feed = {each.name(): np.from_dlpack(each) for each in request.inputs()}
        names = [each["name"] for each in self.outputs]
        if self.session:
            arrays = self.session.run(names, feed)
        else:
            count = [len(next(iter(feed.values())))] if self.batched else []
            arrays = [np.zeros(count + [max(int(dim), 1) for dim in each["dims"]], np.float32)
                      for each in self.outputs]  # fmt: skip
        return [
            triton.Tensor.from_dlpack(name, np.ascontiguousarray(array))
            for name, array in zip(names, arrays, strict=True)
        ]
