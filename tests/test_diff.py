"""What two engines do differently, held against a case read by hand, and conditions on it."""

import contextlib
import gzip
import json
from dataclasses import replace

import layer_dumps
import onnx
import pytest
from command import trtforge
from hypothesis import given
from hypothesis import strategies as st
from trtforge_plugins.analysis.devices import find_device
from trtforge_plugins.analysis.movement import only_moves, only_quantizes
from trtforge_plugins.analysis.predict import predict
from trtforge_plugins.engine_layers import parse_layers

from trtforge import EngineLayer, LayerTensor, RequestError
from trtforge.artifacts import LayerTiming, Timings
from trtforge.diff_figures import Figure
from trtforge.fail_if import failures, read_conditions
from trtforge.layer_diff import compare_engines
from trtforge.subject import Subject

BLOCK = "encoder.layer.0."


def subject(name, times=None):
    """An engine of a golden dump, counted; ``times`` are milliseconds of its layers by name."""
    model, _ = layer_dumps.golden_jobs()[name]
    layers = parse_layers(layer_dumps.golden(name)).layers
    found = predict(onnx_ir(model), layers, find_device("L4"))
    timings = None
    if times is not None:
        rows = tuple(LayerTiming(layer, value, 0.0) for layer, value in times.items())
        timings = Timings("a GPU", 10, 1, sum(times.values()), 0.0, 0.0, rows)
    return Subject(name, found, timings=timings)


def onnx_ir(model):
    """``model`` in the IR that the counting reads."""
    import onnx_ir as ir

    return ir.from_proto(model)


@pytest.fixture(scope="module")
def bert():
    """The two engines of the hand-read case, and what is different."""
    first, second = subject("bert_fp32"), subject("bert_int8")
    return first, second, compare_engines(first, second)


def test_every_changed_fusion_of_bert_is_named(bert):
    """Read by hand from the two golden dumps, layer by layer.

    In FP32 the query, key and value biases are added behind one joint product, attention is three
    kernels, the first product of the feed-forward takes bias and GELU with it. In INT8 the kernel
    behind each product also rescales its result, so that it names the product too; attention is
    one kernel, which makes the mask's arithmetic move into the kernel of the mask; the product of
    the feed-forward stands alone and GELU is a kernel of its own.
    """
    fused = {
        frozenset(n.removeprefix(BLOCK) for n in change.nodes): (
            len(change.before),
            len(change.after),
        )
        for change in bert[2].changes
        if "fused" in change.what
    }
    head = lambda part: frozenset(  # noqa: E731  # three of a kind
        {f"attention.self.{part}", f"attention.self.{part}.add", f"{part}.split", f"{part}.heads"}
    )
    gelu = {"erf.in", "erf", "gate", "erf.one", "gelu"}
    assert fused == {
        head("query"): (1, 1),
        head("key"): (1, 1),
        head("value"): (1, 1),
        frozenset({
            "scores", "scale", "mask", "softmax", "mix", "mask.float", "mask.wide", "mask.inverse",
            "mask.bias", "pool.count", "pool.column",
        }): (4, 2),
        frozenset({"intermediate.dense", "intermediate.dense.add", *gelu}): (1, 2),
        frozenset({
            "attention.output.dense", "attention.output.dense.add", "residual1",
            "attention.output.LayerNorm",
        }): (1, 1),
        frozenset({"output.dense", "output.dense.add", "residual2", "output.LayerNorm"}): (1, 1),
    }  # fmt: skip


def test_what_else_is_different_in_bert(bert):
    _, _, diff = bert
    by_word = {
        word: [c for c in diff.changes if word in c.what]
        for word in ("precision", "output", "removed", "added", "moves", "time")
    }
    precise = {node for change in by_word["precision"] for node in change.nodes}
    products = ("attention.self.query", "attention.self.key", "attention.self.value", "scores",
                "mix", "attention.output.dense", "intermediate.dense", "output.dense")  # fmt: skip
    assert {f"{BLOCK}{name}" for name in products} <= precise
    assert [change.nodes for change in by_word["removed"]] == [(f"{BLOCK}unheads",)]
    (output,) = by_word["output"]  # the embeddings are written a second time, as INT8
    assert "embeddings.LayerNorm" in output.nodes
    assert [text.split()[0] for text in output.after[0].outputs] == ["float32", "int8"]
    assert not by_word["added"]
    assert not by_word["moves"]
    assert not by_word["time"]  # nothing was measured
    assert diff.basis == "predicted"
    assert diff.same == 2


