"""Content-addressed storage: nothing damaged is ever served."""

import os

import numpy as np
import onnx_ir as ir
import pytest

import trtforge as tf
from trtforge import store
from trtforge.artifact_file import ArtifactFiles
from trtforge.cache import known_artifacts
from trtforge.errors import CacheError
from trtforge.store import Blobs, atomic_file, file_digest, freeze, thaw

TWO_WEIGHTS = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[1,512] x) => (float[1,512] y) {
  y = Add(x, w)
}
"""


def model_with_weights(seed=0):
    model = ir.from_onnx_text(TWO_WEIGHTS)
    weights = np.random.default_rng(seed).standard_normal((1, 512), dtype=np.float32)
    w = ir.Value(name="w", const_value=ir.tensor(weights, name="w"))
    w.type, w.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((1, 512))
    model.graph.register_initializer(w)
    model.graph.node(0).replace_input_with(1, w)
    return model


def test_a_file_is_hashed_again_only_after_it_changed(tmp_path, monkeypatch):
    hashed, file, blobs = [], tmp_path / "engine", Blobs(tmp_path / "blobs")
    monkeypatch.setattr(store, "file_digest", lambda path: hashed.append(path) or file_digest(path))
    file.write_bytes(b"one")
    first = blobs.put_file(file)
    assert blobs.put_file(file) == first
    assert len(hashed) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))  # a coarse clock may not have moved since
    second = blobs.put_file(file)
    assert [blobs.read(first), blobs.read(second)] == [b"one", b"two"]


def store_weights(blobs, frozen):
    for key, tensor in frozen.weights.items():
        blobs.put(key, tensor.tofile)


def test_a_model_comes_back_as_it_was(tmp_path):
    model, blobs = model_with_weights(), Blobs(tmp_path)
    before = ir.to_proto(model).SerializeToString()
    frozen = freeze(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert len(frozen.graph) < 1024 < len(before)
    store_weights(blobs, frozen)
    again = thaw(frozen.graph, lambda key: (blobs.path(key), 0))
    assert np.array_equal(
        again.graph.initializers["w"].const_value.numpy(),
        model.graph.initializers["w"].const_value.numpy(),
    )
    assert freeze(again).key == frozen.key


def test_another_weight_makes_another_key():
    assert freeze(model_with_weights(0)).key != freeze(model_with_weights(1)).key


def test_a_damaged_weight_is_noticed(tmp_path):
    blobs, frozen = Blobs(tmp_path), freeze(model_with_weights())
    store_weights(blobs, frozen)
    (key,) = frozen.weights
    damaged = bytearray(blobs.path(key).read_bytes())
    damaged[100] ^= 1
    blobs.path(key).write_bytes(damaged)
    with pytest.raises(CacheError, match="'w' was damaged"):
        thaw(frozen.graph, lambda key: (blobs.path(key), 0))


def test_a_damaged_blob_is_noticed_and_removed(tmp_path):
    blobs = Blobs(tmp_path)
    key = blobs.put_bytes(b"engine")
    assert blobs.read(key) == b"engine"
    blobs.path(key).write_bytes(b"engin!")
    with pytest.raises(CacheError, match="damaged"):
        blobs.read(key)
    with pytest.raises(CacheError, match="missing"):
        blobs.read(key)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")

    def fail():
        with atomic_file(target) as file:
            file.write(b"new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def files(tmp_path):
    return ArtifactFiles(Blobs(tmp_path / "blobs"), tmp_path / "run")


KNOWN = known_artifacts([tf.Calibrator, tf.Backend, tf.Profiler])


def test_any_artifact_survives(files, tmp_path):
    dump = tmp_path / "run" / "engines" / "a.layers.json"
    dump.parent.mkdir(parents=True)
    dump.write_text("{}")
    engine = tf.Engine(
        path=dump.with_name("a.engine"), flavor="tensorrt_rtx", version="1.7", size=7, seconds=0.5,
        targets=("sm_80", "sm_86"), memory=tf.Memory(activation=1), layer_dump=dump,
        events=("W: x",),
    )  # fmt: skip
    data = files.encode(engine)
    dump.unlink()
    again = files.decode(data, KNOWN)
    assert again == engine
    assert dump.read_text() == "{}"


def test_arrays_and_infinities_survive(files):
    feeds = ({"x": np.arange(6, dtype=np.float16).reshape(2, 3)},)
    batches = tf.Batches(feeds, source="a.npz", labels=np.array([1, 2]))
    known = {"trtforge.artifacts:Batches": tf.Batches, "trtforge.artifacts:Ranges": tf.Ranges}
    again = files.decode(files.encode(batches), known)
    assert np.array_equal(again.feeds[0]["x"], feeds[0]["x"])
    assert again.feeds[0]["x"].dtype == np.float16
    ranges = tf.Ranges({"a": tf.Range(-1.0, float("inf"))}, "max", 3, "a.npz")
    assert files.decode(files.encode(ranges), known) == ranges


def test_a_class_that_no_step_gives_is_not_made(files):
    data = files.encode(tf.Figures({"a": 1.0}))
    with pytest.raises(CacheError, match="no installed step gives"):
        files.decode(data, KNOWN)


def test_a_stored_file_cannot_leave_the_run_folder(files, tmp_path):
    key = Blobs(tmp_path / "blobs").put_bytes(b"x")
    evil = {"class": "trtforge.artifacts:Engine", "fields": {"$file": ["../evil", key]}}
    with pytest.raises(CacheError, match="leave the run folder"):
        files.decode(evil, KNOWN)
    assert not (tmp_path / "evil").exists()
