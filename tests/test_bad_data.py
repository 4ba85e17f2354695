"""Calibration data that nobody should calibrate on, through the real command, for each calibrator.

What cannot be used is refused with the documented exit code, the file, the input or tensor and what
to do; no traceback, no model left behind. What can be used gives scales that are finite and above
zero, and zero points that are zero.
"""

import io
import json
import zipfile
from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command import trtforge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trtforge_plugins.precision.calibrate_average import CalibrateAverage
from trtforge_plugins.precision.calibrate_entropy import CalibrateEntropy
from trtforge_plugins.precision.calibrate_max import CalibrateMax
from trtforge_plugins.precision.calibrate_mse import CalibrateMse
from trtforge_plugins.precision.calibrate_percentile import CalibratePercentile
from trtforge_plugins.precision.cast import Cast
from trtforge_plugins.precision.insert_qdq import InsertQDQ

from trtforge import Batches, Context, Ranges, Request, StepError

CALIBRATORS = {
    each.name: each
    for each in (
        CalibrateMax, CalibratePercentile, CalibrateEntropy, CalibrateMse, CalibrateAverage
    )
}  # fmt: skip
DONE, REQUIREMENT_MISSED, BAD_REQUEST, STEP_FAILED = 0, 1, 2, 3
RANDOM = np.random.default_rng(0)
GOOD = RANDOM.standard_normal((20, 16, 8, 8)).astype(np.float32)


def changed(value, index=(13, 2, 3, 4), array=GOOD):
    array = array.copy()
    array[index] = value
    return array


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a residual model, whose inner tensors are calibrated too."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(models.parse(models.RESIDUAL).SerializeToString())
    return tmp_path


def quantize(calibrator, *more):
    """Run load-data, a calibrator and insert-qdq on the data in this folder."""
    recipe = f"stages: [{{name: q, steps: [load-data, {calibrator}, insert-qdq]}}]"
    Path("r.yaml").write_text(recipe)
    data = next(path for path in Path().iterdir() if path.stem == "data")
    return trtforge(
        "run", "r.yaml", "-m", "m.onnx", "--out", "out", "--no-cache",
        "--set", f"load-data.path={data}", *more,
    )  # fmt: skip


def npz(**given):
    return lambda: np.savez("data.npz", **given)


def raw(content, name="data.npz"):
    return lambda: Path(name).write_bytes(content)


def saved(**given):
    stream = io.BytesIO()
    np.savez(stream, **given)
    return stream.getvalue()


def npy_header(shape, descr="<f4"):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(members):
    def write():
        with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as file:
            for name, parts in members.items():
                with file.open(name, "w", force_zip64=True) as stream:
                    for part in parts:
                        stream.write(part)

    return write


def pickled():
    with Path("data.npy").open("wb") as stream:
        np.save(stream, np.array([{"a": 1}, None], object), allow_pickle=True)


def ragged():
    rows = np.empty(2, object)
    rows[:] = [GOOD[0], GOOD[1, :, :4]]
    np.savez("data.npz", x=rows)


