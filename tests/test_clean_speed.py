"""Every clean-up pass takes time linear in the nodes: 20 000 of them in a few seconds.

The limit is generous, for slow machines; a quadratic pass would need minutes.
"""

import time
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trtforge_plugins.clean import (
    DedupeWeights,
    DropDeadCode,
    DropIdentity,
    FoldBatchnorm,
    FoldConstants,
    InferShapes,
    MergeDuplicates,
    ResolveIf,
    TidyInitializers,
    UnrollLoop,
    UpgradeOpset,
)

from trtforge import Pass
from trtforge.testing import apply

NODES = 20_000
LIMIT = 20.0  # seconds


def model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    output: str,
    shape: tuple[int, ...] = (2,),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [output], ["y"])],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def weight(name: str, array: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def unary_chain(op: str) -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(NODES))]
    nodes = [helper.make_node(op, [a], [b]) for a, b in pairwise(names)]
    return model(nodes, [], names[-1])


def constant_chain() -> onnx.ModelProto:
    names = ["w", *(f"v{i}" for i in range(NODES))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    last = helper.make_node("Add", ["x", names[-1]], ["sum"])
    return model([*nodes, last], [weight("w", np.ones(2, np.float32))], "sum")


def wide(op: str) -> onnx.ModelProto:
    """Many nodes that do the same with weights of the same content, joined by one Sum."""
    weights = [weight(f"w{i}", np.ones(2, np.float32)) for i in range(NODES)]
    nodes = [helper.make_node(op, ["x", f"w{i}"], [f"v{i}"]) for i in range(NODES)]
    nodes.append(helper.make_node("Sum", [f"v{i}" for i in range(NODES)], ["sum"]))
    return model(nodes, weights, "sum")


def duplicates() -> onnx.ModelProto:
    nodes, total = [], "x"
    for i in range(NODES // 2):
        nodes.append(helper.make_node("Relu", ["x"], [f"v{i}"]))
        nodes.append(helper.make_node("Add", [total, f"v{i}"], [f"t{i}"]))
        total = f"t{i}"
    return model(nodes, [], total)


def batchnorms() -> onnx.ModelProto:
    nodes, weights, last = [], [weight("w", np.ones((1, 1, 1), np.float32))], "x3"
    nodes.append(helper.make_node("Reshape", ["x", "shape"], ["x3"]))
    weights.append(weight("shape", [1, 1, 2]))
    weights += [weight(name, np.ones(1, np.float32)) for name in ("s", "b", "m", "v")]
    for i in range(NODES // 2):
        weights.append(weight(f"w{i}", np.ones((1, 1, 1), np.float32)))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *"sbmv"], [f"n{i}"]))
        last = f"n{i}"
    return model(nodes, weights, last, (1, 1, 2))


def branches() -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(NODES // 2))]
    nodes = []
    for a, b in pairwise(names):
        result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [2])]
        graph = helper.make_graph([helper.make_node("Neg", [a], ["r"])], "g", [], result)
        nodes.append(helper.make_node("If", ["yes"], [b], then_branch=graph, else_branch=graph))
    return model(nodes, [weight("yes", np.array(True))], names[-1])  # a value


def loop() -> onnx.ModelProto:
    steps = NODES // 100
    names = ["v", *(f"u{i}" for i in range(steps))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    nodes.append(helper.make_node("Identity", ["go"], ["on"]))
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        nodes,
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("v", TensorProto.FLOAT, [2])],
        [info("on", TensorProto.BOOL, []), info(names[-1], TensorProto.FLOAT, [2])],
    )  # fmt: skip
    node = helper.make_node("Loop", ["trips", "", "x"], ["out"], body=body)
    return model([node], [weight("trips", np.array(100))], "out")


@pytest.mark.parametrize(
    ("step", "before", "at_least"),
    [
        (DropIdentity(), unary_chain("Identity"), NODES),
        (DropDeadCode(), unary_chain("Relu"), 0),
        (InferShapes(), unary_chain("Relu"), NODES),
        (TidyInitializers(), wide("Add"), 0),
        (FoldConstants(), constant_chain(), NODES),
        (FoldConstants(), unary_chain("Relu"), 0),
        (DedupeWeights(), wide("Add"), NODES - 1),
        (MergeDuplicates(), duplicates(), NODES // 2 - 1),
        (FoldBatchnorm(), batchnorms(), NODES // 2),
        (ResolveIf(), branches(), NODES // 2),
        (UnrollLoop(max_iterations=100, max_nodes=NODES + 100), loop(), 1),
        (UpgradeOpset(to=21, verify=False), unary_chain("Relu"), 3),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_twenty_thousand_nodes(step: Pass, before: onnx.ModelProto, at_least: int) -> None:
    start = time.perf_counter()
    _, changes, notes = apply(step, before)
    seconds = time.perf_counter() - start
    assert changes >= at_least, notes[:3]
    assert seconds < LIMIT, f"{step.name} took {seconds:.1f} s"
