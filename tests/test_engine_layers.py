"""Layer dumps: golden ones of TensorRT-RTX 1.7.1, the documented inspector JSON, damaged ones."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_dumps import GOLDEN, NAMES, golden
from trtforge_plugins.computing_type import computing_types
from trtforge_plugins.engine_layers import ReadLayers, onnx_nodes, parse_layers

from trtforge import Context, Engine, EngineLayer, EngineLayers, LayerTensor, Request, StepError

TENSORRT_10_TEXT = """\
Name: Conv_0 + Relu_1, LayerType: CaskConvolution, Inputs: [ { Name: image, Location: Device, \
Dimensions: [1,3,32,32], Format/Datatype: Row major Int8 format }], Outputs: [ { Name: relu, \
Location: Device, Dimensions: [1,16,30,30], Format/Datatype: Thirty-two wide channel vectorized \
row major Int8 format }], ParameterType: Convolution, Kernel: [3,3], PaddingMode: \
kEXPLICIT_ROUND_DOWN, Weights: {"Type": "Int8", "Count": 432}, Bias: {"Type": "Float", "Count": \
16}, HasBias: 1, Activation: RELU, TacticName: sm80_xmma_fprop_i8i8, TacticValue: 0x1, \
StreamId: 0, Metadata: [ONNX Layer: Conv_0]\x1e[ONNX Layer: Relu_1]
"""

TENSORRT_10_JSON = {
    "Layers": [
        {
            "Name": "Conv_0 + Relu_1",
            "LayerType": "CaskConvolution",
            "Inputs": [
                {
                    "Name": "image",
                    "Location": "Device",
                    "Dimensions": [1, 3, 32, 32],
                    "Format/Datatype": "Row major Int8 format",
                }
            ],
            "Outputs": [
                {
                    "Name": "relu",
                    "Location": "Device",
                    "Dimensions": [1, 16, 30, 30],
                    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
                }
            ],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 432},
            "TacticName": "sm80_xmma_fprop_i8i8",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: Conv_0]\u001e[ONNX Layer: Relu_1]",
        }
    ],
    "Bindings": ["image", "relu"],
}


def test_a_golden_dump_says_what_each_layer_reads_writes_and_comes_from():
    quantize, convolution, rest = parse_layers(golden("conv_int8")).layers
    assert quantize.nodes == ("q_x",)
    assert [tensor.dtype for tensor in quantize.outputs] == ["int8"]
    assert (convolution.name, convolution.kind) == ("conv_myl0_1", "correlation")
    assert convolution.nodes[0] == "conv"
    assert convolution.inputs[0].dtype == "int8"
    assert convolution.inputs[0].shape == (1, 16, 8, 8)
    assert convolution.inputs[0].format == "(NHWC) Channel major format"
    assert convolution.constants[0].dtype == "int8"
    assert convolution.tactic == "__myelin_CASK_STUB"
    assert convolution.stream == 0
    assert rest.outputs == (
        LayerTensor("y", "float32", (1, 16, 8, 8), "(Linear) Row major linear format"),
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name.split(".")[0])
def test_every_line_of_a_golden_dump_becomes_a_layer(path: Path):
    name = path.name.split(".")[0]
    text = golden(name)
    layers = parse_layers(text).layers
    printed = text.partition("\n\nI/O Tensors:")[0].count(", TacticName: ")
    assert len(layers) == printed
    known = {"float32", "float16", "int8", "float8e4m3fn", "int64"}
    for layer in layers:
        assert layer.kind
        assert {t.dtype for t in layer.inputs + layer.constants + layer.outputs} <= known


def test_node_names_may_hold_any_character():
    layers = parse_layers(golden("odd_names")).layers
    # TensorRT names an unnamed node after its output.
    expected = [*NAMES[:-1], "node_of_y"]
    assert [layer.nodes for layer in layers] == [(name,) for name in expected]
    assert [layer.kind for layer in layers] == ["gemm"] * 5
    assert layers[0].inputs[0].name == "x"
    assert layers[0].constants[0].dtype == "float32"


def test_a_horizontal_fusion_names_all_its_nodes_and_attention_is_one_layer():
    layers = parse_layers(golden("attention_fp16")).layers
    assert any({"query", "value"} <= set(layer.nodes) for layer in layers)
    assert any({"scores", "softmax", "mix"} <= set(layer.nodes) for layer in layers)


def test_the_text_and_the_json_of_tensorrt_10_tell_the_same():
    text = parse_layers("[V] [TRT] Layers:\n" + TENSORRT_10_TEXT).layers
    document = parse_layers(json.dumps(TENSORRT_10_JSON)).layers
    assert text == document
    (layer,) = text
    assert layer.nodes == ("Conv_0", "Relu_1")
    assert [tensor.dtype for tensor in (*layer.inputs, *layer.constants)] == ["int8", "int8"]
    assert computing_types(layer) == {"int8"}


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ("", ()),
        ("[ONNX Layer: a][ONNX Layer: b][ONNX Layer: a]", ("a", "b")),
        ("[ONNX Layer: conv][ONNX Layer: relu]__gemm_from_conv1x1", ("conv", "relu")),
        ("[ONNX Layer: a]\x1e[ONNX Layer: b]\x1f[ONNX Layer: c]", ("a", "b", "c")),
        ("[ONNX Layer: inner | call (MyGelu)]", ("inner | call (MyGelu)",)),
        ("[ONNX Layer: x[0].y]", ("x[0].y",)),
    ],
)
def test_names_in_metadata(metadata: str, names: tuple[str, ...]):
    assert onnx_nodes(metadata) == names


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no line 'Layers:'"),
        ("Layers:\n", "lists no layer"),
        ("Layers:\nName: conv\n", "layer 1: the layer has no LayerType"),
        ('{"Layers": ["conv", "relu"]}', "layer names only"),
        ('{"Layers": []}', "no list 'Layers'"),
        ('{"Layers": [', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_what_is_no_layer_dump_is_refused(text: str, complaint: str):
    with pytest.raises(StepError, match=complaint):
        parse_layers(text)


@given(cut=st.integers(0, 2000))
def test_a_dump_that_breaks_off_gives_whole_layers_or_an_error(cut: int):
    text = golden("conv_int8")
    layers = parse_layers(text).layers
    try:
        read = parse_layers(text[:cut]).layers
    except StepError:
        return
    # The list of nodes is the last thing on a line, so it may be cut without anyone noticing.
    assert [layer.inputs for layer in read] == [layer.inputs for layer in layers[: len(read)]]


@given(junk=st.text(max_size=200), position=st.integers(0, 2700))
def test_a_damaged_dump_never_gives_anything_but_layers_or_an_error(junk: str, position: int):
    text = golden("conv_int8")
    try:
        read = parse_layers(text[:position] + junk + text[position:])
    except StepError:
        return
    assert all(isinstance(layer, EngineLayer) for layer in read.layers)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@given(
    key=st.sampled_from(["Name", "Inputs", "Weights", "Metadata", "StreamId", "LayerType"]),
    value=anything,
    dims=anything,
)
def test_strange_json_never_gives_anything_but_layers_or_an_error(
    key: str, value: object, dims: object
):
    entry = {"Name": "a", "LayerType": "gemm", "Outputs": [{"Dimensions": dims}], key: value}
    (read,) = parse_layers(json.dumps({"Layers": [entry]})).layers
    assert isinstance(read, EngineLayer)


def test_five_thousand_layers_are_read_in_bounded_time_and_memory():
    body = golden("resnet50_int8").partition("\n\nI/O Tensors:")[0].removeprefix("Layers:\n")
    lines = body.splitlines()
    text = "Layers:\n" + "\n".join(lines * (5000 // len(lines) + 1))
    tracemalloc.start()
    begun = time.perf_counter()
    layers = parse_layers(text).layers
    seconds = time.perf_counter() - begun
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(layers) >= 5000
    assert seconds < 10  # 0.3 s without tracing on two slow cores; a quadratic reader takes minutes
    assert peak < 10 * len(text)  # 2.2 times the text here


def test_the_step_reads_the_dump_of_the_engine(tmp_path: Path):
    dump = tmp_path / "layers.txt"
    dump.write_text(golden("matmul_int8"), encoding="utf-8")
    ctx = context(tmp_path, dump)
    assert ReadLayers().run(ctx) == 0
    assert len(ctx.get(EngineLayers).layers) == 3


def test_an_engine_without_a_dump_is_refused_with_a_remedy(tmp_path: Path):
    with pytest.raises(StepError, match="no layer dump") as error:
        ReadLayers().run(context(tmp_path, None))
    assert "detailed profiling verbosity" in error.value.remedy
    damaged = tmp_path / "layers.txt"
    damaged.write_bytes(b"\xff\x00nonsense")
    with pytest.raises(StepError, match=r"layers\.txt: this is no layer dump"):
        ReadLayers().run(context(tmp_path, damaged))


def context(folder: Path, dump: Path | None) -> Context:
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["" : 21]> g () => () { }')
    ctx = Context(model, folder, Request("model.onnx"))
    path = folder / "engine"
    ctx.put(Engine(path, "tensorrt_rtx", "1.7.1", ("sm_89",), 1, 0.1, layer_dump=dump))
    return ctx
