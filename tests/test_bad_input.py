"""Bad input through the real command: the documented exit code, where, what and what to do.

Never a traceback, never a changed file, never a file left over.
"""

import contextlib
import fcntl
import gzip
import hashlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import types
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import trtforge
from models import CONV_RELU, parse
from onnx import TensorProto, helper

from trtforge import demo, hookimpl

DONE, BAD_REQUEST, STEP_FAILED, ENVIRONMENT_LACKS = 0, 2, 3, 4
REMEDIES = ("To do:", "Did you mean", "It has:", "Try '")
CONV = parse(CONV_RELU).SerializeToString()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of the user's, with a good model in it; the cache is elsewhere."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "good.onnx").write_bytes(CONV)
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def contents():
    """Everything in the working folder: its names, and the hash of each file."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in Path().rglob("*")
    }


def refused(*arguments, code=BAD_REQUEST, says=(), unchanged=True):
    """Run a command that must be refused, and hold its message to ``says``."""
    before = contents()
    answer = trtforge(*arguments)
    assert "Traceback" not in answer.err, answer.err
    assert answer.code == code, answer
    for words in says:
        assert words in answer.err, answer.err
    assert any(remedy in answer.err for remedy in REMEDIES), f"what to do? {answer.err}"
    if unchanged:
        assert contents() == before
    return answer


# Model files


def zipped():
    with zipfile.ZipFile("m.onnx", "w") as archive:
        archive.writestr("data.pkl", b"x")


MODEL_FILES = {
    "missing": (None, "there is no such file"),
    "empty": (b"", "the file is empty"),
    "cut short": (CONV[: len(CONV) // 2], "damaged, cut short"),
    "text": (b"this is my model\n", "this is a text file"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "random bytes": (np.random.default_rng(0).bytes(4096), "no ONNX model"),
    "zip archive": (zipped, "a zip archive"),
    "gzip": (gzip.compress(CONV), "compressed with gzip"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("command", [["run", "convert", "--model"], ["check"], ["init"]])
def test_a_file_that_is_no_model(name, command):
    content, says = MODEL_FILES[name]
    if callable(content):
        content()
    elif content is not None:
        Path("m.onnx").write_bytes(content)
    refused(*command, "m.onnx", says=["m.onnx", says])


def test_a_folder_without_a_model():
    Path("empty").mkdir()
    refused("run", "convert", "--model", "empty", says=["empty"])


def test_a_model_that_breaks_onnx_rules(place):
    text = '<ir_version: 10, opset_import: ["" : 21]> m (float[4] x) => (float[4] y) {y = Add(x)}'
    Path("m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    refused("run", "convert", "-m", "m.onnx", says=["m.onnx", "breaks ONNX's rules"])


def test_a_small_model_that_claims_a_trillion_elements():
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=b"")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10**6, 10**6])], [weight],
    )  # fmt: skip
    Path("m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert Path("m.onnx").stat().st_size < 100
    refused("run", "convert", "-m", "m.onnx", says=["tensor 'w'", "need 4000000000000"])


def external(location):
    """Write the model with its weights said to be in the file ``location``."""
    model = onnx.ModelProto.FromString(CONV)
    for tensor in model.graph.initializer:
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": 0, "length": size}.items():
            tensor.external_data.add(key=key, value=str(value))
    Path("m.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("weights.bin", "the data file is missing"),
        ("../weights.bin", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("short.bin", "too short"),
    ],
)
def test_external_data_that_is_not_there_or_not_ours(place, location, says):
    (place.parent / "weights.bin").write_bytes(bytes(2**16))
    Path("short.bin").write_bytes(b"1")
    external(location)
    refused("run", "convert", "-m", "m.onnx", says=["m.onnx", location, says])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no_such_package:make", "no_such_package"),
        ("json:no_such_function", "no_such_function"),
        ("json:", "json:"),
    ],
)
def test_code_that_is_not_there(source, says):
    pytest.importorskip("torch", reason="import-torch is not tested: pip install torch")
    refused("run", "convert", "-m", source, says=[says])


# Shapes and targets


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("y=1x16x8x8", "no input 'y'"),
        ("X=1x16x8x8", "no input 'X'"),
        ("x=8x16x8x8:1x16x8x8:8x16x8x8", "are not in order"),
        ("x=1x16x8x8:1x16x8x8", "is not a shape"),
        ("x=1x16x8", "has rank 4"),
        ("x=1x3x8x8", "dimension 1 is 16"),
        ("x=-1x16x8x8", "is not a shape"),
        ("x=big", "is not a shape"),
        ("x=99999999999x16x8x8", "outside 0.."),
        ("x", "not of the form INPUT=SHAPE"),
    ],
)
def test_shapes_that_do_not_fit(shape, says):
    arguments = ("run", "fp16", "-m", "good.onnx", "--target", "sm_86", "--shape", shape)
    refused(*arguments, says=[says])
    refused(*arguments, "--dry-run", says=[says])


def test_a_dynamic_input_without_shapes():
    answer = refused("run", "fp16", "-m", "good.onnx", "--target", "sm_86")
    assert "the input 'x' is dynamic (Nx16x8x8)" in answer.err
    assert "shapes: {x: {min: 1x16x8x8, opt: 8x16x8x8, max: 32x16x8x8}}" in answer.err


def test_an_unknown_target():
    shape = ("--shape", "x=1x16x8x8")
    arguments = ("run", "fp16", "-m", "good.onnx", *shape)
    refused(*arguments, "--target", "sm_88", says=["unknown target 'sm_88'", "To do:", "sm_89"])
    refused(*arguments, "--target", "H100", says=["unknown target 'H100'", "sm_90"])


def test_a_target_without_the_type():
    arguments = ["--target", "sm_86", "--shape", "x=1x16x8x8", "--set", "load-data.synthesize=true"]
    answer = refused("run", "fp8", "-m", "good.onnx", *arguments, unchanged=False)
    assert "sm_86" in answer.err
    assert "float8" in answer.err.lower()


# Recipes

STEPS = "stages: [{name: a, steps: [%s]}]"
RECIPES = {
    "empty": ("", "this is empty"),
    "list": ("- a\n- b\n", "this is a list"),
    "tab": ("stages:\n\t- name: a\n", "bad.yaml:2:1"),
    "twice": ("model: a\nmodel: b\n", "stands twice, first in line 1"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nstages: [*b]\n", "bad.yaml:1:4"),
    "loop": ("stages: &a [*a]\n", "anchors and aliases"),
    "deep": ("stages: " + "[" * 1000 + "]" * 1000, "nested more than"),
    "bytes": (b"\xff\xfe\x00", "not UTF-8"),
    "large": ("#" * 2**21, "over 1 MiB"),
    "tag": ("stages: !!python/object:os.system x\n", "not allowed"),
    "unknown key": ("stage: []\n", "no key 'stage'. Did you mean 'stages'?"),
    "no stages": ("model: good.onnx\n", "stages is a list of at least one"),
    "unknown step": (STEPS % "fold-constant", "Did you mean 'fold-constants'?"),
    "unknown option": (STEPS % "{cast: {too: float16}}", "Did you mean 'to'?"),
    "wrong type": (STEPS % "{tensorrt: {optimization_level: many}}", "optimization_level"),
    "wrong choice": (STEPS % "{cast: {to: float8}}", "float16"),
    "wrong size": (STEPS % "{tensorrt: {workspace: 4 gigs}}", "write it like 4GiB"),
    "wrong order": (STEPS % "insert-qdq, load-data", "which no earlier step gives"),
    "wrong repeat": ("stages: [{name: a, repeat: 0, steps: [cast]}]", "from 1 to 100"),
    "wrong requirement": ("require: {cosinus: 1}\n" + STEPS % "cast", "'cosine'"),
    "code": ("model: os:system\n" + STEPS % "cast", "names code to run"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_wrong(name):
    text, says = RECIPES[name]
    Path("bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("run", "bad.yaml", "-m", "good.onnx", says=["trtforge: bad.yaml", says])


def test_everything_that_is_wrong_is_said_at_once():
    Path("bad.yaml").write_text(
        "targets: [sm_1]\nstages:\n  - name: a\n    steps: [drop-idents, {cast: {too: 1}}]\n"
    )
    refused(
        "run", "bad.yaml", "-m", "good.onnx",
        says=["3 things are wrong", "bad.yaml:1:11", "bad.yaml:4:13", "bad.yaml:4:"],
    )  # fmt: skip


def test_an_unknown_recipe():
    refused("run", "fp61", "-m", "good.onnx", says=["'fp61'", "Did you mean 'fp16'?"])
    refused("run", ".", "-m", "good.onnx", says=["is a folder, not a recipe file"])
    refused("run", "fp16", says=["names no model", "--model"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("tensorrt", "not of the form step.option=value"),
        ("tensorrt=5", "not of the form step.option=value"),
        (".x=5", "not of the form step.option=value"),
        ("tensort.tf32=true", "Did you mean 'tensorrt'?"),
        ("tensorrt.tf23=true", "Did you mean 'tf32'?"),
        ("tensorrt.tf32=maybe", "tf32"),
        ("cast.to=[", "--set cast.to=["),
        ("cast.to=float64", "float16"),
    ],
)
def test_settings_of_the_command_line(setting, says):
    refused("run", "fp16", "-m", "good.onnx", "--set", setting, says=[says, "--set"])


# Where results go


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


# Data

IMAGES = np.zeros((4, 1, 8, 8), np.float32)


def with_nan():
    images = IMAGES.copy()
    images[2, 0, 3, 4] = np.nan
    return images


DATA = {
    "missing": (None, "there is no such file"),
    "no data": (b"", "cal.npz"),
    "text": (b"0,1,2\n", "cal.npz"),
    "wrong name": ({"picture": IMAGES}, "no array for input 'image'; the file holds picture"),
    "wrong type": ({"image": IMAGES.astype("U1")}, "the model takes float32"),
    "wrong shape": ({"image": IMAGES[:, :, :4]}, "its shape is [4, 1, 4, 8]"),
    "NaN": ({"image": with_nan()}, "the value at [2, 0, 3, 4] is nan"),
    "no samples": ({"image": IMAGES[:0]}, "no sample"),
    "objects": ({"image": np.array([{"a": 1}], object)}, "object"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_does_not_fit(name):
    content, says = DATA[name]
    if isinstance(content, dict):
        np.savez("cal.npz", **content)
    elif content is not None:
        Path("cal.npz").write_bytes(content)
    answer = refused(
        "run", "int8", "-m", demo.MODEL, "--shape", "image=4x1x8x8", "--target", "sm_86",
        "--set", "load-data.path=cal.npz", "--out", "out", "--no-cache",
        says=["cal.npz", says], unchanged=False,
    )  # fmt: skip
    assert not list(Path("out").glob("*.onnx"))
    assert answer.err.count("cal.npz") <= 3


def test_verify_with_data_that_does_not_fit():
    np.savez("d.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    refused("verify", "good.onnx", "good.onnx", "--data", "d.npz", says=["d.npz", "[1, 3, 8, 8]"])
    refused("verify", "good.onnx", "good.onnx", "--data", "e.npz", says=["e.npz"])
    refused("verify", "good.onnx", "none.onnx", says=["none.onnx"])


# Reports


def test_a_folder_that_holds_no_report():
    refused("report", "nowhere", says=["nowhere"])
    Path("run").mkdir()
    refused("report", "run", says=["run holds no finished run"])
    Path("run/report.json").write_text("{}")
    refused("report", "run", says=["no report of trtforge"])
    Path("run/report.json").write_bytes(b"\xff" * 100)
    refused("report", "run", says=["no report of trtforge"])


# Plugins and environment


def offer(monkeypatch, **modules):
    """Let installed packages offer further plugins."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    real = importlib.metadata.entry_points
    more = [EntryPoint(name, name, "trtforge") for name in modules]
    monkeypatch.setattr("trtforge.host.entry_points", lambda **wanted: [*real(**wanted), *more])


