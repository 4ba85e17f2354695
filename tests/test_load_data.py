"""load-data: what fits the model is loaded whole; what does not is refused by name and index."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from trtforge_plugins.precision.load_data import LoadData

from trtforge import Batches, Context, DataError, RecipeError, Request

IMAGES = """
<ir_version: 10, opset_import: ["" : 21]>
m (float[N,3,2] x, int64[N] k) => (float[N,3,2] y) { y = Identity (x) }
"""
ONE_INPUT = IMAGES.replace(", int64[N] k", "")
FIXED = ONE_INPUT.replace("N,3,2", "4,3,2")


def load(text: str, folder: Path, **options: object) -> tuple[Batches, list[str]]:
    ctx = Context(ir.from_proto(onnx.parser.parse_model(text)), folder, Request("m"))
    assert LoadData(**options).run(ctx) == 0
    return ctx.get(Batches), [f"{note.node}: {note.text}" for note in ctx.notes]


def images(count: int, dtype: type = np.float32) -> np.ndarray:
    return np.arange(count * 6, dtype=dtype).reshape(count, 3, 2)


def test_a_npz_has_one_array_per_input_and_labels(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=images(10), k=np.arange(10), labels=np.arange(10) % 3, other=np.zeros(2))
    batches, notes = load(IMAGES, tmp_path, path=path)
    assert [len(feed["x"]) for feed in batches.feeds] == [8, 2]
    assert batches.samples == 10
    assert batches.real
    np.testing.assert_array_equal(batches.feeds[1]["k"], [8, 9])
    np.testing.assert_array_equal(batches.labels, np.arange(10) % 3)
    assert notes == []


def test_count_and_batch_say_how_much_is_read(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=images(10), k=np.arange(10), classes=np.arange(10))
    batches, _ = load(IMAGES, tmp_path, path=path, count=5, batch=3, labels="classes")
    assert [len(feed["x"]) for feed in batches.feeds] == [3, 2]
    np.testing.assert_array_equal(batches.labels, np.arange(5))


def test_a_npy_serves_a_model_of_one_input(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(images(3)))
    batches, _ = load(ONE_INPUT, tmp_path, path=tmp_path / "x.npy")
    np.testing.assert_array_equal(batches.feeds[0]["x"], images(3))


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", x=images(2) + index, labels=np.full(2, index))
    step = LoadData(path=tmp_path, count=5)
    assert [file.name for file in step.reads()] == ["0.npz", "1.npz", "2.npz"]
    batches, _ = load(ONE_INPUT, tmp_path, path=tmp_path, count=5)
    np.testing.assert_array_equal(batches.labels, [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(batches.feeds[0]["x"][4], images(2)[0] + 2)


def test_a_fixed_batch_is_filled_or_left_out(tmp_path):
    np.save(tmp_path / "x.npy", images(10))
    batches, notes = load(FIXED, tmp_path, path=tmp_path / "x.npy")
    assert [len(feed["x"]) for feed in batches.feeds] == [4, 4]
    assert notes == ["data: the last 2 samples do not fill a batch of 4: unused"]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8])
def test_a_type_that_loses_nothing_is_converted_and_noted(tmp_path, dtype):
    np.save(tmp_path / "x.npy", images(2, dtype))
    batches, notes = load(ONE_INPUT, tmp_path, path=tmp_path / "x.npy")
    assert batches.feeds[0]["x"].dtype == np.float32
    assert notes == [f"x: the data was converted from {np.dtype(dtype)} to float32"]


def test_made_up_data_says_that_it_is_no_real_data(tmp_path):
    first, _ = load(IMAGES, tmp_path, synthesize=True, count=4)
    again, _ = load(IMAGES, tmp_path, synthesize=True, count=4)
    assert not first.real
    assert first.source == "synthesized (seed 0)"
    np.testing.assert_array_equal(first.feeds[0]["x"], again.feeds[0]["x"])


def with_value(value: float) -> np.ndarray:
    array = images(3)
    array[1, 2, 0] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": images(2)}, ["no array for input 'x'", "holds y", "numpy.savez(path, x=…)"]),
        ({"x": images(2).astype(np.complex64)}, ["input 'x'", "complex64", "float32"]),
        ({"x": images(2).astype("U4")}, ["input 'x'", "<U4", "float32"]),
        ({"x": images(2)[:, :2]}, ["input 'x'", "[2, 2, 2]", "[N,3,2]"]),
        ({"x": images(2)[0]}, ["input 'x'", "[3, 2]"]),
        ({"x": images(0)}, ["no sample"]),
        ({"x": with_value(np.nan)}, ["input 'x'", "[1, 2, 0]", "nan", "sample 1"]),
        ({"x": with_value(-np.inf)}, ["input 'x'", "[1, 2, 0]", "-inf"]),
        ({"x": np.full((1, 3, 2), 1e300)}, ["input 'x'", "float64", "float32"]),
        ({"x": images(2), "labels": np.zeros(3, int)}, ["labels", "2 samples"]),
        ({"x": images(2), "labels": np.zeros(2)}, ["labels", "integer"]),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, words):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError) as error:
        load(ONE_INPUT, tmp_path, path=path)
    for word in ["data.npz", *words]:
        assert word in str(error.value)


def test_inputs_must_agree_on_the_number_of_samples(tmp_path):
    np.savez(tmp_path / "data.npz", x=images(3), k=np.arange(2))
    with pytest.raises(DataError, match="x: 3, k: 2"):
        load(IMAGES, tmp_path, path=tmp_path / "data.npz")


def test_integers_are_converted_only_where_each_value_fits(tmp_path):
    text = IMAGES.replace("int64[N] k", "int32[N] k")
    np.savez(tmp_path / "fits.npz", x=images(1), k=np.array([7]))
    np.savez(tmp_path / "large.npz", x=images(1), k=np.array([2**40]))
    batches, _ = load(text, tmp_path, path=tmp_path / "fits.npz")
    assert batches.feeds[0]["k"].dtype == np.int32
    with pytest.raises(DataError, match="int64"):
        load(text, tmp_path, path=tmp_path / "large.npz")


def test_no_data_says_how_to_give_some(tmp_path):
    with pytest.raises(DataError, match=r"--set load-data\.path="):
        load(ONE_INPUT, tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"count": 0}, "at least 1"),
        ({"path": Path("missing.npz")}, "no such file"),
        ({"path": Path("x.npz"), "synthesize": True}, "exclude"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, text):
    with pytest.raises(DataError, match=text):
        load(ONE_INPUT, tmp_path, **options)


def test_a_file_of_another_kind_is_refused(tmp_path):
    table = tmp_path / "data.csv"
    table.write_text("1,2")
    with pytest.raises(DataError, match=r"\.npz file"):
        load(ONE_INPUT, tmp_path, path=table)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no"):
        load(ONE_INPUT, tmp_path, path=tmp_path / "empty")


class Trap:
    """Unpickling this would be seen."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_files_that_nobody_vouches_for(tmp_path):
    """No pickle is run, and no header makes us ask for more memory than the file can fill."""
    np.save(tmp_path / "pickle.npy", np.array([Trap()], object), allow_pickle=True)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 2), }"
    lie = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "lie.npy").write_bytes(lie)
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("x.npy", lie)
    np.save(tmp_path / "cut.npy", images(4))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-10])
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name, text in (
        ("pickle.npy", "Python objects"),
        ("lie.npy", "claims"),
        ("lie.npz", "claims"),
        ("cut.npy", "claims"),
        ("text.npz", "no readable .npz"),
        ("empty.npy", "no readable .npy"),
    ):
        with pytest.raises(DataError, match=text):
            load(ONE_INPUT, tmp_path, path=tmp_path / name)


