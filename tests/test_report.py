"""The report as JSON, its schema, and the page: complete, and safe with hostile names."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from pydantic import TypeAdapter
from test_statistics_report import seen

from trtforge import artifacts as a
from trtforge.context import Context, Note, Request, Requirements
from trtforge.environment import Environment, Gpu
from trtforge.errors import DataError
from trtforge.quantities import ByteSize, ShapeRange, percent
from trtforge.records import StepRecord
from trtforge.report import (
    Report,
    Verdict,
    finite,
    make_report,
    read_report,
    report_schema,
    summarize_model,
)
from trtforge.report_facts import digits
from trtforge.report_page import render
from trtforge.statistics import Evaluated, NodeGroup, Sensitivity, Statistics
from trtforge.targets import read_target

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
m (float[N,4] x) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> { a = Add (x, w)  y = Relu (a) }
"""


def example(tmp_path: Path, name: str = "layer1.conv") -> Report:
    """A full report; ``name`` stands wherever a model can put text."""
    request = Request(
        source=f"models/{name}.onnx",
        profiles=({name: ShapeRange.read("1x4:8x4:32x4")},),
        targets=(read_target("sm_86"), read_target("sm_89")),
        require=Requirements(cosine=0.999, engine_size=ByteSize("4MiB")),
    )
    model = ir.from_proto(onnx.parser.parse_model(MODEL))
    ctx = Context(model, tmp_path, request)
    ctx.put(
        a.Engine(
            tmp_path / "m.engine", "tensorrt_rtx", "1.7.1", ("sm_86", "sm_89"), 3_500_000, 12.34,
            memory=a.Memory(activation=2**20, weights=3 * 2**20), events=(f"warning: {name}",),
        )
    )  # fmt: skip
    tensor = a.LayerTensor(name, "Half", (1, 4))
    layers = tuple(
        a.EngineLayer(name, kind, outputs=(tensor,)) for kind in ("gemm", "gemm", "kgen")
    )
    ctx.put(a.EngineLayers(layers))
    shares = (
        a.PrecisionShare("int8", 900, 0.9, (name, "b")),
        a.PrecisionShare("float16", 100, 0.1, ("c",)),
    )
    ctx.put(
        a.PrecisionProof(shares, 1000, {name: "int8"}, {name: f"{name} runs in float32"}, (name,))
    )
    outputs = (
        a.OutputComparison(name, 0.25, 2.0, 0.99995, 41.3, 0.995),
        a.OutputComparison("same", 0.0, 0.0, 1.0, float("inf"), None),
        a.OutputComparison(
            "lost", 0.0, 0.0, 0.0, float("-inf"), None, problem=f"{name} is missing"
        ),
    )
    accuracy = {"given": 0.976, "final": 0.974}
    ctx.put(a.Comparison(outputs, f"{name}.npz", real=False, samples=512, accuracy=accuracy))
    timings = (a.LayerTiming(name, 0.5, 0.6), a.LayerTiming("other", 0.3, 0.4))
    ctx.put(a.Timings("NVIDIA H200", 100, 10, 0.8, 0.9, 1.2, timings))
    ctx.put(a.Figures({name: 1.5}))
    ctx.put(a.CastTo("float16", {name: f"its output {name!r} reached 7e+04"}, 1, 4, 12))
    values = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    ctx.put(Statistics({name: seen(values), "zero": seen(values * 0)}, 64, f"{name}.npz"))
    ctx.put(a.Ranges({name: a.Range(-2.0, 2.0)}, "percentile", 64, f"{name}.npz"))
    points = (
        Evaluated(1.0, 0.98, 12.0, None, meets=False),
        Evaluated(0.9, 0.9995, 30.0, None, True),
    )
    groups = (NodeGroup((name, "b"), 900, 1e-3, kept=False), NodeGroup(("c",), 100, 0.02, True))
    ctx.put(Sensitivity("int8", groups, points, {"cosine": 0.999}, 3.5, 64, f"{name}.npz"))
    records = [
        StepRecord("prepare", "fold-constants", 1, {"limit": "1MiB"}, 12, 0.21, 120),
        StepRecord("prepare", "drop-identity", 1, {}, 3, 0.01, 117, cached=True),
        StepRecord(
            "quantize", name, 2, {name: [name]}, 54, 3.4, 250, (Note(name, name), Note("", "x"))
        ),
        StepRecord("build", "tensorrt", 1, {}, 0, 12.4, 250, error=f"{name} failed"),
    ]
    packages = {"numpy": np.__version__, name: "1"}
    gpu = Gpu(name, "9.0", 2**37, 2**36)
    environment = Environment("3.11", "Linux", "x86_64", 2, 2**33, packages, "580.1", (gpu,))
    verdict = Verdict(1, (f"output {name!r}: cosine similarity 0.99 is below the required 0.999",))
    given = summarize_model(model)
    return make_report(
        ctx, records, recipe=name, verdict=verdict, environment=environment, given=given
    )