def test_figures_effects_and_totals_of_bert(bert):
    first, second, diff = bert
    figures = {figure.name: (figure.before, figure.after) for figure in diff.figures}
    assert figures["layers"] == (17, 15)
    assert figures["launches"] == (17, 15)
    assert figures["moves"] == (1, 0)  # the transpose in front of attention's output
    assert figures["float32_macs"] == (557_056, 0)
    assert figures["int8_macs"] == (0, 557_056)
    effects = [abs(change.effect_ms) for change in diff.changes]
    assert effects == sorted(effects, reverse=True)
    for totals, side in ((diff.by_op, "before_ms"), (diff.by_op, "after_ms")):
        whole = (first if side == "before_ms" else second).prediction.serial_ms
        assert sum(getattr(row, side) for row in totals) == pytest.approx(whole)
    assert diff.by_op[0].name == "MatMul"


def test_an_engine_does_nothing_differently_from_itself(bert):
    diff = compare_engines(bert[0], bert[0])
    assert diff.changes == ()
    assert all(figure.change == 0 for figure in diff.figures)
    assert diff.same == 17


def test_measured_times_are_the_basis_where_both_have_them(bert):
    names = [layer.name for layer in bert[0].prediction.layers]
    slow = dict.fromkeys(names, 0.5)
    fast = {**slow, names[4]: 0.25, names[5]: 0.49}  # the second within what noise may do
    diff = compare_engines(subject("bert_fp32", slow), subject("bert_fp32", fast))
    assert diff.basis == "measured"
    (change,) = diff.changes
    assert (change.what, change.nodes) == (("time",), (f"{BLOCK}scores",))
    assert change.effect_ms == -0.25
    latency = next(figure for figure in diff.figures if figure.name == "latency")
    assert latency.change == pytest.approx(-0.26)
    assert compare_engines(bert[0], subject("bert_fp32", fast)).basis == "predicted"


def test_added_copies_and_nodes_of_one_side_are_named(bert):
    first = bert[0].prediction
    scores = next(layer for layer in first.layers if layer.nodes == (f"{BLOCK}scores",))
    copy = replace(scores, name="copy", role="moves", macs=0)
    own = replace(copy, name="new", nodes=("made by a pass",))
    more = replace(bert[0], prediction=replace(first, layers=(*first.layers, copy, own)))
    changes = compare_engines(bert[0], more).changes
    what = {change.nodes: change.what for change in changes}
    assert what == {
        (f"{BLOCK}scores",): ("fused", "moves"),
        ("made by a pass",): ("added", "moves"),
    }


@pytest.mark.parametrize(
    ("name", "kind", "types", "found"),
    [
        ("__myl_CastTran_myl0_3", "kgen", ("float32", "float16"), (True, False)),
        ("__myl_AddResh_myl0_3", "kgen", ("float32", "float32"), (False, False)),
        ("Reformatting CopyNode for x", "Reformat", ("int8", "int8"), (True, False)),
        ("cast_hvar3", "cast", ("int64", "int32"), (True, False)),
        ("__myl_MulMinMaxRounCast_myl0_1", "kgen", ("float32", "int8"), (False, True)),
        ("__myl_CastMul_myl0_1", "kgen", ("int8", "float16"), (False, True)),
        ("__myl_MulMulMinMaxRounCast_myl0_1", "kgen", ("float32", "int8"), (False, False)),
        ("__myl_CastMul_myl0_1", "kgen", ("float32", "float16"), (False, False)),
        ("fc", "gemm", ("int8", "float32"), (False, False)),
    ],
)  # fmt: skip
def test_layers_that_do_no_arithmetic(name, kind, types, found):
    read, written = ((LayerTensor("t", dtype, (4,)),) for dtype in types)
    layer = EngineLayer(name, kind, inputs=read, outputs=written)
    assert (only_moves(layer), only_quantizes(layer)) == found


def test_torch_modules_are_told_where_the_exporter_left_them(bert):
    def with_modules(subject):
        nodes = tuple(
            replace(node, module="attention" if ".attention." in node.name else "")
            for node in subject.prediction.nodes
        )
        return replace(subject, prediction=replace(subject.prediction, nodes=nodes))

    diff = compare_engines(with_modules(bert[0]), with_modules(bert[1]))
    (total,) = diff.by_module
    assert total.name == "attention"
    assert total.after_ms < total.before_ms
    dense = next(c for c in diff.changes if c.nodes == (f"{BLOCK}attention.output.dense",))
    assert dense.modules == ("attention",)


# Conditions

