"""Files from strangers: the readers read them, or answer with one of our errors.

No other exception, no hang, little memory, nothing outside of the model's folder. Each test makes
``TRTFORGE_FUZZ_EXAMPLES`` files (default 300, a minute for all); the nightly mode (``.ci/nightly``)
sets it to some thousands, and runs ``scripts/fuzz.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tracemalloc
import zipfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx.parser
import pytest
from bundles import packed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from trtforge_plugins.precision import range_files
from trtforge_plugins.tensorrt.lints import lint

from trtforge import Request, model_file
from trtforge.array_files import open_arrays
from trtforge.bisection import _remembered
from trtforge.bundle.storage import Bundle
from trtforge.errors import TrtforgeError
from trtforge.host import Host
from trtforge.recipe_reader import parse
from trtforge.weights import tensors

ROOT = Path(__file__).parent.parent
EXAMPLES = int(os.environ.get("TRTFORGE_FUZZ_EXAMPLES", "300"))
MEMORY = 64 * 2**20
"""Bytes that reading a file of some hundred bytes may take, the libraries' own tables included."""
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=20_000,  # a hang, not a slow machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def survives(read, *arguments):
    """Call ``read``; anything but one of our errors fails the test, and so does much memory."""
    tracemalloc.start()
    try:
        return read(*arguments)
    except TrtforgeError as error:
        refusal = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY, f"{peak} bytes for a small file"
    assert refusal.code
    assert refusal.remedy
    return None


def use(model):
    """Do what commands do with every model: look at all of it, and read its weights."""
    for tensor in tensors(model):
        if tensor.dtype.name != "STRING":
            tensor.numpy()
    list(lint(model, Request("fuzz")))


def load_and_use(path):
    use(model_file.load(path))


# --- models ------------------------------------------------------------------------------------

GOOD = onnx.parser.parse_model(
    """<ir_version: 10, opset_import: ["" : 21, "a" : 1]>
    g (float[N,4] x, bool c) => (float[N,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8}>
    { [m] a = MatMul (x, w) [f] b = a.Act (a)
      [i] y = If (c) <then_branch = t () => (float[N,4] p) { p = Relu (b) },
                      else_branch = e () => (float[N,4] q) { q = Identity (a) }> }
    <domain: "a", opset_import: ["" : 21]> Act (v) => (r) { r = Sigmoid (v) }"""
).SerializeToString()


