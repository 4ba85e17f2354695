"""Model files: what is read, what is refused and in which words, and that saving loses nothing."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge import model_file
from trtforge.errors import EnvironmentLacks, ModelError, RequestError
from trtforge.graph import add_initializer
from trtforge.weights import model_digest, side_by_side, tensors

GEMM = """
<ir_version: 10, opset_import: ["" : 21]>
gemm (float[N,64] x) => (float[N,64] y) <float[64,64] w = {WEIGHT}, float[64] b = {BIAS}>
{
    a = MatMul (x, w)
    y = Add (a, b)
}
""".replace("WEIGHT", ",".join(map(str, range(4096)))).replace("BIAS", ",".join(["0.5"] * 64))
WEIGHT = np.arange(4096, dtype=np.float32).reshape(64, 64)


def gemm() -> ir.Model:
    model = ir.from_onnx_text(GEMM)
    model.metadata_props["author"] = "somebody"
    return model


def proto() -> onnx.ModelProto:
    return ir.to_proto(gemm())


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight ``w`` lies in ``model.onnx.data``."""
    path = tmp_path / "model.onnx"
    model_file.save(gemm(), path, external_over=0)
    return path


def edit(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def point(path: Path, **entries: str) -> None:
    """Change where the model says that its external data lies."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)

    edit(path, change)


def weight_of(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


# Reading


def test_external_weights_are_mapped_not_copied(external: Path) -> None:
    model = model_file.load(external)
    held = model.graph.initializers["w"].const_value
    assert isinstance(held, ir.ExternalTensor)
    assert held.raw is None, "nothing is read before a step asks"
    assert np.array_equal(held.numpy(), WEIGHT)


def test_a_folder_with_one_model_is_that_model(external: Path) -> None:
    assert model_file.find(external.parent) == external


def test_a_folder_with_two_models_names_them(external: Path) -> None:
    shutil.copy(external, external.with_name("other.onnx"))
    with pytest.raises(ModelError, match=r"2 models: model\.onnx, other\.onnx"):
        model_file.load(external.parent)


def test_a_relative_path_keeps_its_data_when_the_folder_changes(
    external: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(external.parent)
    model = model_file.load("model.onnx")
    monkeypatch.chdir("/")
    assert np.array_equal(weight_of(model), WEIGHT)


FILES = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is a model\n", "text file"),
    "html": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "zip": (b"PK\x03\x04rest", r"zip archive"),
    "pickle": (b"\x80\x02}q\x00.", "pickle"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "random": (bytes(range(255, 128, -1)), "does not parse|has no graph"),
    "no graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "has no graph"),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as refusal:
        model_file.load(path)
    assert str(path) in refusal.value.where
    assert refusal.value.remedy


def test_missing_and_special_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        model_file.load(tmp_path / "none.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="not a regular file"):
        model_file.load(tmp_path / "pipe.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no \.onnx"):
        model_file.load(tmp_path / "empty")


def _future(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def _future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        onnx.TensorProto(name="w", data_type=1, dims=[10**6, 10**6], raw_data=b"abcd")
    )


def _huge_without_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        onnx.TensorProto(name="w", data_type=1, dims=[10**6, 10**6])
    )


def _negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -1


def _wrong_field(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        onnx.TensorProto(name="w", data_type=1, dims=[2], int32_data=[1, 2])
    )


def _unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 77


def _huge_constant(model: onnx.ModelProto) -> None:
    tensor = onnx.TensorProto(name="c", data_type=1, dims=[2**40, 2**40])
    model.graph.node.add(op_type="Constant", output=["c"]).attribute.add(
        name="value", type=onnx.AttributeProto.TENSOR, t=tensor
    )


EDITS: dict[Callable[[onnx.ModelProto], None], str] = {
    _future: "IR version 99 is newer",
    _future_opset: "operator set 999 is newer",
    _no_opset: "imports no operator set",
    _huge: "'w'.*the file holds 4",
    _huge_without_data: "'w'.*the file holds 0",
    _negative: "no shape of data",
    _wrong_field: "the file holds 0",
    _unknown_type: "cannot be read",
    _huge_constant: "'c'.*the file holds 0",
}


@pytest.mark.parametrize(
    ("change", "words"), EDITS.items(), ids=lambda item: getattr(item, "__name__", str(item)[:24])
)
def test_malformed_models_are_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], words: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(proto().SerializeToString())
    model_file.load(path)  # sound before the change
    edit(path, change)
    with pytest.raises(ModelError, match=words):
        model_file.load(path)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, len(proto().SerializeToString()) - 1))
def test_a_model_cut_anywhere_is_refused(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.onnx"
    path.write_bytes(proto().SerializeToString()[:cut])
    try:
        model = model_file.load(path)
    except ModelError:
        return
    # Only metadata lies behind the point where a cut file is a whole model again.
    assert np.array_equal(weight_of(model), WEIGHT)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_flipped_byte_never_gives_a_traceback(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(proto().SerializeToString())
    data[place] = value
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(data)
    with suppress(ModelError):
        model_file.check(model_file.load(path))


LOCATIONS = ["../secret.data", "/etc/passwd", "link.data", ""]


@pytest.mark.parametrize("location", LOCATIONS)
def test_external_data_outside_the_folder_is_refused(external: Path, location: str) -> None:
    (external.parent.parent / "secret.data").write_bytes(bytes(10**5))
    (external.parent / "link.data").symlink_to(external.parent.parent / "secret.data")
    point(external, location=location)
    with pytest.raises(ModelError, match="outside the model's folder"):
        model_file.load(external)


def test_a_link_inside_the_folder_is_followed(external: Path) -> None:
    (external.parent / "link.data").symlink_to(external.with_name("model.onnx.data"))
    point(external, location="link.data")
    assert np.array_equal(weight_of(model_file.load(external)), WEIGHT)


def test_missing_short_and_misplaced_external_data_are_refused(external: Path) -> None:
    data = external.with_name("model.onnx.data")
    point(external, offset="-4096")
    with pytest.raises(ModelError, match=r"offset.*-4096|non-negative"):
        model_file.load(external)
    point(external, offset="4096")
    with pytest.raises(ModelError, match=r"too short: 16KiB, needed 20KiB"):
        model_file.load(external)
    point(external, offset="0", length="8")
    with pytest.raises(ModelError, match="length 8 do not fit FLOAT"):
        model_file.load(external)
    data.unlink()
    with pytest.raises(ModelError, match="missing"):
        model_file.load(external)


def test_a_hard_link_is_refused_with_the_way_out(external: Path) -> None:
    os.link(external.with_name("model.onnx.data"), external.with_name("second"))
    with pytest.raises(ModelError, match="hard link"):
        model_file.load(external)


# Writing


@pytest.mark.parametrize("external_over", [0, 10**9], ids=["external", "inline"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, external_over: int) -> None:
    model = gemm()
    model_file.save(model, tmp_path / "new" / "model.onnx", external_over=external_over)
    again = model_file.load(tmp_path / "new" / "model.onnx")
    assert model_digest(again) == model_digest(model)
    assert again.metadata_props["author"] == "somebody"
    assert (tmp_path / "new" / "model.onnx.data").exists() == (external_over == 0)


def test_external_weights_move_inline_when_small(external: Path, tmp_path: Path) -> None:
    model_file.save(model_file.load(external), tmp_path / "inline" / "model.onnx")
    assert [path.name for path in (tmp_path / "inline").iterdir()] == ["model.onnx"]
    assert np.array_equal(weight_of(model_file.load(tmp_path / "inline")), WEIGHT)


def test_a_model_saved_over_its_own_files_stays_usable(external: Path) -> None:
    model = model_file.load(external)
    add_initializer(model.graph, "first", np.ones((64, 64), np.float32))
    # Another weight in front shifts the place of ``w`` in the new file.
    for name in ("w", "b"):
        model.graph.initializers[name] = model.graph.initializers.pop(name)
    for _ in range(2):
        model_file.save(model, external, external_over=0)
        assert np.array_equal(weight_of(model), WEIGHT)
        assert np.array_equal(weight_of(model_file.load(external)), WEIGHT)


def test_what_is_put_together_from_a_file_survives_its_end(external: Path) -> None:
    model = model_file.load(external)
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    expected = np.hstack([weight.const_value.numpy()] * 2)
    weight.const_value = side_by_side([weight.const_value] * 2, "w")
    weight.shape = ir.Shape(expected.shape)
    model_file.save(model, external, external_over=0)
    assert weight.const_value is not None
    np.testing.assert_array_equal(weight.const_value.numpy(), expected)
    again = model_file.load(external).graph.initializers["w"].const_value
    assert again is not None
    np.testing.assert_array_equal(again.numpy(), expected)


def test_what_is_put_together_does_not_need_what_is_saved(external: Path, tmp_path: Path) -> None:
    model = model_file.load(external)
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    weight.const_value = side_by_side([weight.const_value] * 2, "w")
    weight.shape = ir.Shape((64, 128))
    model_file.save(model, tmp_path / "for a build" / "model.onnx", external_over=0)
    shutil.rmtree(tmp_path / "for a build")
    np.testing.assert_array_equal(weight.const_value.numpy(), np.hstack([WEIGHT] * 2))


def test_weights_in_attributes_and_subgraphs_are_placed_too(tmp_path: Path) -> None:
    big = ir.tensor(WEIGHT, name="big")
    model = gemm()
    constant = ir.node("Constant", [], attributes={"value": big}, name="constant")
    model.graph.insert_before(model.graph[0], constant)
    model.graph[1].replace_input_with(1, constant.outputs[0])
    model_file.save(model, tmp_path / "model.onnx", external_over=0)
    assert (tmp_path / "model.onnx").stat().st_size < WEIGHT.nbytes
    again = model_file.load(tmp_path / "model.onnx")
    assert model_digest(again) == model_digest(model)
    assert model.graph[0].attributes["value"].value is big, "the model itself stays as it was"


def test_types_of_less_than_a_byte_survive(tmp_path: Path) -> None:
    values = np.arange(-8, 8).repeat(1024).astype(ir.DataType.INT4.numpy())
    model = gemm()
    model.graph.initializers["w"].const_value = ir.Tensor(values, dtype=ir.DataType.INT4)
    model_file.save(model, tmp_path / "model.onnx", external_over=0)
    again = model_file.load(tmp_path / "model.onnx")
    assert np.array_equal(weight_of(again), values)
    assert model_digest(again) == model_digest(model)


def test_a_folder_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(RequestError, match="no regular file"):
            model_file.save(gemm(), path)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(RequestError, match="cannot be written"):
        model_file.save(gemm(), tmp_path / "out" / "model.onnx")
    assert (tmp_path / "out").read_text() == "precious"


def test_a_full_disk_is_said_before_writing(
    external: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in external.parent.iterdir()}
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EnvironmentLacks, match=r"16\.25KiB needed, 100B free"):
        model_file.save(gemm(), external, external_over=0)
    assert {path.name: path.read_bytes() for path in external.parent.iterdir()} == before


SAVE_WITH_LITTLE_SPACE = f"""
import resource, sys, numpy as np, onnx_ir as ir
from trtforge import model_file
from trtforge.errors import EnvironmentLacks
model = model_file.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, {resource.RLIM_INFINITY}))
try:
    model_file.save(model, sys.argv[1], external_over=int(sys.argv[2]))