FIGURES = (
    Figure("latency", 10.0, 10.31, "ms"),
    Figure("layers", 17, 19),
    Figure("int8_macs", 0, 5),
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency>+3%", ["latency>+3%: latency went from 10 to 10.31 ms (+3.1 %)"]),
        ("latency>+4%", []),
        ("latency > 0.3", ["latency > 0.3: latency went from 10 to 10.31 ms (+3.1 %)"]),
        ("layers>+2", []),
        ("layers>1|latency<0", ["layers>1: layers went from 17 to 19 (+11.8 %)"]),
        ("int8_macs<-1%", []),
        ("int8_macs>+1%", ["int8_macs>+1%: int8_macs went from 0 to 5 (+inf %)"]),
        ("bfloat16_macs>0", []),  # neither engine multiplies in it
    ],
)
def test_conditions(text, said):
    assert list(failures(read_conditions(text), FIGURES)) == said


@pytest.mark.parametrize(
    "text", ["", "latency", "latency>", "latency>3%%", "latency>=3", "a|", "x>1e9", "(1)>2", "2>1"]
)
def test_bad_conditions_are_refused(text):
    with pytest.raises(RequestError, match="is no condition"):
        read_conditions(text)


def test_a_condition_on_an_unknown_figure_is_refused():
    with pytest.raises(RequestError, match="Did you mean 'layers'"):
        list(failures(read_conditions("layer>2"), FIGURES))
    with pytest.raises(RequestError, match="no figure 'int9_macs'"):
        list(failures(read_conditions("int9_macs>2"), FIGURES))


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(RequestError):
        assert len(read_conditions(text)) == text.count("|") + 1


# The command


@pytest.fixture
def dumps(tmp_path):
    """Two layer dumps and the model behind the first."""
    for name in ("bert_fp32", "bert_int8"):
        text = gzip.decompress((layer_dumps.GOLDEN / f"{name}.txt.gz").read_bytes())
        (tmp_path / f"{name}.layers.txt").write_bytes(text)
    onnx.save(layer_dumps.small_bert(), tmp_path / "bert.onnx")
    return tmp_path / "bert_fp32.layers.txt", tmp_path / "bert_int8.layers.txt"


def test_diff_of_two_dumps(dumps, tmp_path):
    page = tmp_path / "diff.html"
    answer = trtforge("diff", *dumps, "-m", tmp_path / "bert.onnx", "--top", "3", "--html", page)
    assert answer.code == 0, answer.err
    assert "nothing was measured" in answer.out
    assert "fused differently 7" in answer.out
    assert "9 further changes" in answer.out
    text = page.read_text(encoding="utf-8")
    assert "fused differently" in text
    assert f"{BLOCK}unheads" in text
    assert text.count("<script") == 1  # its own
    facts = trtforge("diff", *dumps, "--json").json  # without the model: by names alone
    assert sum("fused" in change["what"] for change in facts["changes"]) == 7
    assert any("precision" in change["what"] for change in facts["changes"])
    assert facts["failed"] == []


def test_diff_for_scripts(dumps):
    failed = trtforge("diff", *dumps, "--fail-if", "layers<-1|moves>0")
    assert failed.code == 1
    assert (
        failed.out.splitlines()[-1] == "Failed     layers<-1: layers went from 17 to 15 (-11.8 %)"
    )
    assert trtforge("diff", *dumps, "--json", "--fail-if", "layers<-1").json["failed"]
    assert trtforge("diff", *dumps, "--fail-if", "layers>+2").code == 0
    refused = trtforge("diff", *dumps, "--fail-if", "latency>+3%")
    assert refused.code == 2
    assert "latency needs measured times on both sides" in refused.err
    assert trtforge("diff", *dumps, "--fail-if", "layers>many").code == 2


def test_a_model_without_an_engine_is_refused(dumps, tmp_path):
    answer = trtforge("diff", dumps[0], tmp_path / "bert.onnx")
    assert answer.code == 2
    assert "bert.onnx has no layers of an engine" in answer.err
    assert trtforge("diff", dumps[0], tmp_path / "none").code == 2


def test_names_from_an_engine_cannot_write_the_page(tmp_path):
    evil = {"Name": "<img src=x onerror=alert(1)>", "LayerType": "gemm", "Inputs": [],
            "Outputs": [{"Name": "y", "Dimensions": [1], "Format/Datatype": "FP32"}],
            "Metadata": "[ONNX Layer: <script>alert(1)</script>]"}  # fmt: skip
    for name, layers in (("a", [evil]), ("b", [{**evil, "LayerType": "conv", "Metadata": ""}])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"Layers": layers}))
    page = tmp_path / "diff.html"
    answer = trtforge("diff", tmp_path / "a.json", tmp_path / "b.json", "--html", page)
    assert answer.code == 0, answer.err
    text = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script") == 1  # its own
    assert "<img" not in text
