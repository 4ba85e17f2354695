"""Measured times: their statistics, the files of other tools, and the steps that measure."""

import json

import layer_dumps
import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command import trtforge
from trtforge_plugins.profiling.profile_engine import ProfileEngine
from trtforge_plugins.profiling.read_times import ReadTimes
from trtforge_plugins.profiling.time_onnxruntime import TimeOnnxruntime

from trtforge import Context, DataError, EnvironmentLacks, Request, RequestError
from trtforge.timing_files import read_timings
from trtforge.timing_statistics import interval, quantile, summarize

# Statistics


def test_statistics_of_runs():
    shuffled = np.random.default_rng(0).permutation(500)
    times = [9.0, 8.0, *(1 + i / 1000 for i in shuffled)]
    found = summarize(times, device="here", warmup=2)
    assert (found.runs, found.warmup) == (500, 2)
    assert found.median_ms == pytest.approx(1.2495)
    assert found.p90_ms == pytest.approx(np.percentile(times[2:], 90))
    assert found.p99_ms == pytest.approx(np.percentile(times[2:], 99))
    for name, value in (("median", found.median_ms), ("p90", found.p90_ms), ("p99", found.p99_ms)):
        low, high = found.intervals[name]
        assert low <= value <= high


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (5, 0.5, None),  # all five below the median: 1 in 32, more than 2.5 %
        (6, 0.5, (0, 5)),  # 1 in 64 on either side
        (10, 0.5, (1, 8)),  # the table of the sign test: the 2nd to the 9th
        (100, 0.5, (39, 60)),
        (367, 0.99, None),  # 0.99 ** 367 is 2.5006 %
        (368, 0.99, (359, 367)),
    ],
)
def test_the_interval_of_a_quantile_is_binomial(count, share, expected):
    assert interval(list(range(count)), share) == expected


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true = np.log(2)  # of the exponential distribution, which is as skewed as times are
    hits = 0
    for _ in range(1000):
        low, high = interval(sorted(rng.exponential(size=40)), 0.5)
        hits += low <= true <= high
    assert hits >= 940  # 95 % are promised; 1000 tries miss by 1 % with some probability


