"""What an engine costs by counting, and which node and module is behind each layer."""

import gzip
import importlib.util
import json
import math
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import layer_dumps
import models
import onnx
import onnx.helper
import onnx_ir as ir
import pytest
from command import trtforge
from trtforge_plugins.analysis.devices import devices, find_device, rate
from trtforge_plugins.analysis.layer_map import map_layers
from trtforge_plugins.analysis.predict import Predict, predict
from trtforge_plugins.analysis.provenance import module_of, source_of
from trtforge_plugins.analysis.sizes import Size, layer_size, node_bytes
from trtforge_plugins.engine_layers import parse_layers

from trtforge import Context, EngineLayer, LayerTensor, Request, RequestError
from trtforge.analysis import Ceilings, Device, Prediction
from trtforge.targets import read_target

UNIT = Device("unit", 89, 1.0, {"float32": 0.001, "int8": 0.002}, ("here",))
"""1e9 bytes and 1e9 float32 or 2e9 int8 operations a second: times can be told by heart."""


def golden(name):
    """The model and the layers of a golden dump."""
    model, _ = layer_dumps.golden_jobs()[name]
    return ir.from_proto(model), parse_layers(layer_dumps.golden(name)).layers


def done(*arguments):
    """The answer of a command that does as asked."""
    answer = trtforge(*arguments)
    assert answer.code == 0, answer.err
    return answer


def refused(code, *arguments):
    """The answer of a command that ends with ``code``."""
    answer = trtforge(*arguments)
    assert answer.code == code, answer.out + answer.err
    return answer


# Nodes


def test_bytes_of_a_node_are_its_tensors_once():
    model = ir.from_proto(models.parse(models.CONV_RELU))
    conv = model.graph[0]
    assert node_bytes(conv) is None  # its batch is open
    found = predict(golden("conv_int8")[0], (), UNIT)
    assert found.nodes[0].bytes == 1024 * 4 + 4 + 1 + 1024  # x, scale, zero point, INT8 result


def test_a_model_alone_is_counted_node_by_node():
    model = ir.from_proto(models.parse(models.MLP))
    found = predict(model, (), UNIT, {"x": (2, 64)})
    by_name = {node.name: node for node in found.nodes}
    assert by_name["up"].macs == 2 * 64 * 128
    assert by_name["up"].bytes == 4 * (2 * 64 + 64 * 128 + 2 * 128)
    assert found.macs == 2 * 64 * 128 + 2 * 128 * 32
    assert found.layers == ()
    assert found.launches == 4
    # All weights, the input and the output: 12 576 numbers; arithmetic: 49 152 operations in 1e9/s.
    moved = 4 * (64 * 128 + 128 + 32 * 128 + 32 + 2 * 64 + 2 * 32)
    assert found.floor_ms == pytest.approx(max(moved / 1e9, 2 * found.macs / 1e9) * 1e3)
    assert found.serial_ms >= found.floor_ms


# Layers


def test_work_and_memory_of_a_convolution():
    model, layers = golden("conv_int8")
    found = predict(model, layers, UNIT)
    conv = next(layer for layer in found.layers if layer.macs)
    assert conv.macs == found.macs == 16 * 8 * 8 * 16 * 3 * 3
    assert conv.dtype == "int8"
    assert conv.nodes[0] == "conv"
    assert conv.milliseconds == pytest.approx(max(2 * conv.macs / 2e9, conv.bytes / 1e9) * 1e3)
    assert conv.bound == "arithmetic"
    assert found.launches == len(layers)
    by_name = {node.name: node for node in found.nodes}
    assert [found.layers[index].name for index in by_name["conv"].layers] == [conv.name]


def test_all_work_of_a_real_network_is_found_in_its_layers():
    model, layers = golden("resnet50_int8")
    found = predict(model, layers, find_device("L4"))
    assert sum(layer.macs for layer in found.layers) == found.macs == 4_089_184_256
    assert all(layer.bytes_known for layer in found.layers)
    assert found.floor_ms < found.serial_ms
    assert not found.notes