# Data stays in its files


def test_batches_are_read_when_they_are_asked_for(tmp_path):
    np.savez(tmp_path / "data.npz", x=images(20), k=np.arange(20))
    batches, _ = load(IMAGES, tmp_path, path=tmp_path / "data.npz")
    assert len(batches.feeds) == 3
    (tmp_path / "data.npz").rename(tmp_path / "elsewhere.npz")
    assert batches.samples == 20
    with pytest.raises(DataError, match="no such file"):
        next(iter(batches.feeds))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("fixed", [False, True])
def test_batches_span_files_and_any_of_them_can_be_read(tmp_path, write, fixed):
    text = IMAGES.replace("[N", "[4") if fixed else IMAGES
    whole = images(23).astype(">f8")
    for start in range(0, 23, 5):
        part = slice(start, start + 5)
        write(
            tmp_path / f"{start:02}.npz",
            x=whole[part],
            k=np.arange(23)[part],
            labels=np.arange(23)[part],
        )
    batches, _ = load(text, tmp_path, path=tmp_path, **({} if fixed else {"batch": 4}))
    used = 20 if fixed else 23
    in_order = list(batches.feeds)
    assert [len(feed["x"]) for feed in in_order] == [4] * 5 + ([] if fixed else [3])
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in in_order]), whole[:used])
    assert in_order[0]["x"].dtype == np.float32
    np.testing.assert_array_equal(batches.labels, np.arange(used))
    for index in (4, 0, 2, -1):
        np.testing.assert_array_equal(batches.feeds[index]["k"], in_order[index]["k"])
    rest = batches.feeds.starting(3)
    np.testing.assert_array_equal(next(rest)["x"], in_order[3]["x"])
    assert [len(feed["x"]) for feed in batches.feeds[1:3]] == [4, 4]