def test_a_broken_plugin_is_named_and_the_command_goes_on(monkeypatch):
    offer(monkeypatch, broken=None)  # Python's mark of a module that cannot be imported
    answer = trtforge("list", "recipes")
    assert answer.code == DONE
    assert "fp16" in answer.out
    assert "plugin 'broken' of an unknown package does not load" in answer.err
    assert "To do: mend or uninstall it, or leave it out with --without broken" in answer.err
    assert trtforge("list", "recipes", "--without", "broken").err == ""


def test_a_plugin_with_a_misspelt_hook(monkeypatch):
    @hookimpl
    def trtforge_component():
        return []

    module = types.ModuleType("misspelt")
    module.trtforge_component = trtforge_component
    offer(monkeypatch, misspelt=module)
    says = ["plugin 'misspelt'", "Did you mean 'trtforge_components'?", "--without misspelt"]
    refused("list", code=ENVIRONMENT_LACKS, says=says)


def test_without_an_unknown_plugin():
    says = ["--without trtforge-plugin", "Did you mean 'trtforge-plugins'?"]
    refused("list", "--without", "trtforge-plugin", code=ENVIRONMENT_LACKS, says=says)


def test_without_the_plugins_that_ship():
    without = ("--without", "trtforge-plugins")
    refused("run", "fp16", "-m", "good.onnx", *without, says=["'fp16'"])
    refused("check", "good.onnx", *without, says=["To do:"])