@st.composite
def damaged(draw, good: bytes):
    """Return ``good`` with some bytes changed, cut out, put in or cut off."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if kind == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[place : place + draw(st.integers(1, 12))]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=12))
        else:
            del data[place:]
    return bytes(data)


@fuzzed
@given(damaged(GOOD))
@example(b"")
@example(GOOD[:-1])
def test_a_damaged_model(tmp_path, data):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    survives(load_and_use, path)


TYPES = st.sampled_from([*TensorProto.DataType.values(), 99, -1])
DIMS = st.lists(st.sampled_from([0, 1, 2, 3, -1, -(2**62), 10**12, 2**31, 2**63 - 1]), max_size=4)


@fuzzed
@given(TYPES, DIMS, st.binary(max_size=64), st.booleans())
@example(1, [10**12], b"", True)
@example(1, [10**6, 10**6], b"1234", True)
@example(1, [0, 10**12, 10**12], b"", True)
@example(8, [10**12], b"", False)
@example(22, [3], b"\x01", True)
def test_a_constant_that_claims_anything(tmp_path, dtype, dims, data, raw):
    tensor = TensorProto(name="w", dims=dims)
    tensor.data_type = dtype
    if raw:
        tensor.raw_data = data
    else:
        tensor.float_data.extend(np.frombuffer(data[: len(data) // 4 * 4], "<f4"))
        tensor.string_data.append(data)
    save_with(tensor, tmp_path)
    survives(load_and_use, tmp_path / "m.onnx")


def save_with(tensor, folder):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y")]
    node = helper.make_node("Add", ["x", tensor.name], ["y"], "add")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "m.onnx").write_bytes(model.SerializeToString())


LOCATIONS = st.sampled_from(
    ["w.bin", "../secret.bin", "/etc/passwd", "link.bin", "linked/secret.bin", "", ".", "a\0b",
     "./w.bin", "../../../../../../etc/passwd", "w.bin/", "//w.bin", "~/w.bin", "m.onnx"]
)  # fmt: skip
NUMBERS = st.sampled_from(["0", "8", "-1", "99999999999999", "9" * 40, "x", "", "4.5", "1e9"])


@fuzzed
@given(LOCATIONS, NUMBERS, NUMBERS, DIMS)
@example("../secret.bin", "0", "8", [2])
@example("link.bin", "0", "8", [2])
@example("linked/secret.bin", "0", "8", [2])
@example("w.bin", "0", "99999999999999", [10**12])
def test_external_data_stays_in_the_models_folder(tmp_path, location, offset, length, dims):
    folder = tmp_path / "model"
    (folder).mkdir(exist_ok=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.array([7.5, 7.5], "<f4").tobytes())
    (folder / "w.bin").write_bytes(np.array([1.0, 2.0], "<f4").tobytes())
    for link, goal in (("link.bin", secret), ("linked", tmp_path)):
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(goal)
    tensor = TensorProto(name="w", dims=dims, data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    save_with(tensor, folder)

    def read():
        model = model_file.load(folder / "m.onnx")
        use(model)
        return [tensor.numpy() for tensor in tensors(model)]

    for array in survives(read) or ():
        assert not np.any(np.asarray(array) == 7.5), "the secret was read"


# --- recipes -----------------------------------------------------------------------------------

RECIPE = """model: m.onnx
shapes: {x: {min: 1x4, opt: 8x4, max: 32x4}}
targets: [sm_86, sm_89]
require: {cosine: 0.999, activation_memory: 2GiB}
stages:
  - name: prepare
    repeat: 4
    steps: [fold-constants, drop-identity]
  - name: build
    steps:
      - cast: {to: float16, keep: ["a*"]}
      - tensorrt: {workspace: 1GiB}
"""
WORDS = st.sampled_from(
    ["&a [*a]", "!!python/object/apply:os.system [ls]", "{", "[", "'", "\t", "- - - -", ": :",
     "1e999", "0x", "null", "~", "<<: *x", "|", ">", "\x85", "\ufeff",
     "999999999999999999x9", "9" * 400,
     "stages:", "{min: 0}", "-1x4", "sm_1", "../../etc", "%YAML 9.9", "---", "...", "? ", "\0"]
)  # fmt: skip


@pytest.fixture(scope="module")
def host():
    return Host()


@fuzzed
@given(
    st.lists(st.tuples(st.integers(0, len(RECIPE)), WORDS), max_size=4), damaged(RECIPE.encode())
)
@example([], RECIPE.encode())
@example([(0, "[" * 5000)], b"")
@example([(0, "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n")], b"")
def test_a_recipe_from_a_stranger(host, inserted, noise):
    text = RECIPE
    for place, word in inserted:
        text = text[:place] + word + text[place:]
    survives(parse, text, host, "fuzz.yaml")
    survives(parse, noise.decode("utf-8", "replace"), host, "fuzz.yaml")


@fuzzed
@given(st.text(max_size=200))
def test_any_text_as_a_recipe(host, text):
    survives(parse, text, host, "fuzz.yaml")


# --- data --------------------------------------------------------------------------------------


def saved(save, *arrays):
    stream = BytesIO()
    save(stream, *arrays)
    return stream.getvalue()


NPY = saved(np.save, np.arange(12, dtype=np.float32).reshape(3, 4))
NPZ = saved(np.savez, np.arange(12, dtype=np.float32).reshape(3, 4))


def read_all(path):
    file = open_arrays(path)
    for name, header in file.headers.items():
        file.read(name, min(header.shape[0], 8) if header.shape else 0)


@fuzzed
@given(st.sampled_from([("a.npy", NPY), ("a.npz", NPZ)]), st.data())
def test_damaged_arrays(tmp_path, kind, data):
    name, good = kind
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(good)))
    survives(read_all, path)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(1000000, 1000000)", "(-1,)", "(10**9,)"])
def test_a_small_array_file_that_claims_a_trillion_numbers(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    assert survives(read_all, path) is None
    packed_path = tmp_path / "a.npz"
    with zipfile.ZipFile(packed_path, "w") as archive:
        archive.writestr("x.npy", data)
    assert survives(read_all, packed_path) is None


def test_a_small_model_that_claims_a_trillion_numbers(tmp_path):
    save_with(TensorProto(name="w", dims=[10**12], data_type=1), tmp_path)
    assert (tmp_path / "m.onnx").stat().st_size < 150
    assert survives(load_and_use, tmp_path / "m.onnx") is None


FORMS = (("zip", ".zip"), ("folder", ""))


@lru_cache(maxsize=1)
def bundle_parts() -> tuple[bytes, dict[str, bytes]]:
    """Return a good bundle as one zip file, and as the files of its folder."""
    with TemporaryDirectory() as name:
        zipped, unpacked = (packed(Path(name, kind), "b" + end) for kind, end in FORMS)
        files = {str(p.relative_to(unpacked)): p.read_bytes() for p in unpacked.rglob("*.*")}
        return zipped.read_bytes(), files


def read_bundle(data, folder):
    """Read a bundle: of a zip file's bytes, or of a manifest beside the right files."""
    if data.startswith(b"PK"):
        place = folder / "b.zip"
        place.write_bytes(data)
    else:
        place = folder / "b"
        for path, content in bundle_parts()[1].items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
        (place / "manifest.json").write_bytes(data)
    bundle = Bundle(place)
    for path in bundle.manifest.by_path:
        bundle.read(path)


