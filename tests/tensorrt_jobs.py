"""Jobs for test_tensorrt.py that run beside TensorRT in a worker process."""

from __future__ import annotations

from typing import Any

import tensorrt_rtx as trt

from trtforge.context import Progress


class Swirl(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    """The smallest plugin that a parser accepts: one input, one output like it."""

    def __init__(self) -> None:
        for base in Swirl.__bases__:
            base.__init__(self)
        self.plugin_name, self.plugin_version, self.plugin_namespace = "Swirl", "1", ""
        self.num_outputs = 1

    def get_capability_interface(self, kind: Any) -> Swirl:
        return self

    def get_output_data_types(self, types: list[Any]) -> list[Any]:
        return types

    def get_output_shapes(self, inputs: list[Any], shapes: list[Any], maker: Any) -> list[Any]:
        return inputs

    def clone(self) -> Swirl:
        return Swirl()

    def get_fields_to_serialize(self) -> Any:
        return trt.PluginFieldCollection([])


class Creator(trt.IPluginCreatorV3One):
    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = "Swirl", "1", ""
        self.field_names = trt.PluginFieldCollection([])

    def create_plugin(self, name: str, fields: Any, phase: Any) -> Swirl:
        return Swirl()


def parse_with_plugin(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Parse a model whose operator a plugin offers, and return the kinds of the layers."""
    creator = Creator()
    trt.get_plugin_registry().register_creator(creator, "")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parser.parse_from_file(payload["model"])
    return {"layers": [network.get_layer(i).type.name for i in range(network.num_layers)]}


def build_with_library(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build a model for sm_86 with the plugins of a shared library; return what came of it."""
    trt.get_plugin_registry().load_library(payload["library"])
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(payload["model"])
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config) if parsed else b""
    data = bytes(plan or b"")
    return {
        "layers": [network.get_layer(i).type.name for i in range(network.num_layers)],
        "size": len(data),
        "carries": [text for text in payload["texts"] if text.encode() in data],
    }