def test_work_that_no_layer_shows_is_said():
    model, layers = golden("conv_int8")
    silent = [replace(layer, kind="loop", name="loop", tactic="") for layer in layers]
    found = predict(model, silent, UNIT)
    assert found.macs > 0
    assert sum(layer.macs for layer in found.layers) == 0
    assert "the work of 1 nodes is in no layer's floor" in found.notes[0]
    assert found.notes[0].endswith("the first is conv (Conv)")


def test_every_layer_has_nodes_or_is_tensorrts_own():
    model, layers = golden("resnet50_int8")
    places = map_layers(model, layers)
    assert not any(place.unknown for place in places)
    own = {layer.kind for layer, place in zip(layers, places, strict=True) if not place.nodes}
    assert own <= {"signal", "wait"}


def test_a_copy_is_placed_by_the_tensors_it_moves():
    model = ir.from_proto(models.parse(models.MLP))
    value = lambda name: (LayerTensor(name, "float32", (2, 64)),)  # noqa: E731  # a short word
    layers = (
        EngineLayer("up", "gemm", value("x"), (), value("a"), nodes=("up",)),
        EngineLayer("__myl_Move", "kgen", value("a"), (), value("b")),
        EngineLayer("wait", "wait"),
        EngineLayer("down", "gemm", value("b"), (), value("y"), nodes=("down",)),
    )
    up, move, wait, down = map_layers(model, layers)
    assert [node.name for node in move.nodes] == ["up", "down"]
    assert [place.origin for place in (up, move, wait, down)] == [
        "named", "inferred", "tensorrt", "named",
    ]  # fmt: skip


def test_a_name_the_model_does_not_have_stays_a_name():
    model = ir.from_proto(models.parse(models.MLP))
    (place,) = map_layers(model, (EngineLayer("l", "gemm", nodes=("inner | up (Op)", "gone")),))
    assert [node.name for node in place.nodes] == ["up"]
    assert place.unknown == ("gone",)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 32, 8, 8), Size(8 * 32 * 8 * 8 * 2)),
        ((-1, 32, 8, 8), Size(4 * 32 * 8 * 8 * 2)),  # as the node's own output
        ((-1, 8, 8), Size(4 * 32 * 8 * 8 * 2)),  # the same elements, flattened
        ((-1, 7), Size(7 * 2, known=False)),  # fits nothing: a lower bound
    ],
)
def test_open_dimensions_are_taken_from_the_nodes(shape, expected):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"], "relu")], "g",
        [onnx.helper.make_tensor_value_info("x", 1, [4, 32, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, [4, 32, 8, 8])],
    )  # fmt: skip
    node = ir.from_proto(onnx.helper.make_model(graph)).graph[0]
    layer = EngineLayer("l", "kgen", outputs=(LayerTensor("t", "float16", shape),))
    assert layer_size(layer, [node]) == expected


@pytest.mark.slow
def test_a_dump_of_5000_layers_becomes_a_report_within_the_bars(tmp_path):
    """CPU time: other work on the machine does not count. ``layer_dump_scale.json`` has more."""
    script = Path(__file__).parent.parent / "benchmarks" / "layer_dump_scale.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    model, dump = benchmark.prepare(tmp_path, 5000)
    rounds = [benchmark.measure(model, dump) for _ in range(2)]  # a busy machine slows the CPU, too
    seconds = [sum(part["cpu"] for part in each["seconds"].values()) for each in rounds]
    first = rounds[0]
    assert first["mapped"] == first["layers"] >= 5000
    assert min(seconds) < 2 * benchmark.BARS["seconds"]  # the machine is not the benchmark's
    assert first["peak_megabytes"]["all"] < benchmark.BARS["peak_megabytes"]
    assert first["page_bytes"] < benchmark.BARS["page_megabytes"] * 1e6


# Where nodes come from

STACK = (
    'File "/home/me/net.py", line 12, in forward\n    return self.body(x)\n'
    '  File "/usr/lib/python3.11/site-packages/torch/nn/modules/container.py", line 253, in forward'
)