except EnvironmentLacks as error:
    print(error)
"""


@pytest.mark.parametrize("external_over", ["0", "1000000"], ids=["external", "inline"])
def test_space_that_ends_while_writing_leaves_the_old_files(
    external: Path, external_over: str
) -> None:
    before = {path.name: path.read_bytes() for path in external.parent.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", SAVE_WITH_LITTLE_SPACE, str(external), external_over],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no space for the model" in done.stdout
    assert {path.name: path.read_bytes() for path in external.parent.iterdir()} == before


SAVE_AND_DIE = """
import os, sys, numpy as np, onnx_ir as ir
from pathlib import Path
from trtforge import model_file
model = model_file.load(sys.argv[1])
for value in model.graph.initializers.values():
    value.const_value = ir.tensor(value.const_value.numpy() + 1, name=value.name)
left = [int(sys.argv[2])]
def dying(function):
    def call(*arguments, **options):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return function(*arguments, **options)
    return call
Path.replace, Path.unlink = dying(Path.replace), dying(Path.unlink)
model_file.save(model, sys.argv[1], external_over=0)
"""


def test_whenever_the_process_ends_the_model_has_its_own_weights(external: Path) -> None:
    """It is killed before each rename and each removal; what is there is the old or the new."""
    seen = []
    for steps in range(20):
        code = [sys.executable, "-c", SAVE_AND_DIE, str(external), str(steps)]
        value = weight_of(model_file.load(external))
        died = subprocess.run(code, check=False).returncode
        now = weight_of(model_file.load(external))
        assert np.array_equal(now, value) or np.array_equal(now, value + 1)
        seen.append((died, np.array_equal(now, value + 1)))
        if not died:
            break
    assert (9, False) in seen, "killed before the new model counted"
    assert (9, True) in seen, "killed after it counted, with the old weights still there"
    assert seen[-1] == (0, True)
    assert len(list(external.parent.glob("model*"))) == 2, "old data files are removed later"


def test_data_files_are_those_that_the_model_names(external: Path) -> None:
    external.with_name("model.onnx.0123abcd.data").write_bytes(b"left by a killed process")
    assert model_file.data_files(model_file.load(external)) == (
        external.with_name("model.onnx.data"),
    )


# Checking


def test_the_checker_speaks_for_itself(tmp_path: Path) -> None:
    model = gemm()
    model_file.check(model)
    model.graph[0].op_type = "MatMull"
    with pytest.raises(ModelError, match="No Op registered for MatMull"):
        model_file.check(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    with pytest.raises(ModelError, match="No Op registered for MatMull"):
        model_file.check(path)


def test_checking_a_model_in_memory_leaves_it_alone(external: Path) -> None:
    model = model_file.load(external)
    before = list(tensors(model))
    model_file.check(model)
    assert [id(tensor) for tensor in tensors(model)] == [id(tensor) for tensor in before]