def test_unknown_names():
    refused("show", "fold-constant", says=["Did you mean 'fold-constants'?"])
    refused("list", "stepps", says=["Did you mean"])
    refused("run", "--modle", "x", says=["--modle"])
    refused("frobnicate", says=["frobnicate"])


def test_an_error_as_json():
    answer = trtforge("run", "fp61", "-m", "good.onnx", "--json")
    assert answer.json["exit_code"] == answer.code == BAD_REQUEST
    assert "fp61" in answer.json["error"]["what"]
    assert "fp16" in answer.json["error"]["remedy"]


def test_no_tensorrt(monkeypatch):
    monkeypatch.setattr("trtforge_plugins.tensorrt.library.installed", lambda: iter(()))
    shapes = ("--shape", "x=1x16x8x8", "--target", "sm_86")
    pip = "pip install 'trtforge[cu13]'"
    for command in (("run", "fp16", "-m", "good.onnx", *shapes), ("check", "good.onnx")):
        refused(*command, code=ENVIRONMENT_LACKS, says=["no TensorRT is installed", pip])


REFUSED = """
<ir_version: 10, opset_import: ["" : 21, "acme" : 1]>
refused (float[2,8] x) => (float[2,8] y) {
    [first] a = acme.Mystery (x)
    [middle] b = Relu (a)
    [second] y = acme.Riddle (b)
}
"""