def test_quantiles_are_numpys():
    values = sorted(np.random.default_rng(1).random(17))
    for share in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0):
        assert quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_doubts_are_told():
    assert "only 3 runs" in summarize([1.0, 1.0, 1.0], device="d").notes[0]
    drifting = summarize([*[1.0] * 20, *[1.2] * 20], device="d")
    assert "the runs drift" in drifting.notes[0]
    assert summarize([1.0] * 40, device="d").notes == ()
    for bad in ([], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(DataError):
            summarize(bad, device="d")


# Files of other tools

TREX_PROFILE = """[
  { "count" : 107 }
, { "name" : "conv1 + relu", "timeMs" : 3.21, "averageMs" : 0.03, "medianMs" : 0.02, "percentage" : 40 }
, { "name" : "fc\x1e[ONNX Layer: fc]", "timeMs" : 6.42, "averageMs" : 0.06, "medianMs" : 0.06, "percentage" : 60 }
]"""  # noqa: E501  # as trtexec writes it; it escapes nothing


def query(start, compute, h2d=0.0, d2h=0.0):
    """An entry of trtexec's --exportTimes (exportJSONTrace in sampleReporting.cpp)."""
    keys = ("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs",
            "startD2hMs", "endD2hMs")  # fmt: skip
    times = dict.fromkeys(keys, start)
    return times | {"h2dMs": h2d, "computeMs": compute, "d2hMs": d2h,
                    "latencyMs": h2d + compute + d2h}  # fmt: skip


def write(path, document):
    """``path`` with a JSON document in it."""
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def test_layers_profiled_by_trtexec(tmp_path):
    found = read_timings(write(tmp_path / "profile.json", TREX_PROFILE))
    assert [(layer.name, layer.median_ms) for layer in found.layers] == [
        ("conv1 + relu", 0.02), ("fc\x1e[ONNX Layer: fc]", 0.06),
    ]  # fmt: skip
    assert found.layers[1].share == pytest.approx(0.75)
    assert found.runs == 107
    assert found.median_ms == pytest.approx(0.08)
    assert (found.p90_ms, found.p99_ms, found.intervals) == (None, None, {})
    assert "sum of the layers' medians" in found.notes[0]


def test_queries_timed_by_trtexec(tmp_path):
    queries = [query(i, 1 + i / 100, h2d=0.2, d2h=0.1) for i in range(50)]
    found = read_timings(write(tmp_path / "times.json", queries))
    assert (found.runs, found.median_ms) == (50, pytest.approx(1.245))
    assert found.intervals["median"][0] < 1.245 < found.intervals["median"][1]
    assert any("medians 0.2 ms to the GPU, 0.1 ms back" in note for note in found.notes)
    alone = read_timings(write(tmp_path / "t.json", [query(0, 1.0)] * 20), warmup=5)
    assert (alone.runs, alone.warmup) == (15, 5)
    assert any("trtexec measured none" in note for note in alone.notes)


def test_a_profile_of_onnx_runtime(tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "ort")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = models.parse(models.MLP).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(12):
        session.run(None, {"x": np.zeros((2, 64), np.float32)})
    trace = tmp_path / "trace.json"
    (tmp_path / session.end_profiling()).rename(trace)
    found = read_timings(trace)
    assert (found.runs, found.warmup) == (11, 1)
    assert {layer.name for layer in found.layers} == {"up", "bias", "act", "down"}
    assert found.median_ms >= sum(layer.median_ms for layer in found.layers) / 2
    assert found.device == "ONNX Runtime, CPUExecutionProvider"


def test_nodes_in_a_loop_count_as_often_as_they_run(tmp_path):
    event = lambda name, ts, dur, cat="Node": {  # noqa: E731  # the shape of an event
        "cat": cat, "name": name, "ts": ts, "dur": dur, "ph": "X",
        "args": {"provider": "CUDAExecutionProvider"},
    }  # fmt: skip
    events = [event("model_run", 100 * run, 90, "Session") for run in range(3)]
    events += [
        event("body_kernel_time", 100 * run + 9 * i, 8) for run in range(3) for i in range(5)
    ]
    found = read_timings(write(tmp_path / "e.json", events))
    assert found.layers[0].median_ms == pytest.approx(5 * 0.008)
    assert "kernels run on afterwards" in found.notes[1]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ({}, "neither trtexec's"),
        ([], "neither trtexec's"),
        ([1, "x", None], "neither trtexec's"),
        ([{"cat": "Node", "dur": 1}], "no event 'model_run'"),
        ([{"computeMs": "fast"}], "no number"),
        ([{"name": "a", "medianMs": None}], "no number 'medianMs'"),
    ],
)
def test_what_is_no_file_of_times_is_refused(tmp_path, document, said):
    with pytest.raises(DataError, match=said):
        read_timings(write(tmp_path / "x.json", document))


def test_times_beside_a_layer_dump_are_found(tmp_path):
    text = layer_dumps.golden("bert_fp32")
    (tmp_path / "bert.layers.txt").write_text(text)
    names = ["encoder.layer.0.scores_myl0_4", "encoder.layer.0.mix_myl0_8"]
    profile = [{"count": 9}, *({"name": name, "medianMs": 0.25} for name in names)]
    write(tmp_path / "bert.profile.json", profile)
    write(tmp_path / "bert.times.json", [query(0, 2.0)] * 30)
    answer = trtforge("profile", tmp_path / "bert.layers.txt", "--top", "2")
    assert answer.code == 0, answer.err
    assert "Measured   median 2 ms (2 to 2 with 95 % confidence), p90 2 ms" in answer.out
    assert "read from bert.times.json, bert.profile.json" in answer.out
    assert "nothing was measured" not in answer.out
    rows = [
        line for line in answer.out.splitlines() if line.startswith(" 0.25 ms") or "250 us" in line
    ]
    assert len(rows) == 2  # the layers with a measured time come first
    # As NVIDIA's own tools name pairs of files.
    write(tmp_path / "layers_b.json", {"Layers": [{"Name": "a", "LayerType": "gemm"}]})
    write(tmp_path / "profile_b.json", [{"name": "a", "medianMs": 0.5}])
    facts = trtforge("profile", tmp_path / "layers_b.json", "--json").json
    assert facts["measured"]["median_ms"] == 0.5


