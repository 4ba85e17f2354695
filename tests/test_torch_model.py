"""import-torch: the exported model computes what the module computes; archives run no code."""

from __future__ import annotations

import json
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from trtforge_plugins.importers.torch_model import ImportTorch

import trtforge as tf
from trtforge import model_file

torch = pytest.importorskip("torch", reason="pip install 'trtforge[torch]' to test import-torch")

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.fc = torch.nn.Linear(4, 5)

    def forward(self, image, scale):
        x = torch.relu(self.conv(image)) * scale[:, :, None, None]
        return self.fc(x.mean((2, 3)))

def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 4, generator=generator)

def bare(): return Net()
def pair(): return Net(), inputs()
def parts():
    image, scale = inputs()
    return {"module": Net(), "args": (image,), "kwargs": {"scale": scale}}
def broken(): raise RuntimeError("no weights here")
def nothing(): return 3
"""
SHAPES = {"image": tf.Dims("2x3x8x8"), "scale": tf.Dims("2x4")}
BATCH = {"image": ("batch",), "scale": ("batch",)}


@pytest.fixture
def ctx(tmp_path: Path) -> tf.Context:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    return tf.Context(model, tmp_path / "run", tf.Request(""))


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the current folder; its name is new in every test."""
    name = f"net_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    scope = network(tmp_path)
    dim = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        scope["bare"]().eval(),
        scope["inputs"](),
        dynamic_shapes={"image": {0: dim, 2: torch.export.Dim.AUTO}, "scale": {0: dim}},
    )
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    return path


def network(folder: Path) -> dict[str, Any]:
    """Return the names that ``NET`` defines."""
    (folder / "original.py").write_text(NET)
    return runpy.run_path(str(folder / "original.py"))


def outputs(model: ir.Model, folder: Path, *inputs: Any) -> np.ndarray:
    model_file.save(model, folder / "compare.onnx")
    session = onnxruntime.InferenceSession(folder / "compare.onnx")
    feed = {item.name: x.numpy() for item, x in zip(session.get_inputs(), inputs, strict=True)}
    result: np.ndarray = session.run(None, feed)[0]
    return result


def check_same(model: ir.Model, folder: Path, batch: int = 2) -> None:
    scope = network(folder)
    inputs = torch.rand(batch, 3, 8, 8), torch.rand(batch, 4)
    with torch.no_grad():
        expected = scope["bare"]().eval()(*inputs).numpy()
    # float32 sums of at most 64 terms in another order
    np.testing.assert_allclose(outputs(model, folder, *inputs), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "options"),
    [("bare", {"shapes": SHAPES}), ("pair", {}), ("parts", {}), ("pair", {"opset": 20})],
)
def test_a_factory_is_exported(
    factory: str, options: dict[str, Any], net: str, ctx: tf.Context, tmp_path: Path
) -> None:
    source = f"{net}:{factory}"
    assert ImportTorch.accepts(source)
    model = ImportTorch(**options).load(source, ctx)
    assert [value.name for value in model.graph.inputs] == ["image", "scale"]
    if "opset" in options:
        assert model.opset_imports[""] == options["opset"]
    check_same(model, tmp_path)


@pytest.mark.parametrize("factory", ["pair", "parts"])
def test_named_axes_take_other_sizes(
    factory: str, net: str, ctx: tf.Context, tmp_path: Path
) -> None:
    model = ImportTorch(dynamic=BATCH).load(f"{net}:{factory}", ctx)
    assert str(model.graph.inputs[0].shape) == "[batch,3,8,8]"
    check_same(model, tmp_path, batch=7)


def test_an_archive_is_exported(archive: Path, ctx: tf.Context, tmp_path: Path) -> None:
    assert ImportTorch.accepts(str(archive))
    check_same(ImportTorch().load(str(archive), ctx), tmp_path, batch=5)


WRONG = {
    "no_such_module_here:f": "cannot be imported: ModuleNotFoundError: No module named",
    "NET:f": "has no function f",
    "NET:broken": r"broken\(\) failed: RuntimeError: no weights here",
    "NET:nothing": "returned int",
    "NET:bare": "needs example inputs",
}


@pytest.mark.parametrize(("source", "words"), WRONG.items())
def test_what_is_wrong_with_a_factory_is_said(
    source: str, words: str, net: str, ctx: tf.Context
) -> None:
    with pytest.raises(tf.RequestError, match=words):
        ImportTorch().load(source.replace("NET", net), ctx)