def test_json_matches_its_schema_and_reads_back(tmp_path):
    report = example(tmp_path)
    text = report.to_json()
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.validate(json.loads(text), report_schema())
    again = read_report(text)
    assert again.to_json() == text
    assert again.comparison.outputs[1].sqnr_db == float("inf")


def test_json_is_what_pydantic_writes_by_the_schema(tmp_path):
    report = example(tmp_path)
    by_schema = TypeAdapter(Report).dump_python(report, mode="json")
    assert json.loads(report.to_json()) == finite(by_schema)


def test_json_has_no_infinity_of_its_own(tmp_path):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads(example(tmp_path).to_json(), parse_constant=refuse)
    assert data["comparison"]["outputs"][1]["sqnr_db"] == "Infinity"
    assert data["comparison"]["outputs"][2]["sqnr_db"] == "-Infinity"


def test_the_schema_refuses_what_is_no_report(tmp_path):
    data = json.loads(example(tmp_path).to_json())
    for broken in ({**data, "version": 2}, {**data, "surplus": 1}, {**data, "stages": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, report_schema())
        with pytest.raises(DataError, match="no report of trtforge"):
            read_report(json.dumps(broken))


def test_a_report_of_a_failed_run_has_no_more_than_is_known(tmp_path):
    full = example(tmp_path)
    report = Report(
        trtforge="0.1", created=full.created, verdict=Verdict(3, error="it broke"),
        request=full.request, environment=full.environment, given=None, final=None, stages=(),
    )  # fmt: skip
    assert read_report(report.to_json()).verdict.error == "it broke"
    page = render(report)
    assert "Not done: a step failed (exit code 3)" in page
    assert "it broke" in page


def test_summary_of_a_model_counts_nodes_and_bytes():
    summary = summarize_model(ir.from_proto(onnx.parser.parse_model(MODEL)))
    assert summary.nodes_by_op == {"Add": 1, "Relu": 1}
    assert (summary.nodes, summary.parameters, summary.parameter_bytes) == (2, 4, 16)
    assert (summary.inputs[0].dtype, summary.inputs[0].shape) == ("float", "Nx4")


class Page(HTMLParser):
    """Collects elements, open ones, and text."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_well_formed_and_shows_everything(tmp_path):
    page = Page(render(example(tmp_path)))
    assert page.open == []
    for shown in (
        "Done, but requirements were missed", "0.99995", "41.3 dB", "∞ dB", "97.60%", "90.00%",
        "is missing", "3.34MiB", "sm_86, sm_89", "12.3 s", "fold-constants", "cached",
        "layer1.conv failed",
        "Casts: 1 before, 4 after", "12 tensors", "reached 7e+04", "Ranges: percentile",
        "of the values are clipped", "always 0: no scale fits", "3.5 passes", "required 0.999",
        "This is no real data", "2 gemm", "NVIDIA H200", "8x4", "runs in float32",
    ):  # fmt: skip
        assert shown in page.text


def test_the_page_loads_nothing(tmp_path):
    html = render(example(tmp_path))
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href", "srcset", "action", "background"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert "@import" not in html
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html


def test_hostile_names_stay_text(tmp_path):
    html = render(example(tmp_path, HOSTILE))
    page = Page(html)
    assert page.open == []
    assert sum(tag == "script" for tag, _ in page.elements) == 1  # the page's own
    assert "<script>alert" not in html
    assert page.text.count("{{7*7}}") >= 15  # and is no template
    assert page.text.count("alert(1)") >= 15  # each place shows the name as it is
    assert [attrs for tag, attrs in page.elements if "alert" in str(attrs)] == []


def test_the_pages_own_script_is_the_one_its_policy_allows(tmp_path):
    import base64
    import hashlib

    html = render(example(tmp_path))
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(at["content"] for tag, at in Page(html).elements if "http-equiv" in at)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_tables_can_be_read_without_a_mouse_or_eyes(tmp_path):
    page = Page(render(example(tmp_path)))
    heads = [attrs for tag, attrs in page.elements if tag == "th"]
    assert all(attrs.get("scope") in ("col", "row") for attrs in heads)
    regions = [attrs for tag, attrs in page.elements if attrs.get("class") == "scroll"]
    assert regions
    assert all(r["tabindex"] == "0" and r["role"] == "region" and r["aria-label"] for r in regions)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert ("html", {"lang": "en"}) in page.elements


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.00%"), (0.999999, "> 99.99%"), (0.0, "0.00%"), (1e-7, "< 0.01%"), (0.5, "50.00%")],
)
def test_all_and_nothing_are_never_rounded_to(share, text):
    assert percent(share) == text


def test_numbers_are_written_short():
    assert [digits(value, 3) for value in (0.12345, float("inf"), -float("inf"))] == [
        "0.123",
        "∞",
        "-∞",
    ]


def test_a_verdict_without_misses_is_good(tmp_path):
    report = replace(example(tmp_path), verdict=Verdict(0))
    assert 'class="verdict good"' in render(report)
