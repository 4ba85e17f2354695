"""Results that cannot be written where the real command is told to."""

import contextlib
import fcntl
import os
import resource
from pathlib import Path

import pytest
from command import trtforge
from refusals import CONV, DONE, ENVIRONMENT_LACKS, refused

pytestmark = pytest.mark.usefixtures("place")


def convert(*more):
    return ("run", "convert", "-m", "good.onnx", *more)


def test_an_output_that_is_a_file():
    Path("out").write_text("mine")
    refused(*convert("--out", "out"), says=["out", "is a file, not a folder"])
    refused(*convert("--out", "out/below"), says=["out/below", "cannot be written"])


def test_an_output_that_nobody_can_write():
    refused(*convert("--out", "/proc/none"), says=["/proc/none", "cannot be written"])
    refused("init", "good.onnx", "-o", "/proc/x.yaml", says=["/proc/x.yaml", "cannot be written"])


def test_an_output_that_holds_something_else():
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")
    refused(*convert("--out", "out"), says=["is not empty", "another folder with --out"])
    refused(*convert("--out", "out", "--resume"), says=["there is no run in out"])


def test_an_output_that_holds_a_run():
    assert trtforge(*convert("--out", "out")).code == DONE
    refused(*convert("--out", "out"), says=["holds a run", "--resume"])
    Path("other.onnx").write_bytes(CONV)
    other = ("run", "convert", "-m", "other.onnx", "--out", "out", "--resume")
    refused(*other, says=["holds a run of 'convert' on good.onnx"])
    Path("out/run.json").write_text("{")
    refused(*convert("--out", "out", "--resume"), says=["out/run.json is damaged"])


def test_an_output_that_another_run_is_writing_to():
    assert trtforge(*convert("--out", "out")).code == DONE
    with open("out/.lock", "rb") as lock:  # noqa: PTH123  # a lock belongs to an open file
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(*convert("--out", "out", "--resume"), says=["another run is writing to out"])


def test_a_refused_resume_keeps_the_earlier_report():
    assert trtforge(*convert("--out", "out")).code == DONE
    refused(*convert("--out", "out", "--resume", "--shape", "x=1x3x8x8"), says=["dimension 1 is"])
    assert trtforge("report", "out").code == DONE


def test_nothing_to_resume():
    refused(*convert("--resume"), says=["--resume: there is no run in"])


def test_a_recipe_is_not_overwritten():
    Path("recipe.yaml").write_text("mine")
    refused("init", "good.onnx", says=["recipe.yaml exists", "--force"])


@contextlib.contextmanager
def no_file_over(size):
    """Let the system refuse to write more into a file, as it does when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_disk_is_full_when_the_model_is_saved():
    assert trtforge(*convert("--out", "out")).code == DONE
    kept = Path("out/model.onnx").read_bytes()
    with no_file_over(8192):
        answer = trtforge(*convert("--out", "out", "--resume", "--no-cache"))
    assert answer.code == ENVIRONMENT_LACKS
    assert "out/model.onnx: no space for the model" in answer.err
    assert "To do: free some space" in answer.err
    assert "Traceback" not in answer.err
    assert Path("out/model.onnx").read_bytes() == kept
    assert not [path for path in Path("out").glob(".*") if path.name != ".lock"]


def test_the_disk_is_full_when_a_recipe_is_written():
    Path("recipe.yaml").write_text("mine")
    with no_file_over(256):
        refused(
            "init", "good.onnx", "--force",
            code=ENVIRONMENT_LACKS, says=["recipe.yaml: no space for the file"],
        )  # fmt: skip


@pytest.mark.parametrize("limit", [0, 8192])
def test_a_cache_that_cannot_be_written_stops_no_run(limit, place):
    """Its disk may be full while that of the results is not: only the cache gets the limit."""
    cache = place.parent / "cache"
    if limit:
        cache.mkdir()
        (cache / "blobs").write_text("a file where a folder should be")
        answer = trtforge(*convert("--out", "out"))
    else:
        os.environ["TRTFORGE_CACHE"] = "/proc/none"
        answer = trtforge(*convert("--out", "out"))
    assert answer.code == DONE, answer.err
    assert "the cache cannot be written, going on without it" in answer.err
