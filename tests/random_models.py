"""Random valid models for property tests: the noise that exporters leave, in random order.

All values are float[N,4], so that any node can follow any other; N is 3 in :func:`feeds`.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

SHAPE = ["N", 4]


@dataclass
class Builder:
    """A graph under construction; each method adds what it says and returns a float[N,4]."""

    draw: st.DrawFn
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    values: list[str] = field(default_factory=lambda: ["x"])
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = self.fresh()
        node = helper.make_node(op, list(inputs), [name], name=f"{op}_{name}", **attributes)
        if self.draw(st.booleans()):
            node.metadata_props.add(key="from", value=name)
        self.nodes.append(node)
        return name

    def weight(self, array: object, dtype: type = np.float32) -> str:
        name = self.fresh()
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def ints(self, *numbers: int) -> str:
        if self.draw(st.booleans()):
            return self.weight(numbers, np.int64)
        tensor = numpy_helper.from_array(np.asarray(numbers, np.int64))
        return self.node("Constant", value=tensor)

    def floats(self, *shape: int) -> str:
        seed = self.draw(st.integers(0, 3))  # few seeds, so that equal weights are common
        return self.weight(np.random.default_rng(seed).normal(size=shape))

    def any(self) -> str:
        return self.draw(st.sampled_from(self.values))

    def unary(self) -> str:
        op = self.draw(st.sampled_from(["Relu", "Neg", "Abs", "Tanh", "Sigmoid", "Identity"]))
        return self.node(op, self.any())

    def binary(self) -> str:
        op = self.draw(st.sampled_from(["Add", "Mul", "Sub", "Max"]))
        return self.node(op, self.any(), self.draw(st.sampled_from([self.any(), self.floats(4)])))

    def no_change(self) -> str:
        value = self.any()
        match self.draw(st.integers(0, 6)):
            case 0:
                return self.node("Dropout", value)
            case 1:
                return self.node("Cast", value, to=TensorProto.FLOAT)
            case 2:
                return self.node(
                    "Transpose", self.node("Transpose", value, perm=[1, 0]), perm=[1, 0]
                )
            case 3:
                axes = self.ints(self.draw(st.sampled_from([0, 1, 2, -1, -2])))
                return self.node("Squeeze", self.node("Unsqueeze", value, axes), axes)
            case 4:
                return self.node("Concat", value, axis=0)
            case 5:
                flat = self.node("Reshape", value, self.ints(-1, 2))
                return self.node("Reshape", flat, self.ints(-1, 4))
            case _:
                return self.node("Pad", value, self.ints(0, 0, 0, 0))

    def shape_chain(self) -> str:
        value = self.any()
        shape = self.node("Shape", value)
        first = self.node("Gather", shape, self.ints(0), axis=0)
        last = self.node("Gather", shape, self.ints(1), axis=0)
        half = self.node("Div", last, self.ints(2))
        wide = self.node("Mul", half, self.ints(self.draw(st.sampled_from([1, 2]))))
        flat = self.node("Reshape", value, self.node("Concat", self.ints(-1), wide, axis=0))
        return self.node("Reshape", flat, self.node("Concat", first, last, axis=0))

    def constant_arithmetic(self) -> str:
        one, two = self.floats(4), self.floats(1, 4)
        return self.node("Add", self.any(), self.node("Mul", self.node("Exp", one), two))

    def matmul(self) -> str:
        return self.node("MatMul", self.any(), self.node("Transpose", self.floats(4, 4)))

    def batchnorm(self) -> str:
        stats = [self.floats(2), self.floats(2), self.floats(2)]
        variance = self.node("Abs", self.floats(2))
        image = self.node("Reshape", self.any(), self.ints(-1, 2, 1, 2))
        filtered = self.node("Conv", image, self.floats(2, 2, 1, 1))
        normal = self.node("BatchNormalization", filtered, *stats, variance)
        return self.node("Reshape", normal, self.ints(-1, 4))

    def branch(self) -> str:
        sign = self.draw(st.sampled_from(["yes", "no", "input"]))
        condition = "c" if sign == "input" else self.weight(sign == "yes", np.bool_)
        graphs = {}
        for name in ("then_branch", "else_branch"):
            inner = Builder(self.draw, values=list(self.values), count=self.count + 100)
            inner.steps(2)
            result = inner.node("Relu", inner.values[-1])
            graphs[name] = inner.graph(name, [], [result])
            self.count = inner.count
        return self.node("If", condition, **graphs)

    def loop(self) -> str:
        carried, counter, go_in = self.fresh(), self.fresh(), self.fresh()
        inner = Builder(self.draw, values=[*self.values, carried], count=self.count + 100)
        inner.steps(2)
        go_out = inner.node("Identity", go_in)
        scale = inner.node("Cast", counter, to=TensorProto.FLOAT)
        result = inner.node("Add", inner.values[-1], scale)
        inputs = [
            helper.make_tensor_value_info(counter, TensorProto.INT64, []),
            helper.make_tensor_value_info(go_in, TensorProto.BOOL, []),
            helper.make_tensor_value_info(carried, TensorProto.FLOAT, SHAPE),
        ]
        body = inner.graph("body", inputs, [go_out, result])
        body.output[0].CopyFrom(helper.make_tensor_value_info(go_out, TensorProto.BOOL, []))
        self.count = inner.count
        trips = self.weight(self.draw(st.integers(0, 3)), np.int64)
        return self.node("Loop", trips, "", self.any(), body=body)

    def steps(self, at_most: int) -> None:
        kinds = [
            self.unary, self.binary, self.no_change, self.shape_chain, self.constant_arithmetic,
            self.matmul, self.batchnorm,
        ]  # fmt: skip
        for _ in range(self.draw(st.integers(1, at_most))):
            self.values.append(self.draw(st.sampled_from(kinds))())

    def repeat(self) -> str:
        """Add a copy of some node with one result of float[N,4]."""
        made = [n for n in self.nodes if n.output[0] in self.values and not _holds_graph(n)]
        if not made:
            return self.unary()
        node = self.draw(st.sampled_from(made))
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.output[0] = self.fresh()
        copy.name = f"copy_{copy.output[0]}"
        self.nodes.append(copy)
        return copy.output[0]

    def graph(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[str]
    ) -> onnx.GraphProto:
        infos = [helper.make_tensor_value_info(out, TensorProto.FLOAT, SHAPE) for out in outputs]
        return helper.make_graph(self.nodes, name, inputs, infos, self.weights)


def _holds_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") for attribute in node.attribute)


@st.composite
def models(draw: st.DrawFn, opset: int = 18) -> onnx.ModelProto:
    """A valid model with inputs x: float[N,4] and c: bool and up to three outputs."""
    build = Builder(draw)
    for _ in range(draw(st.integers(1, 5))):
        build.steps(3)
        extra = draw(st.sampled_from([build.repeat, build.repeat, build.branch, build.loop]))
        build.values.append(extra())
    outputs = draw(st.lists(st.sampled_from(build.values[1:]), min_size=1, max_size=3, unique=True))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    graph = build.graph("random", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model.metadata_props.add(key="made_by", value="random_models")
    if draw(st.booleans()):
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds() -> list[dict[str, np.ndarray]]:
    """Two inputs, which take either side of each branch."""
    rng = np.random.default_rng(0)
    return [
        {"x": rng.normal(size=(3, 4)).astype(np.float32), "c": np.array(flag)}
        for flag in (False, True)
    ]
