"""Importers: they read a model of some framework and give the ONNX model that a run starts from."""

from trtforge_plugins.importers.onnx_file import ImportOnnx
from trtforge_plugins.importers.tensorflow_model import ImportTensorFlow
from trtforge_plugins.importers.torch_model import ImportTorch

__all__ = ["ImportOnnx", "ImportTensorFlow", "ImportTorch"]