def test_tensorrt_refuses_a_model():
    Path("r.yaml").write_text("targets: [sm_86]\nstages: [{name: build, steps: [tensorrt]}]\n")
    Path("m.onnx").write_bytes(onnx.parser.parse_model(REFUSED).SerializeToString())
    answer = refused(
        "run", "r.yaml", "-m", "m.onnx", "--out", "out", code=STEP_FAILED, unchanged=False,
        says=["stage 'build', step 'tensorrt'", "'first'", "Mystery", "'second'", "Riddle"],
    )  # fmt: skip
    assert "'middle'" not in answer.err
    assert json.loads(Path("out/report.json").read_bytes())["verdict"]["exit_code"] == STEP_FAILED
    assert not list(Path("out").rglob("*.engine"))


# The same as a process of its own


COMMAND = str(Path(sys.executable).with_name("trtforge"))


def process(*arguments, **more):
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True, text=True, check=False, timeout=120, **more,
    )  # fmt: skip


def test_a_bad_model_in_a_real_process():
    Path("m.onnx").write_bytes(b"nothing")
    done = process("run", "convert", "--model", "m.onnx")
    assert (done.returncode, done.stdout) == (BAD_REQUEST, "")
    assert "trtforge: stage 'import', step 'import-onnx': m.onnx: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in Path().iterdir() if path.name != "m.onnx"] == ["good.onnx"]


def test_an_error_as_json_in_a_real_process():
    done = process("check", "none.onnx", "--json")
    assert done.returncode == BAD_REQUEST
    assert json.loads(done.stdout)["exit_code"] == BAD_REQUEST


def test_who_reads_the_output_may_go_away():
    line = f"{COMMAND} list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", line], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (DONE, "")