@fuzzed
@given(st.data())
def test_damaged_bundles(tmp_path, data):
    zipped, files = bundle_parts()
    good = data.draw(st.sampled_from([zipped, files["manifest.json"]]))
    survives(read_bundle, data.draw(damaged(good)), tmp_path)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../outside", "C:\\x", "a//b"])
def test_a_bundle_that_names_files_outside_of_it(tmp_path, path):
    (tmp_path / "outside").write_text("secret")
    manifest = bundle_parts()[1]["manifest.json"].replace(
        b"model/model.onnx", json.dumps(path)[1:-1].encode()
    )
    assert survives(read_bundle, manifest, tmp_path) is None
    assert (tmp_path / "outside").read_text() == "secret"


def test_a_bundle_with_an_entry_without_a_name(tmp_path):
    """The fuzzer made one: ``ZipInfo.is_dir`` looks at the last letter of the name."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x", b"")
    data = bytearray(stream.getvalue())
    entry, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = (end - entry - 1).to_bytes(4, "little")
    data[entry + 28 : entry + 30] = bytes(2)
    del data[entry + 46]
    assert zipfile.ZipFile(BytesIO(data)).namelist() == [""]
    assert survives(read_bundle, bytes(data), tmp_path) is None


CACHE = b"TRT-10000-EntropyCalibration2\nx: 3c010a14\ny: 3d000000\n"
RANGES = json.dumps({"x": [-1.0, 1.0], "y": [0, 5]}).encode()


@fuzzed
@given(st.sampled_from([CACHE, RANGES]), st.data())
@example(b"[" * 100_000, None)
@example(b'{"x": [1e999, NaN]}', None)
def test_damaged_ranges(tmp_path, good, data):
    path = tmp_path / "ranges.cache"
    path.write_bytes(good if data is None else data.draw(damaged(good)))
    survives(range_files.read, path)


@fuzzed
@given(damaged(b'{"code": "c", "verdicts": {"a": true}}'))
@example(b"[1]")
@example(b'{"code": "c", "verdicts": [1]}')
@example(b"[" * 100_000)
def test_damaged_verdicts_of_a_search(tmp_path, data):
    path = Path(tmp_path / "verdicts.json")
    path.write_bytes(data)
    assert isinstance(survives(_remembered, path, "c"), dict)


@pytest.mark.parametrize("reader", ["model", "recipe", "arrays", "ranges", "bundles"])
def test_the_script_for_the_nightly_mode_reads_its_good_files(tmp_path, reader):
    """Atheris itself is not needed for that; it changes these files."""
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts" / "fuzz.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    read = script.reading(reader, tmp_path)
    for seed in script.seeds(reader):
        read(seed)
        with pytest.raises(TrtforgeError):
            read(seed[: len(seed) // 2] + b"\0\xff")