def test_samples_of_other_shapes_get_batches_of_their_own(tmp_path):
    text = IMAGES.replace("[N,3,2]", "[N,H,2]")
    for name, rows, height in (("a", 3, 2), ("b", 2, 2), ("c", 3, 5)):
        x = np.full((rows, height, 2), rows, np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, k=np.arange(rows), labels=np.full(rows, height))
    batches, _ = load(text, tmp_path, path=tmp_path, batch=4)
    assert [feed["x"].shape for feed in batches.feeds] == [
        (4, 2, 2), (1, 2, 2), (3, 5, 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(batches.labels, [2] * 5 + [5] * 3)


def test_the_cache_keeps_the_files_names_not_their_content(tmp_path):
    from trtforge.artifact_file import ArtifactFiles
    from trtforge.store import Blobs

    np.save(tmp_path / "x.npy", images(10))
    batches, _ = load(ONE_INPUT, tmp_path, path=tmp_path / "x.npy")
    files = ArtifactFiles(Blobs(tmp_path / "blobs"), tmp_path / "run")
    stored = files.encode(batches)
    assert not (tmp_path / "blobs").exists()
    again = files.decode(stored, {stored["class"]: Batches})
    assert again.feeds == batches.feeds
    np.testing.assert_array_equal(again.feeds[1]["x"], images(10)[8:])
    np.save(tmp_path / "x.npy", images(11))
    other, _ = load(ONE_INPUT, tmp_path, path=tmp_path / "x.npy", count=10)
    assert files.encode(other) != stored  # other content makes another key


# A loader of the user


LOADER = """
import numpy as np

def good():
    for index in range(3):
        yield {"x": np.full((2, 3, 2), index, np.float32), "k": np.full(2, index)}

def single():
    return [np.full((3, 3, 2), index, np.float32) for index in range(2)]

def endless():
    while True:
        yield np.zeros((2, 3, 2), np.float32)

def nothing():
    return []

def number():
    return 3

def broken():
    yield np.zeros((2, 3, 2), np.float32)
    raise OSError("the disk is gone")

def objects():
    yield np.array([None])
"""


@pytest.fixture
def loaders(tmp_path, monkeypatch):
    (tmp_path / "my_loaders.py").write_text(LOADER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_loaders", raising=False)
    return tmp_path


def test_a_loader_is_read_once_and_its_batches_stay_on_disk(loaders):
    batches, _ = load(IMAGES, loaders, loader="my_loaders:good", batch=4)
    assert [len(feed["x"]) for feed in batches.feeds] == [4, 2]
    np.testing.assert_array_equal(batches.feeds[0]["k"], [0, 0, 1, 1])
    assert (batches.source, batches.real) == ("my_loaders:good", True)
    again, _ = load(ONE_INPUT, loaders, loader="my_loaders:single")
    assert again.samples == 6


def test_a_loader_is_asked_for_no_more_than_is_used(loaders):
    batches, _ = load(ONE_INPUT, loaders, loader="my_loaders:endless", count=5)
    assert batches.samples == 5
    assert len(list((loaders / "calibration-data").iterdir())) == 3


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        ("my_loaders", "package.module:function"),
        ("my_loaders:missing", "no function missing"),
        ("no_such_module:f", "No module named"),
        ("my_loaders:nothing", "no sample"),
        ("my_loaders:number", "gave int, not batches"),
        ("my_loaders:broken", "batch 1.*the disk is gone"),
        ("my_loaders:objects", "batch 0.*Python objects"),
    ],
)
def test_a_loader_that_fails_says_where(loaders, loader, text):
    with pytest.raises(DataError, match=text):
        load(ONE_INPUT, loaders, loader=loader)


def test_a_recipe_may_not_name_a_loader():
    from trtforge.host import Host
    from trtforge.recipe_reader import parse

    text = "stages: [{name: a, steps: [{load-data: {loader: 'os:listdir'}}]}]"
    with pytest.raises(RecipeError, match="loader"):
        parse(text, Host(), "recipe.yaml")
