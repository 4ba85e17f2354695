"""Matrices: what a file says, what is run again and what is not, and what a death costs."""

import json
import os
import shutil
import signal
import threading
import time

import onnx
import pytest
from command import trtforge

from trtforge import demo
from trtforge.errors import RecipeError, RequestError
from trtforge.matrix import cells as matrix_cells
from trtforge.matrix.cells import Cell, digests, read_matrix
from trtforge.matrix.execute import Outcome
from trtforge.matrix.local import LocalProcesses
from trtforge.matrix.runs import run_matrix, worst

RECIPE = "stages: [{name: clean, steps: [fold-constants, drop-dead-code]}]\n"
MATRIX = """
models:
  one: one.onnx
  two: {model: two.onnx, shapes: {image: 1x1x8x8}, set: {drop-dead-code.dead: false}}
recipes: [convert, clean.yaml]
targets: [sm_86, [sm_80, sm_89]]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):
        shutil.copy(demo.MODEL, tmp_path / f"{name}.onnx")
    (tmp_path / "clean.yaml").write_text(RECIPE)
    return tmp_path


def cells(place, text):
    file = place / "matrix.yaml"
    file.write_text(text)
    return read_matrix(file)


def test_every_model_recipe_and_target_is_a_cell(place):
    found = cells(place, MATRIX)
    assert [cell.name for cell in found] == [
        "one.convert.sm_86", "one.convert.sm_80+sm_89", "one.clean.sm_86", "one.clean.sm_80+sm_89",
        "two.convert.sm_86", "two.convert.sm_80+sm_89", "two.clean.sm_86", "two.clean.sm_80+sm_89",
    ]  # fmt: skip
    last = found[-1]
    assert last.targets == ("sm_80", "sm_89")
    assert last.shapes == {"image": "1x1x8x8"}
    assert last.settings == ("drop-dead-code.dead=false",)
    assert last.files == ("two.onnx", "clean.yaml")
    assert Cell.from_data(last.as_data()) == last


def test_cells_can_be_left_out(place):
    found = cells(place, MATRIX + "leave_out: [{model: two, target: sm_86}, {recipe: convert}]\n")
    assert [cell.name for cell in found] == [
        "one.clean.sm_86", "one.clean.sm_80+sm_89", "two.clean.sm_80+sm_89",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        (("one.onnx", "none.onnx"), "matrix.yaml:3", "there is no none.onnx"),
        (("one.onnx", "../one.onnx"), "matrix.yaml:3", "outside the folder"),
        (("sm_86,", "sm_1,"), "matrix.yaml:6", "sm_1"),
        (("shapes:", "shape:"), "matrix.yaml:4", "shape"),
        (("recipes:", "recipe:"), "matrix.yaml", "recipe"),
        (("targets: [sm_86, [sm_80, sm_89]]", "targets: []"), "matrix.yaml", "no cell"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(place, change, where, words):
    with pytest.raises(RecipeError) as caught:
        cells(place, MATRIX.replace(*change))
    assert where in caught.value.where
    assert words in caught.value.what


def test_a_cell_to_leave_out_that_is_not_there(place):
    with pytest.raises(RecipeError, match="leave_out names no cell"):
        cells(place, MATRIX + "leave_out: [{model: three}]\n")


class Counting:
    """Runs nothing; remembers which cells it was given."""

    def __init__(self, code=0):
        self.code, self.asked = code, []

    def outcomes(self, cells, inputs, out):
        for cell in cells:
            self.asked.append(cell.name)
            yield cell, Outcome(self.code, 1.0, "here")


def test_what_is_done_is_not_run_again_unless_it_changed(place):
    found, out = cells(place, MATRIX), place / "out"
    first, again = Counting(), Counting()
    run_matrix(found, place, out, first)
    rows = run_matrix(found, place, out, again)
    assert len(first.asked) == 8
    assert again.asked == []
    assert all(row.earlier for row in rows)
    (place / "two.onnx").write_bytes(demo.MODEL.read_bytes() + b"\x00")
    run_matrix(found, place, out, again)
    assert [name.split(".")[0] for name in again.asked] == ["two"] * 4


def test_the_cells_of_the_largest_model_begin_first(place):
    larger = onnx.load(demo.MODEL)
    larger.doc_string = "more " * 1000
    onnx.save(larger, place / "two.onnx")
    runner = Counting()
    run_matrix(cells(place, MATRIX), place, place / "out", runner)
    assert [name.split(".")[0] for name in runner.asked] == ["two"] * 4 + ["one"] * 4


def test_a_file_of_many_cells_is_read_once(place, monkeypatch):
    found, read = cells(place, MATRIX), []
    monkeypatch.setattr(matrix_cells, "file_digest", lambda path: read.append(path.name) or "hash")
    assert len(set(digests(found, place).values())) == len(found)
    assert sorted(read) == ["clean.yaml", "one.onnx", "two.onnx"]


def test_failures_are_run_again_and_missed_requirements_are_not(place):
    found, out = cells(place, MATRIX), place / "out"
    assert worst(run_matrix(found, place, out, Counting(3))) == 3
    missing = Counting(1)
    assert worst(run_matrix(found, place, out, missing)) == 1
    assert len(missing.asked) == 8
    again = Counting()
    run_matrix(found, place, out, again)
    assert again.asked == []


def test_a_half_written_marker_counts_as_nothing(place):
    found, out = cells(place, MATRIX), place / "out"
    run_matrix(found, place, out, Counting())
    (out / found[0].name / "cell.json").write_text('{"digest": "')
    again = Counting()
    run_matrix(found, place, out, again)
    assert again.asked == [found[0].name]


def test_a_folder_with_something_else_is_left_alone(place):
    found = cells(place, MATRIX)
    with pytest.raises(RequestError, match="holds something else"):
        run_matrix(found, place, place, Counting())


def test_the_command_runs_a_matrix(place):
    text = "models: {one: one.onnx, two: two.onnx}\nrecipes: [clean.yaml]\ntargets: [sm_86]\n"
    (place / "matrix.yaml").write_text(text)
    answer = trtforge("run", "--matrix", place / "matrix.yaml", "--out", place / "out", "--json")
    assert answer.code == 0, answer.err
    assert [row["cell"] for row in answer.json["rows"]] == ["one.clean.sm_86", "two.clean.sm_86"]
    assert (place / "out" / "one.clean.sm_86" / "report.html").is_file()
    report = json.loads((place / "out" / "matrix.json").read_text())
    assert [row["cosine"] for row in report["rows"]] == pytest.approx([1.0, 1.0])


def test_options_that_the_file_should_hold_are_refused(place):
    (place / "matrix.yaml").write_text(MATRIX)
    answer = trtforge("run", "fp16", "--matrix", place / "matrix.yaml")
    assert answer.code == 2
    assert "do not go together" in answer.err


def test_a_process_that_dies_is_tried_again(place, monkeypatch):
    (cell,) = cells(place, "models: {one: one.onnx}\nrecipes: [clean.yaml]\ntargets: [sm_86]\n")
    runner, out = LocalProcesses(1), place / "out"
    out.mkdir()

    def kill_the_first():
        while not (runner.workers and runner.workers[0].pid):
            time.sleep(0.01)
        os.kill(runner.workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    ((_, outcome),) = runner.outcomes([cell], place, out)
    killer.join()
    assert (outcome.exit_code, outcome.attempts) == (0, 2)
    assert (out / cell.name / "model.onnx").is_file()


@pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="NOT RUN: needs two cores"
)
def test_cells_at_a_time_share_the_cores(place):
    text = "models: {one: one.onnx, two: two.onnx}\nrecipes: [clean.yaml]\ntargets: [sm_86]\n"
    runner = LocalProcesses(2)
    for _ in runner.outcomes(cells(place, text), place, place / "out"):
        shares = [os.sched_getaffinity(worker.pid) for worker in runner.workers if worker.pid]
        assert set.union(*shares) <= os.sched_getaffinity(0)
        assert len(shares) < 2 or not set.intersection(*shares)
    assert shares


def test_a_failing_cell_does_not_stop_the_others(place):
    (place / "one.onnx").write_bytes(b"no model")
    text = "models: {one: bad, two: two.onnx}\nrecipes: [clean.yaml]\ntargets: [sm_86]\n"
    (place / "bad").mkdir()
    (place / "bad" / "model.onnx").write_bytes(b"no model")
    rows = run_matrix(cells(place, text), place, place / "out", LocalProcesses(2))
    assert [row.outcome.exit_code for row in rows] == [2, 0]
    assert "model" in rows[0].outcome.error