MEGABYTE = bytes(2**20)
REFUSED = {
    "no samples": (npz(x=GOOD[:0]), ["no sample"]),
    "no arrays": (npz(), ["input 'x'"]),
    "another name": (npz(X=GOOD), ["input 'x'", "holds X"]),
    "text": (npz(x=GOOD.astype("U5")), ["input 'x'", "<U5", "float32"]),
    "complex": (npz(x=GOOD.astype(np.complex64)), ["input 'x'", "complex64"]),
    "times": (npz(x=GOOD.astype("M8[s]")), ["input 'x'", "datetime64"]),
    "records": (npz(x=np.zeros(4, [("a", "f4"), ("b", "i4")])), ["input 'x'"]),
    "float64 beyond float32": (npz(x=GOOD.astype(float) * 1e300), ["input 'x'", "float64"]),
    "too few channels": (npz(x=GOOD[:, :3]), ["input 'x'", "[20, 3, 8, 8]", "[N,16,8,8]"]),
    "no batch axis": (npz(x=GOOD[0]), ["input 'x'", "[16, 8, 8]"]),
    "a scalar": (npz(x=np.float32(1)), ["no sample"]),
    "NaN": (npz(x=changed(np.nan)), ["input 'x'", "[13, 2, 3, 4]", "nan", "sample 13"]),
    "Inf": (npz(x=changed(np.inf)), ["input 'x'", "[13, 2, 3, 4]", "inf", "sample 13"]),
    "labels too short": (npz(x=GOOD, labels=np.zeros(3, int)), ["labels", "20 samples"]),
    "labels of floats": (npz(x=GOOD, labels=np.zeros(20)), ["labels", "integer"]),
    "ragged": (ragged, ["array 'x'", "Python objects"]),
    "objects": (pickled, ["Python objects"]),
    "cut short": (raw(saved(x=GOOD)[:-3000]), ["no readable .npz"]),
    "damaged in the middle": (
        raw(saved(x=GOOD)[:9000] + b"\xff" * 64 + saved(x=GOOD)[9064:]), ["no readable .npz"],
    ),
    "npy cut short": (raw(npy_header((20, 16, 8, 8)) + bytes(100), "data.npy"), ["claims"]),
    "negative shape": (raw(npy_header((-1, 16, 8, 8)) + MEGABYTE, "data.npy"), []),
    "a header that lies": (archive({"x.npy": [npy_header((10**12, 16, 8, 8))]}), ["claims"]),
    "a header of a gigabyte": (
        archive({"x.npy": [b"\x93NUMPY\x02\x00", (2**30).to_bytes(4, "little"), *[MEGABYTE] * 99]}),
        ["its header says that it is 1GiB long"],
    ),
    "an overflowing shape": (
        raw(npy_header((2**40, 2**40, 2**40, 2**40)) + MEGABYTE, "data.npy"), ["claims"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_used_is_refused(name, calibrator, place):
    write, words = REFUSED[name]
    write()
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    answer = quantize(calibrator)
    assert answer.code == BAD_REQUEST, answer.err
    assert "Traceback" not in answer.err
    for word in ["data.np", *words]:
        assert word in answer.err, answer.err
    assert not list(Path("out").glob("*.onnx"))
    for file, content in before.items():
        assert Path(file).read_bytes() == content


def scales(path):
    """Scale and zero point of each QuantizeLinear and DequantizeLinear."""
    model = ir.load(path)
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            yield node.inputs[1].const_value.numpy(), zero and zero.const_value.numpy()


def check_scales(path):
    found = list(scales(path))
    assert found
    tiny = np.finfo(np.float32).tiny
    for scale, zero in found:
        assert np.isfinite(scale).all()
        assert (scale >= tiny).all()
        assert zero is None or not zero.any()


def outlier():
    return changed(1e30)


USED = {
    "one sample": npz(x=GOOD[:1]),
    "big-endian": npz(x=GOOD.astype(">f4")),
    "column-major": npz(x=np.asfortranarray(GOOD)),
    "float64": npz(x=GOOD.astype(float)),
    "integers": npz(x=(GOOD * 50).astype(np.int16)),
    "an outlier of 1e30": npz(x=outlier()),
    "tiny": npz(x=GOOD * np.float32(1e-38)),
    "one value everywhere": npz(x=np.full_like(GOOD, 3)),
    "positive only": npz(x=np.abs(GOOD)),
}


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("name", USED)
def test_data_that_is_odd_gives_valid_scales(name, calibrator):
    USED[name]()
    answer = quantize(calibrator)
    assert answer.code in (DONE, REQUIREMENT_MISSED), answer.err
    check_scales("out/model.onnx")
    onnx.checker.check_model("out/model.onnx", full_check=True)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_byte_order_and_layout_change_nothing(calibrator):
    found = []
    for write in (npz(x=GOOD), USED["big-endian"], USED["column-major"]):
        write()
        assert quantize(calibrator, *(["--resume"] if found else [])).code in (0, 1)
        found.append([scale.tolist() for scale, _ in scales("out/model.onnx")])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_zeros_everywhere_quantize_what_is_not_zero(calibrator):
    """The input is always 0, so no scale fits it; the biases make the inner tensors."""
    npz(x=np.zeros_like(GOOD))()
    answer = quantize(calibrator)
    assert answer.code in (DONE, REQUIREMENT_MISSED), answer.err
    check_scales("out/model.onnx")
    report = json.loads(Path("out/report.json").read_text())
    notes = {
        note["text"] for stage in report["stages"] for s in stage["steps"] for note in s["notes"]
    }
    assert "its input 'x' was seen as 0..0: no scale fits" in notes


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_values_that_overflow_inside_the_model_name_tensor_and_batch(calibrator):
    npz(x=np.where(GOOD > 0, np.float32(3e38), np.float32(-3e38)))()
    answer = quantize(calibrator)
    assert answer.code == STEP_FAILED, answer.err
    assert "Traceback" not in answer.err
    for word in ("tensor 'b' holds", "batch 0", "data.npz"):
        assert word in answer.err, answer.err


def test_a_file_of_another_size_than_memory_is_refused_before_it_is_read(place):
    """A terabyte of zeros packs into a gigabyte; the header already tells."""
    rows = 2**40 // (16 * 8 * 8 * 4)
    with zipfile.ZipFile("data.npz", "w") as file:
        info = zipfile.ZipInfo("x.npy")
        content = npy_header((rows, 16, 8, 8))
        file.writestr(info, content)
    patched = Path("data.npz").read_bytes()
    old, new = len(content).to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little")
    Path("data.npz").write_bytes(patched.replace(old, new))
    answer = quantize("calibrate-max")
    assert answer.code == BAD_REQUEST
    assert "data.npz" in answer.err


# Convergence


def notes():
    report = json.loads(Path("out/report.json").read_text())
    found = [n for stage in report["stages"] for step in stage["steps"] for n in step["notes"]]
    return [note["text"] for note in found if note["node"] == "calibration"]


def test_ranges_that_still_grow_are_told_with_tensors_and_a_remedy():
    npz(x=GOOD * np.linspace(0.1, 1, 20, dtype=np.float32)[:, None, None, None])()
    quantize("calibrate-max", "--set", "load-data.batch=1")
    (text,) = notes()
    assert text.startswith("ranges not converged after 20 samples: the last quarter")
    assert "'x'" in text
    assert "give more samples, or more varied ones" in text


def test_ranges_that_have_settled_are_not_talked_about():
    npz(x=np.concatenate([GOOD[:4]] * 5))()
    quantize("calibrate-max", "--set", "load-data.batch=4")
    assert notes() == []


def test_one_batch_cannot_tell():
    npz(x=GOOD[:1])()
    quantize("calibrate-max")
    (text,) = notes()
    assert text.startswith("1 sample in one batch cannot tell whether ranges converged; give more")


# Scales of any values at all

GEMM = """
<ir_version: 10, opset_import: ["" : 21]>
m (float[N,16] x) => (float[N,16] y) <float[16,16] w> { [p] y = MatMul (x, w) }
"""
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)
ODD = st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 2.0**-126, 3.4028234663852886e38, -3e38, 1.0])


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(arrays(np.float32, (2, 16), elements=ANY | ODD), min_size=1, max_size=3),
    calibrator=st.sampled_from(list(CALIBRATORS.values())),
    power_of_two=st.booleans(),
    dtype=st.sampled_from(["int8", "float8e4m3fn"]),
    half=st.booleans(),
)
def test_every_scale_is_finite_and_above_zero(batches, calibrator, power_of_two, dtype, half):
    ctx = Context(ir.from_proto(models.parse(GEMM)), Path(), Request("m"))
    ctx.put(Batches(tuple({"x": batch} for batch in batches), "test"))
    calibrator(power_of_two=power_of_two).run(ctx)
    (found,) = ctx.get(Ranges).by_tensor.values()
    seen = np.concatenate(batches)
    assert np.isfinite([found.low, found.high]).all()
    if not seen.any():
        assert found.amax == 0
        with pytest.raises(StepError, match="usable range"):
            InsertQDQ(dtype=dtype).run(ctx)
        return
    assert found.amax > 0
    InsertQDQ(dtype=dtype).run(ctx)
    if half:
        Cast().run(ctx)
    for node in ctx.model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = node.inputs[1].const_value.numpy().astype(np.float64)
            assert np.isfinite(scale).all()
            assert (scale > 0).all()
            if len(node.inputs) > 2:
                assert not node.inputs[2].const_value.numpy().astype(np.float32).any()
