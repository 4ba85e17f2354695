"""The Markdown summary of a run: the facts, and no text of a model that is markup."""

from dataclasses import replace

from test_report import HOSTILE, example

from trtforge import artifacts as a
from trtforge.markdown_summary import summary
from trtforge.report import Verdict


def test_what_it_says(tmp_path):
    text = summary(example(tmp_path, name="conv"))
    assert text.startswith("### ❌ conv.onnx: Done, but requirements were missed (exit code 1)")
    assert "- output 'conv': cosine similarity 0.99 is below the required 0.999" in text
    assert "| `conv` | 0.99995 | 41.3 dB | 99.50% |" in text
    assert "Multiply-accumulates: 90.00% int8, 10.00% float16 (**not as asked**)" in text
    assert "| `m.engine` | sm_86, sm_89 | 3.34MiB | 1MiB | 3 |" in text
    assert "Median time 0.8 ms on NVIDIA H200" in text


def test_a_good_run_without_a_gpu(tmp_path):
    report = replace(example(tmp_path), verdict=Verdict(0), timings=None)
    text = summary(report)
    assert "### ✅" in text
    assert "Built, not executed." in text


def test_names_of_a_model_are_no_markup(tmp_path):
    text = summary(example(tmp_path, name=HOSTILE + "|\n\n# new `heading`"))
    assert "<script>" not in text.replace("`<script>", "")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(line.endswith("|") for line in rows)
    assert not [line for line in text.splitlines() if line.startswith("# ")]


def test_long_tables_are_cut(tmp_path):
    outputs = tuple(a.OutputComparison(f"y{i}", 0.0, 0.0, 1.0, 60.0, None) for i in range(50))
    report = replace(example(tmp_path), comparison=a.Comparison(outputs, "d", True, 8))
    text = summary(report)
    assert "`y19`" in text
    assert "`y20`" not in text
    assert "and 30 more" in text