def test_engines_of_tensorrt_11_made_elsewhere(tmp_path):
    """The inspector's JSON as trtexec 11 exports it: a list, with type and format apart."""
    tensor = {"Name": "t", "Dimensions": [8, 64], "Strides": [64, 1], "StrideOrder": [1, 0],
              "Datatype": "Half", "Format": "(Linear) Row major linear format"}  # fmt: skip
    layers = [
        {"Name": f"{name}_myl0_{index}", "LayerType": "gemm", "Inputs": [tensor],
         "Outputs": [tensor], "Metadata": f"[ONNX Layer: {name}]", "StreamId": 0}
        for index, name in enumerate(("up", "down"))
    ]  # fmt: skip
    write(tmp_path / "layers_m.json", layers)
    times = [{"name": layer["Name"], "medianMs": 0.2} for layer in layers]
    write(tmp_path / "profile_m.json", [{"count": 50}, *times])
    onnx.save(models.parse(models.MLP), tmp_path / "m.onnx")
    command = ("profile", tmp_path / "layers_m.json", "-m", tmp_path / "m.onnx", "--json")
    facts = trtforge(*command, "--shape", "x=8x64").json
    found = facts["predicted"]["layers"]
    assert [(layer["nodes"], layer["dtype"]) for layer in found] == [
        (["up"], "float16"), (["down"], "float16"),
    ]  # fmt: skip
    assert found[0]["outputs"] == ["float16 8x64 Linear"]
    assert found[0]["macs"] == 8 * 64 * 128
    assert [layer["name"] for layer in facts["measured"]["layers"]] == [x["name"] for x in found]


def test_measured_times_of_a_model(tmp_path):
    onnx.save(models.parse(models.MLP), tmp_path / "m.onnx")
    write(tmp_path / "t.json", [{"name": "down", "averageMs": 0.5}])
    answer = trtforge("profile", tmp_path / "m.onnx", "--times", tmp_path / "t.json")
    assert answer.code == 0, answer.err
    assert next(line for line in answer.out.splitlines() if "500 us" in line).split()[-2:] == [
        "down", "Gemm",
    ]  # fmt: skip
    three = ("--times", tmp_path / "t.json") * 3
    assert trtforge("profile", tmp_path / "m.onnx", *three).code == 2
    missing = trtforge("profile", tmp_path / "m.onnx", "--times", tmp_path / "none.json")
    assert (missing.code, "none.json" in missing.err) == (2, True)


# Steps


def context(tmp_path, model):
    """A context with nothing but a model."""
    request = Request(source="m", profiles=(), targets=())
    return Context(model=ir.from_proto(model), request=request, workdir=tmp_path)


def test_the_step_reads_both_files(tmp_path):
    runs = write(tmp_path / "t.json", [query(0, 2.0)] * 30)
    layers = write(tmp_path / "p.json", TREX_PROFILE)
    step = ReadTimes(path=runs, layers=layers)
    found = step.profile(None, None, None)
    assert (found.median_ms, len(found.layers)) == (2.0, 2)
    assert set(step.reads()) == {runs, layers}


def test_the_model_is_timed_under_onnx_runtime(tmp_path):
    ctx = context(tmp_path, models.parse(models.MLP))
    step = TimeOnnxruntime(runs=12, warmup=2, provider="cpu", threads=1)
    found = step.profile(ctx.model, None, ctx)
    assert (found.runs, found.warmup) == (12, 2)
    assert 0 < found.median_ms <= found.p90_ms <= found.p99_ms
    assert found.layers
    assert any("synthesized" in note for note in found.notes)
    with pytest.raises(RequestError, match="make no measurement"):
        TimeOnnxruntime(runs=0).profile(ctx.model, None, ctx)


def test_an_engine_needs_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("trtforge_plugins.tensorrt.gpu.current", lambda: None)
    ctx = context(tmp_path, models.parse(models.MLP))
    with pytest.raises(EnvironmentLacks, match="no GPU here"):
        ProfileEngine().profile(ctx.model, None, ctx)
    with pytest.raises(RequestError, match="make no measurement"):
        ProfileEngine(warmup=-1).profile(ctx.model, None, ctx)


def test_a_recipe_measures_and_the_report_says_how(tmp_path):
    onnx.save(models.parse(models.MLP), tmp_path / "m.onnx")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "shapes: {x: 2x64}\nstages:\n  - name: measure\n    steps:\n"
        "      - time-onnxruntime: {runs: 8, warmup: 1, provider: cpu, threads: 1}\n"
    )
    answer = trtforge("run", recipe, "--model", tmp_path / "m.onnx", "--out", tmp_path / "o",
                      "--no-compare", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    timings = answer.json["timings"]
    assert (timings["runs"], timings["warmup"]) == (8, 1)
    assert timings["intervals"].keys() == {"median"}
    assert "with 95% confidence" in (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
