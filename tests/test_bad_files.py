"""Data and reports that cannot be used, given to the real command."""

from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from trtforge import demo

pytestmark = pytest.mark.usefixtures("place")


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