@pytest.mark.parametrize(
    ("name", "metadata", "module", "source"),
    [
        ("n", {"pkg.torch.onnx.name_scopes": "['', 'body', 'body.0', 'conv2d']",
               "pkg.torch.onnx.stack_trace": STACK}, "body.0", "net.py:12"),
        ("/layers/layers.0/fc/MatMul", {}, "layers.0.fc", ""),
        ("/encoder/layer.3/output/Add", {}, "encoder.layer.3.output", ""),
        ("plain", {}, "", ""),
        ("n", {"pkg.torch.onnx.name_scopes": "garbage", "pkg.torch.onnx.stack_trace": "x"}, "", ""),
    ],
)  # fmt: skip
def test_module_and_line_of_a_node(name, metadata, module, source):
    node = ir.Node("", "Relu", [], name=name, metadata_props=metadata)
    assert (module_of(node), source_of(node)) == (module, source)


# Devices


def test_every_device_says_where_its_figures_are_from():
    assert {device.sm for device in devices().values()} >= {75, 80, 86, 89, 90, 100, 120}
    table = files("trtforge_plugins") / "analysis" / "devices.json"
    for entry in json.loads(table.read_text(encoding="utf-8"))["devices"]:
        figures = {**entry["rates"], "bandwidth": entry["bandwidth"]}
        assert {name for source in entry["sources"] for name in source["gives"]} == set(figures)
        for source in entry["sources"]:
            assert source["url"].startswith("https://")
            for name in source["gives"]:
                said = words_say(source["words"], figures[name], sparse=source.get("sparse", False))
                assert said, (entry["name"], name, source["words"])


def words_say(words, figure, *, sparse):
    """Whether ``words`` hold ``figure``: plain, in thousands (TB/s), in ones, or with sparsity."""
    numbers = [
        float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e12)?", words)
    ]
    scales = (1.0, 1e3, 1e-12)
    return any(
        math.isclose(figure * (2 if sparse else 1), number * scale)
        for number in numbers
        for scale in scales
    )


def test_words_that_do_not_hold_a_figure_are_found():
    assert words_say("FP8 3,958 with sparsity", 1979, sparse=True)
    assert words_say("3.35 TB/s", 3350, sparse=False)
    assert words_say("torch.int8: 130e12", 130, sparse=False)
    assert not words_say("FP8 3,958 with sparsity", 1979, sparse=False)
    assert not words_say("1979 with sparsity", 1979, sparse=True)


def test_a_device_is_found_by_name_or_target():
    assert find_device("h200").name == "H200 SXM"
    assert find_device("", ("sm_75", "sm_89")).name == "T4"
    assert find_device("", ()).name == "L4"
    assert rate(find_device("L4"), "float32") == 60e12  # TF32, as TensorRT does by default
    assert rate(find_device("T4"), "bfloat16") is None
    with pytest.raises(RequestError, match="Did you mean 'RTX 4090'"):
        find_device("RTX 4091")


def test_a_type_without_a_rate_is_said():
    model, layers = golden("conv_int8")
    found = predict(model, layers, Device("no int8", 89, 1.0, {"float32": 1.0}, ("here",)))
    assert "the table has no rate for int8" in found.notes[0]
    assert next(layer for layer in found.layers if layer.macs).bound == "unknown"


def test_what_was_measured_is_in_the_table():
    file = Path(__file__).parent.parent / "benchmarks" / "results" / "h200_ceilings.json"
    found = json.loads(file.read_text())
    measured = devices()["H200 SXM"].measured
    assert measured.bandwidth == pytest.approx(found["copy_gb_per_s"]["rate"], abs=1)
    rates = {name: each["rate"] for name, each in found["tera_operations_per_s"].items()}
    assert measured.rates == pytest.approx(rates, abs=0.1)
    published = devices()["H200 SXM"]
    assert measured.bandwidth < published.bandwidth
    assert all(rate < published.rates[name] for name, rate in measured.rates.items())


def test_measured_ceilings_give_a_second_floor():
    model, layers = golden("conv_int8")
    published = Device("card", 89, 100.0, {"int8": 10.0, "float32": 1.0}, ("here",))
    measured = Ceilings(50.0, {"int8": 5.0, "float32": 0.5}, "one card, today")
    plain = predict(model, layers, published)
    both = predict(model, layers, replace(published, measured=measured))
    assert both.floor_ms == plain.floor_ms  # what is published stays the bound
    assert both.notes[:-1] == plain.notes
    assert both.notes[-1].startswith("with what was measured (one card, today) in place of")
    assert both.notes[-1].endswith(f"takes at least {2 * plain.floor_ms:.3g} ms")


