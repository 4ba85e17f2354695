"""read-ranges and write-ranges: other tools' files, there and back."""

import json
import struct
from pathlib import Path

import models
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.range_files import read, text_of
from trtforge_plugins.precision.read_ranges import ReadRanges
from trtforge_plugins.precision.write_ranges import WriteRanges

from trtforge import Context, DataError, Quantized, Range, Ranges, Request, StepError

# As TensorRT 7 wrote it (sampleINT8's README); leading zeros and 0 itself are short.
CACHE = """TRT-7000-EntropyCalibration2
data: 3c008912
(Unnamed Layer* 64) [Shuffle]_output: 0
a: b: 3e691968
"""


def context(folder: Path) -> Context:
    return Context(ir.from_proto(models.parse(models.MLP)), folder, Request("m"))


def written(folder: Path, text: str) -> Path:
    path = folder / "ranges.txt"
    path.write_text(text)
    return path


def test_a_calibration_cache_holds_scales_in_hexadecimal(tmp_path):
    ranges, method = read(written(tmp_path, CACHE))
    assert method == "EntropyCalibration2"
    scale = struct.unpack("!f", bytes.fromhex("3c008912"))[0]
    assert ranges["data"] == Range(-127 * scale, 127 * scale)
    assert ranges["data"].amax == pytest.approx(1.0041829 * 2**-7 * 127)
    assert ranges["(Unnamed Layer* 64) [Shuffle]_output"].amax == 0
    assert "a: b" in ranges


FLOATS = st.floats(0, 2.0**100, width=32)
RANGES = st.dictionaries(st.text("ab:/ _1", min_size=1).map(str.strip).filter(bool), FLOATS)


@given(RANGES, st.sampled_from(["tensorrt", "onnxruntime", "json"]))
def test_what_is_written_is_read_back(tmp_path_factory, amaxes, kind):
    ranges = Ranges({name: Range(-amax / 2, amax) for name, amax in amaxes.items()}, "max", 1, "")
    found, _ = read(written(tmp_path_factory.mktemp("x"), text_of(ranges, kind)))
    assert set(found) == set(amaxes)
    for name, amax in amaxes.items():
        # The cache has no sign, and its float32 scale is rounded.
        assert found[name].amax == pytest.approx(amax, rel=1e-6, abs=1e-37)
        if kind != "tensorrt":
            assert found[name] == ranges.by_tensor[name]


def test_onnxruntime_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    from onnxruntime.quantization.calibrate import load_tensors_data, save_tensors_data

    ranges = Ranges({"x": Range(-1.5, 2.5)}, "max", 1, "")
    path = written(tmp_path, text_of(ranges, "onnxruntime"))
    loaded = load_tensors_data(path)
    theirs = loaded[0] if isinstance(loaded, tuple) else loaded
    assert [float(value) for value in theirs["x"].range_value] == [-1.5, 2.5]
    save_tensors_data(theirs, tmp_path / "theirs.json")
    assert read(tmp_path / "theirs.json") == ({"x": Range(-1.5, 2.5)}, "MinMax")


@pytest.mark.parametrize("data", [{"x": [-1, 2]}, {"x": 2.0}, {"x": {"lowest": -2, "highest": 2}}])
def test_plain_json_is_understood(tmp_path, data):
    assert read(written(tmp_path, json.dumps(data)))[0]["x"].amax == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither a calibration cache nor JSON"),
        ("[1, 2]", "no ranges by tensor name"),
        ('{"x": "wide"}', "tensor 'x' has no range"),
        ('{"x": [1]}', "tensor 'x' has no range"),
        ('{"x": [true, 2]}', "tensor 'x' has no range"),
        ('{"x": [2, 1]}', r"2\.\.1"),
        ('{"x": NaN}', r"nan\.\.nan"),
        ("TRT-1-X\nx: 7f800000\n", "-inf"),
        ("TRT-1-X\nx: bf800000\n", r"127\.\.-127"),
        ("TRT-1-X\nx: zz\n", "line 2"),
        ("[" * 100_000, "nor JSON"),
    ],
)
def test_what_is_no_range_is_refused(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as error:
        read(written(tmp_path, text))
    assert "ranges.txt" in str(error.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text"):
        read(tmp_path / "binary")


def test_an_old_cache_becomes_explicit_quantization(tmp_path):
    ctx = context(tmp_path)
    ReadRanges(path=written(tmp_path, "TRT-8503-EntropyCalibration2\nx: 3c010a14\n")).run(ctx)
    assert [f"{note.node}: {note.text}" for note in ctx.notes] == [
        "c: ranges.txt has no range for it"
    ]
    InsertQDQ().run(ctx)
    assert ctx.get(Quantized).nodes == ("up",)


def test_a_cache_of_another_model_is_refused(tmp_path):
    with pytest.raises(StepError, match="any of the 2 tensors"):
        ReadRanges(path=written(tmp_path, CACHE)).run(context(tmp_path))


def test_the_file_lies_in_the_run_folder(tmp_path):
    ctx = context(tmp_path)
    ctx.put(Ranges({"x": Range(-1, 2)}, "max", 1, ""))
    assert WriteRanges(path="out/table.cache", format="tensorrt").run(ctx) == 0
    assert (tmp_path / "out" / "table.cache").read_text().splitlines()[1] == "x: 3c810204"
    with pytest.raises(StepError, match="leaves the run folder"):
        WriteRanges(path="../table.cache").run(ctx)
