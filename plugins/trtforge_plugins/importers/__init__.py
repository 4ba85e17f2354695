"""Importers: they read a model of some framework and give the ONNX model that a run starts from."""
