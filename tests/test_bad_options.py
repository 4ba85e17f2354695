"""Options that mean nothing, or nothing together, given to the real command."""

from pathlib import Path

import pytest
from refusals import refused

pytestmark = pytest.mark.usefixtures("place")

RUN = ("run", "convert", "-m", "good.onnx")
LONG = "x" * 5000 + ".onnx"


@pytest.mark.parametrize("command", [
    ["run", LONG], ["run", "convert", "-m", LONG], ["check", LONG], ["init", LONG],
    ["bisect", LONG, "--build"], ["bisect", "good.onnx", "-r", LONG],
    ["verify", "good.onnx", LONG], ["profile", LONG], ["diff", LONG, LONG],
    ["qualify", "convert", "-m", "good.onnx", "--against", LONG],
    ["export", "triton", LONG, "--out", "served"], [*RUN, "--out", LONG],
], ids=lambda command: " ".join(command).replace(LONG, "LONG"))  # fmt: skip
def test_a_name_that_no_file_can_have(command):
    refused(*command, says=["x" * 40, "name"])


@pytest.mark.parametrize("option", [
    ["--dry-run"], ["--resume"], ["--verify-each"], ["--no-cache"], ["--no-compare"],
    ["--json-lines"], ["--log", "log.txt"], ["--without", "trtforge-ops"], ["--model", "m.onnx"],
    ["--set", "cast.to=bfloat16"], ["--shape", "x=1"], ["--target", "sm_86"],
], ids=lambda option: option[0])  # fmt: skip
def test_an_option_of_a_single_run_is_not_forgotten_beside_a_matrix(option):
    refused("run", "--matrix", "m.yaml", *option, says=["--matrix and", option[0]])


@pytest.mark.parametrize("option", [["--on", "ray"], ["--on", "mars"], ["--jobs", "4"]])
def test_an_option_of_a_matrix_is_not_forgotten_beside_a_single_run(option):
    refused(*RUN, *option, says=[option[0], "--matrix FILE"])


@pytest.mark.parametrize("option", ["--json", "--dry-run"])
def test_two_forms_of_the_answer(option):
    refused(*RUN, "--json-lines", option, says=["--json-lines and", option])


def test_numbers_that_no_result_can_have():
    for cosine in ("2", "-1.5", "most"):
        refused("verify", "good.onnx", "good.onnx", "--cosine", cosine, says=["--cosine"])
    refused("bisect", "good.onnx", "--build", "--jobs", "0", says=["--jobs"])


def test_a_shape_that_contradicts_the_model():
    says = ["input 'x'", "shape [1] does not fit", "for example x=8x16x8x8"]
    refused("profile", "good.onnx", "--shape", "x=1", says=says)


def test_a_folder_where_a_file_is_written_and_the_other_way_round():
    Path("logs").mkdir()
    refused(*RUN, "--log", "logs", says=["--log logs is a folder"])
    bisect = ("bisect", "good.onnx", "--build", "--out", "good.onnx")
    refused(*bisect, says=["--out good.onnx is a file, not a folder"])


def test_files_of_another_kind():
    Path("dump.txt").write_text("no layers")
    Path("times.json").write_text("[]")
    says = ["dump.txt: this is no layer dump", "trtexec --exportLayerInfo"]
    refused("diff", "dump.txt", "dump.txt", says=says)
    refused("profile", "dump.txt", says=says)
    for file in ("times.json", "none.json"):
        refused("profile", "good.onnx", "--times", file, says=[file, "--exportTimes"])
    data = ("verify", "good.onnx", "good.onnx", "--data")
    refused(*data, "none", says=["none: there is no such file or folder"])
