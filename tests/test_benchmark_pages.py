"""What a page says was measured is what the committed result of the benchmark holds."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_on_calibration_ends_with_the_committed_result() -> None:
    calibration = script("calibration")
    stored = json.loads(calibration.RESULT.read_text())
    assert calibration.PAGE.read_text().endswith(calibration.page(stored))


def test_a_row_over_its_bar_is_named_on_the_page() -> None:
    calibration = script("calibration")
    row = {"model": "m", "tool": "trtforge max", "wall_s_ratio": 1.51, "peak_mb_ratio": 2.9}
    assert calibration.misses([row]) == ["m max, time 1.51"]
    assert calibration.misses([row | {"wall_s_ratio": 1.5}]) == []
    assert calibration.misses([row | {"tool": "onnxruntime minmax"}]) == []


def test_the_page_on_quantization_ends_with_the_committed_result(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # it imports its neighbour
    accuracy = script("accuracy")
    stored = json.loads(accuracy.RESULT.read_text())
    assert accuracy.PAGE.read_text().endswith(accuracy.page(stored))


def test_the_page_on_memory_has_the_committed_result_of_fitting() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "fit_memory.json").read_text())
    assert script("fit_memory_table").tables(stored) in (ROOT / "docs" / "memory.md").read_text()


def test_where_batches_were_searched_the_largest_fits_and_the_next_does_not() -> None:
    """The committed result itself: both were built."""
    stored = json.loads((ROOT / "benchmarks" / "results" / "fit_memory.json").read_text())
    found = [run for run in stored["runs"] if run["budget"] == "batch"]
    assert len(found) >= 4
    for run in found:
        fits = {row["attempt"]: row["fits"] for row in run["rows"] if "batches" in row["attempt"]}
        largest = max(int(text.split()[-1]) for text, well in fits.items() if well)
        assert fits[f"batches up to {largest + 1}"] is False