def test_options_that_do_not_fit_are_refused(net: str, archive: Path, ctx: tf.Context) -> None:
    with pytest.raises(tf.RequestError, match="dynamic names images; the inputs are image, scale"):
        ImportTorch(dynamic={"images": ("batch",)}).load(f"{net}:pair", ctx)
    with pytest.raises(tf.RequestError, match=r"shapes of a \.pt2 archive were fixed"):
        ImportTorch(dynamic=BATCH).load(str(archive), ctx)
    with pytest.raises(tf.ModelError, match="cannot be exported"):
        ImportTorch(shapes={"image": tf.Dims("2x3x8x8")}).load(f"{net}:bare", ctx)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_a_pickle_is_never_opened(suffix: str, tmp_path: Path, ctx: tf.Context) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(torch.nn.Linear(2, 2), path)
    assert ImportTorch.accepts(str(path))
    with pytest.raises(tf.ModelError, match="runs code when it is opened"):
        ImportTorch().load(str(path), ctx)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, ctx: tf.Context) -> None:
    path = tmp_path / "model.pt2"
    with pytest.raises(tf.ModelError, match="no such file"):
        ImportTorch().load(str(path), ctx)
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(tf.ModelError, match=r"no archive of torch\.export\.save"):
        ImportTorch().load(str(path), ctx)


class Touch:
    """Unpickling one makes a file: the stand-in for any code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def rewritten(archive: Path, change: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    """Copy an archive with every member passed through ``change``, and members added."""
    path = archive.with_name("evil") / "net.pt2"
    path.parent.mkdir()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, data in added.items():
            new.writestr(f"net/{name}", data)
    return path


def with_example_inputs(archive: Path, touched: Path) -> Path:
    held = archive.with_name("inputs.pt")
    torch.save((Touch(touched),), held)
    return rewritten(
        archive, lambda name, data: held.read_bytes() if "sample_inputs" in name else data
    )


def test_example_inputs_that_run_code_are_refused(
    archive: Path, ctx: tf.Context, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    evil = with_example_inputs(archive, touched)
    with pytest.raises(tf.ModelError, match="example inputs are more than tensors"):
        ImportTorch().load(str(evil), ctx)
    assert not touched.exists()
    with pytest.raises(tf.ModelError):
        ImportTorch(trust=True).load(str(evil), ctx)
    assert touched.exists(), "the danger is real: PyTorch itself runs it"


def _pickled(name: str, data: bytes) -> bytes:
    return data.replace(b'"use_pickle": false', b'"use_pickle": true')


def _formula(name: str, data: bytes) -> bytes:
    return data.replace(b"Symbol(", b"__import__('os').getcwd(", 1) if "models/" in name else data


def _guard(name: str, data: bytes) -> bytes:
    return data.replace(b"L['image'].size()", b"open('x').size()") if "models/" in name else data


def _target(name: str, data: bytes) -> bytes:
    return data.replace(b"torch.ops.aten.relu.default", b"torch.hub.load")


def _same(name: str, data: bytes) -> bytes:
    return data


REWRITES: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes], str]] = {
    "pickled weight": (_pickled, {}, "names a pickled object"),
    "formula": (_formula, {}, "has the formula"),
    "guard": (_guard, {}, "has the formula"),
    "call": (_target, {}, "calls 'torch.hub.load'"),
    "library": (_same, {"data/aotinductor/model/x.so": b""}, "aotinductor"),
    "legacy pickle": (_same, {"data/weights/model.pt": b""}, r"data/weights/model\.pt"),
    "opaque object": (_same, {"data/constants/opaque_obj_0": b""}, "opaque_obj_0"),
}


@pytest.mark.parametrize(("change", "added", "words"), REWRITES.values(), ids=REWRITES)
def test_archives_with_more_than_a_model_are_refused(
    change: Callable[[str, bytes], bytes],
    added: dict[str, bytes],
    words: str,
    archive: Path,
    ctx: tf.Context,
) -> None:
    evil = rewritten(archive, change, **added)
    with zipfile.ZipFile(evil) as members:
        assert all(json.loads(members.read(n)) for n in members.namelist() if n.endswith("json"))
    with pytest.raises(tf.ModelError, match=words):
        ImportTorch().load(str(evil), ctx)


def test_an_unchanged_copy_of_an_archive_is_exported(archive: Path, ctx: tf.Context) -> None:
    assert ImportTorch().load(str(rewritten(archive, _same)), ctx).graph.outputs
