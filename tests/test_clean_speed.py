"""Every clean-up pass, and the recipe ``convert``, take time linear in the nodes, or nearly.

Four times the nodes may take nine times the processor time: n log n is below five, noise and caches
add to it, and a quadratic pass would need sixteen. The whole recipe may take six times as long:
what does not depend on the nodes, and the linear passes, leave no room for a quadratic one.
"""

import gc
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import onnx
import pytest
from noisy_graphs import cnn, transformer
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

from trtforge import Pass, make_convertible
from trtforge.host import Host
from trtforge.testing import apply

SMALL, LARGE = 4_000, 16_000  # nodes
GROWTH = 9.0
RECIPE_GROWTH = 6.0
TOO_QUICK = 0.3  # seconds; below that, noise decides


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


def unary_chain(count: int, op: str) -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(count))]
    nodes = [helper.make_node(op, [a], [b]) for a, b in pairwise(names)]
    return model(nodes, [], names[-1])


def constant_chain(count: int) -> onnx.ModelProto:
    names = ["w", *(f"v{i}" for i in range(count))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    last = helper.make_node("Add", ["x", names[-1]], ["sum"])
    return model([*nodes, last], [weight("w", np.ones(2, np.float32))], "sum")


def wide(count: int, op: str) -> onnx.ModelProto:
    """Many nodes that do the same with weights of the same content, joined by one Sum."""
    weights = [weight(f"w{i}", np.ones(2, np.float32)) for i in range(count)]
    nodes = [helper.make_node(op, ["x", f"w{i}"], [f"v{i}"]) for i in range(count)]
    nodes.append(helper.make_node("Sum", [f"v{i}" for i in range(count)], ["sum"]))
    return model(nodes, weights, "sum")


def duplicates(count: int) -> onnx.ModelProto:
    nodes, total = [], "x"
    for i in range(count // 2):
        nodes.append(helper.make_node("Relu", ["x"], [f"v{i}"]))
        nodes.append(helper.make_node("Add", [total, f"v{i}"], [f"t{i}"]))
        total = f"t{i}"
    return model(nodes, [], total)


def batchnorms(count: int) -> onnx.ModelProto:
    nodes, weights, last = [], [weight("w", np.ones((1, 1, 1), np.float32))], "x3"
    nodes.append(helper.make_node("Reshape", ["x", "shape"], ["x3"]))
    weights.append(weight("shape", [1, 1, 2]))
    weights += [weight(name, np.ones(1, np.float32)) for name in ("s", "b", "m", "v")]
    for i in range(count // 2):
        weights.append(weight(f"w{i}", np.ones((1, 1, 1), np.float32)))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *"sbmv"], [f"n{i}"]))
        last = f"n{i}"
    return model(nodes, weights, last, (1, 1, 2))


def branches(count: int) -> onnx.ModelProto:
    names = ["x", *(f"v{i}" for i in range(count // 2))]
    nodes = []
    for a, b in pairwise(names):
        result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [2])]
        graph = helper.make_graph([helper.make_node("Neg", [a], ["r"])], "g", [], result)
        nodes.append(helper.make_node("If", ["yes"], [b], then_branch=graph, else_branch=graph))
    return model(nodes, [weight("yes", np.array(True))], names[-1])  # a value


def loop(count: int) -> onnx.ModelProto:
    steps = count // 100
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


CASES = {
    # what: (step, model of so many nodes, share of the nodes that must change)
    "drop-identity": (DropIdentity(), partial(unary_chain, op="Identity"), 1),
    "drop-dead-code": (DropDeadCode(), partial(unary_chain, op="Relu"), 0),
    "infer-shapes": (InferShapes(), partial(unary_chain, op="Relu"), 1),
    "tidy-initializers": (TidyInitializers(), partial(wide, op="Add"), 0),
    "fold-constants": (FoldConstants(), constant_chain, 1),
    "fold-constants, nothing to fold": (FoldConstants(), partial(unary_chain, op="Relu"), 0),
    "dedupe-weights": (DedupeWeights(), partial(wide, op="Add"), 0.99),
    "merge-duplicates": (MergeDuplicates(), duplicates, 0.49),
    "fold-batchnorm": (FoldBatchnorm(), batchnorms, 0.5),
    "resolve-if": (ResolveIf(), branches, 0.5),
    "unroll-loop": (UnrollLoop(max_iterations=100, max_nodes=LARGE + 100), loop, 0),
    "upgrade-opset": (UpgradeOpset(to=21, verify=False), partial(unary_chain, op="Relu"), 0),
}


def processor_time(step: Pass, before: onnx.ModelProto) -> float:
    """Seconds that the pass computes; the garbage of earlier tests is not its fault."""
    return processor_time_of(partial(apply, step, before))


def processor_time_of(work: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        work()
        return time.process_time() - start
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("what", CASES)
def test_time_grows_with_the_nodes(what: str) -> None:
    step, build, share = CASES[what]
    seconds = {}
    for count in (SMALL, LARGE):
        before = build(count)
        _, changes, notes = apply(step, before)
        assert changes >= share * count, notes[:3]
        seconds[count] = min(processor_time(step, before) for _ in range(2))
    assert seconds[LARGE] < max(TOO_QUICK, GROWTH * seconds[SMALL]), seconds


@pytest.mark.slow
@pytest.mark.parametrize("build", [transformer, cnn])
def test_time_of_the_recipe_grows_with_the_nodes(build: Callable[[int], onnx.ModelProto]) -> None:
    host, seconds = Host(), {}
    for count in (1_500, 6_000):
        before = build(count)
        after = make_convertible(before, host=host)
        assert len(after.graph.node) < 0.6 * len(before.graph.node)
        work = partial(make_convertible, before, host=host)
        seconds[count] = min(processor_time_of(work) for _ in range(3))
    assert seconds[6_000] < RECIPE_GROWTH * seconds[1_500], seconds