def test_a_target_without_a_gpu_in_the_table_is_said(tmp_path):
    model = ir.from_proto(models.parse(models.MLP))
    for target, said in (("sm_89", False), ("sm_87", True)):
        request = Request(source="m", targets=(read_target(target),))
        ctx = Context(model, tmp_path, request)
        Predict().run(ctx)
        notes = ctx.get(Prediction).notes
        assert any("the table has no GPU of sm_87" in note for note in notes) is said
    ctx = Context(model, tmp_path, request)
    Predict(device="T4").run(ctx)
    assert not any("no GPU of" in note for note in ctx.get(Prediction).notes)


# The command


@pytest.fixture
def engine(tmp_path):
    """A run folder's engines/, as far as `profile` needs it."""
    model, _ = layer_dumps.golden_jobs()["resnet50_int8"]
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "r.engine").write_bytes(b"engine")
    dump = layer_dumps.GOLDEN / "resnet50_int8.txt.gz"
    with gzip.open(dump) as packed, (tmp_path / "engines" / "r.layers.txt").open("wb") as file:
        shutil.copyfileobj(packed, file)
    return tmp_path / "engines" / "r.engine"


def test_profile_of_an_engine(engine):
    lines = done("profile", str(engine), "--device", "A10", "--top", "3").out.splitlines()
    assert lines[0].startswith(
        "Predicted  for A10 (sm_86) by published rates; nothing was measured"
    )
    assert "4,089,184,256 MACs" in lines[1]
    table = lines[lines.index("") + 1 :]
    assert table[4] == ""  # behind a head and three rows: the advice
    assert table[5].startswith("launch-bound  ")
    facts = done("profile", str(engine), "--json").json
    assert facts["measured"] is None
    assert facts["predicted"]["device"]["name"] == "L4"
    assert len(facts["predicted"]["layers"]) > 50


def test_profile_of_a_dump_without_its_model(engine):
    dump = engine.parent.parent.parent / "alone.layers.txt"
    dump.write_bytes(engine.with_suffix(".layers.txt").read_bytes())
    facts = done("profile", str(dump), "--json").json["predicted"]
    assert facts["macs"] == 0
    assert any("stem" in layer["nodes"] for layer in facts["layers"])
    given = done(
        "profile", str(dump), "--model", str(engine.parent.parent / "model.onnx"), "--json"
    )
    assert given.json["predicted"]["macs"] == 4_089_184_256


def test_profile_of_a_model_takes_shapes(tmp_path):
    onnx.save(models.parse(models.CONV_RELU), tmp_path / "m.onnx")
    facts = done("profile", str(tmp_path / "m.onnx"), "--shape", "x=2x16x8x8", "--json").json
    assert facts["predicted"]["macs"] == 2 * 32 * 8 * 8 * 16 * 9
    assert "--shape" in done("profile", str(tmp_path / "m.onnx")).out


def test_what_profile_refuses(engine, tmp_path):
    assert "does not exist" in refused(2, "profile", str(tmp_path / "none.onnx")).err
    assert "no device 'Z80'" in refused(2, "profile", str(engine), "--device", "Z80").err
    engine.with_suffix(".layers.txt").unlink()
    assert "no layer dump r.layers.txt" in refused(2, "profile", str(engine)).err
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"Layers": ["names only"]}))
    assert "layer names only" in refused(2, "profile", str(broken)).err


def test_the_map_goes_both_ways():
    model, layers = golden("attention_fp16")
    found = predict(model, layers, UNIT)
    for node in found.nodes:
        for index in node.layers:
            assert node.name in found.layers[index].nodes
    there = {(node.name, index) for node in found.nodes for index in node.layers}
    back = {(name, i) for i, layer in enumerate(found.layers) for name in layer.nodes}
    assert there == back
    assert all(layer.nodes for layer in found.layers if layer.origin == "named")
