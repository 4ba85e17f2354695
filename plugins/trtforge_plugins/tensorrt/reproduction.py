"""A script that shows a failed build to somebody who has TensorRT and not trtforge."""

from __future__ import annotations

import json
from dataclasses import asdict

from trtforge_plugins.tensorrt.order import BuildOrder

_SCRIPT = '''"""Shows how a build by @FLAVOR@ @VERSION@ fails. Needs @FLAVOR@ and onnx.

Exit code: 1 when it fails, 0 when it builds.
"""

import json
import sys
from pathlib import Path

import onnx
import @FLAVOR@ as trt

ORDER = json.loads("""@ORDER@""")

file = Path(__file__).with_name(ORDER["model"])
print("nodes:", [node.op_type for node in onnx.load(file, load_external_data=False).graph.node])
logger = trt.Logger(trt.Logger.INFO)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(str(file)):
    for index in range(parser.num_errors):
        print("refused:", parser.get_error(index).desc(), file=sys.stderr)
    sys.exit(1)

config = builder.create_builder_config()
if ORDER["optimization_level"] is not None:
    config.builder_optimization_level = ORDER["optimization_level"]
if ORDER["max_aux_streams"] is not None:
    config.max_aux_streams = ORDER["max_aux_streams"]
for name, limit in ORDER["pools"].items():
    config.set_memory_pool_limit(getattr(trt.MemoryPoolType, name), limit)
for name, wanted in ORDER["flags"].items():
    (config.set_flag if wanted else config.clear_flag)(getattr(trt.BuilderFlag, name))
if ORDER["targets"]:
    config.num_compute_capabilities = len(ORDER["targets"])
    for index, sm in enumerate(ORDER["targets"]):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)
for ranges in ORDER["profiles"]:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.name in ranges:
            give = profile.set_shape_input if tensor.is_shape_tensor else profile.set_shape
            give(tensor.name, *ranges[tensor.name])
    config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config)
print("built" if plan is not None else "failed")
sys.exit(plan is None)
'''
_KEPT = ("model", "profiles", "targets", "optimization_level", "pools", "flags", "max_aux_streams")


def script(order: BuildOrder, version: str) -> str:
    """Return the script for ``order``, whose ``model`` is the name of a file beside it."""
    data = {name: value for name, value in asdict(order).items() if name in _KEPT}
    text = json.dumps(data, indent=1).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    filled = _SCRIPT.replace("@FLAVOR@", order.flavor).replace("@VERSION@", version)
    return filled.replace("@ORDER@", text)
