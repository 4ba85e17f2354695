"""Loading bundles: the fitting engine, one built here, or ONNX Runtime; never a stale one.

Engines are built by TensorRT-RTX, but not executed: sessions of this test stand in for a GPU.
"""

import json
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from bundles import contents, engine, machine, plan
from command import trtforge
from trtforge_plugins.tensorrt.backend import TensorRT

import trtforge as tf
from trtforge import demo, frozen_inputs, io_adapter
from trtforge.api import run
from trtforge.bundle.compatibility import Library
from trtforge.bundle.contents import of_runs
from trtforge.bundle.plan_header import read_header
from trtforge.bundle.storage import Bundle
from trtforge.bundle.writer import write
from trtforge.environment import environment
from trtforge.errors import BundleError, DataError, EnvironmentLacks, RequestError
from trtforge.io_adapter import Adapted
from trtforge.runtime.chain import Chain
from trtforge.runtime.engine_store import EngineStore, store_key
from trtforge.runtime.rebuild import Builder
from trtforge.runtime.runner import LoadedModel
from trtforge.runtime.session import Tensor

F32 = np.dtype(np.float32)


class Session:
    """Stands in for an engine on a GPU."""

    title = "a stand-in"

    def __init__(self, takes, gives, compute, opened=None):
        self.inputs = tuple(Tensor(name, dtype, (-1, 4)) for name, dtype in takes.items())
        self.outputs = tuple(Tensor(name, dtype, (-1, 4)) for name, dtype in gives.items())
        self.compute = compute
        self.opened = opened
        self.calls = []
        self.closed = False

    def run(self, feed, *, on_device=False, stream=None):
        self.calls.append((on_device, stream))
        return self.compute(**feed)

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def here(monkeypatch):
    """Make the machine one of the test's own, and engines open without a GPU."""

    def put(*capabilities, **facts):
        facts.setdefault("packages", environment().packages)
        monkeypatch.setattr(
            "trtforge.runtime.loading.environment", lambda: machine(*capabilities, **facts)
        )

    return put


@pytest.fixture
def opened(monkeypatch):
    """Return the engine files that were opened."""
    seen = []

    def open_engine(_cls, file):
        seen.append(file)
        return Session({"x": F32}, {"y": F32}, lambda x: {"y": x + 1}, file)

    monkeypatch.setattr(TensorRT, "open_engine", classmethod(open_engine))
    return seen


@pytest.fixture
def builds(monkeypatch):
    """Count the builds, which really happen."""
    from trtforge.runtime import loading

    count = []

    def rebuild(*arguments):
        count.append(time.monotonic())
        return real(*arguments)

    real = loading.rebuild
    monkeypatch.setattr(loading, "rebuild", rebuild)
    return count


def bundle(folder, *engines, **more):
    write(contents(folder / "run", *engines, **more), folder / "b")
    return folder / "b"


def with_shapes(made):
    """Give the contents of a test a recipe that can be built."""
    shapes = [{"x": {"min": "1x4", "opt": "2x4", "max": "8x4"}}]
    return replace(made, recipe={**made.recipe, "shapes": shapes})


@pytest.fixture
def for_other_gpus(tmp_path):
    """A bundle whose only engine is for other GPUs than the test's, with model and recipe."""
    made = contents(tmp_path / "run", engine(tmp_path / "run", targets=("sm_120",)))
    write(with_shapes(made), tmp_path / "b")
    return tmp_path / "b"


def ones(count=2):
    return np.ones((count, 4), np.float32)


def test_the_engine_that_fits_is_loaded(tmp_path, here, opened, builds):
    first = engine(tmp_path / "run", "a", targets=("sm_120",), data=plan(payload=b"other"))
    second = engine(tmp_path / "run", "b", targets=("sm_86",), data=plan(payload=b"mine"))
    here("8.6", packages={"tensorrt-rtx-cu13-libs": second.version})
    made = contents(tmp_path / "run", first, second)
    reports = tuple(replace(made.reports[0], engines=(each,)) for each in (first, second))
    write(replace(made, reports=reports), tmp_path / "b")
    with tf.load(tmp_path / "b") as model:
        assert np.array_equal(model(x=ones())["y"], ones() + 1)
        assert model.runs_in == "a stand-in"
        assert model.notes == ()
    assert [file.data for file in opened] == [plan(payload=b"mine")]
    assert opened[0].gpu.compute_capability == "8.6"
    assert builds == []


def test_an_engine_is_built_where_none_fits_and_kept(for_other_gpus, here, opened, builds):
    here("8.6")
    model = tf.load(for_other_gpus)
    assert "built on this machine" in model.notes[0]
    assert "it is for sm_120" in model.notes[0]
    assert read_header(opened[0].data).flavor == "tensorrt_rtx"  # a real engine
    assert np.array_equal(model(x=ones())["y"], ones() + 1)
    tf.load(for_other_gpus)
    assert len(builds) == 1
    assert opened[0].data == opened[1].data


def test_no_stale_engine_is_served(for_other_gpus, here, opened, builds):
    """Each of these changes what an engine must be."""
    packages = environment().packages
    for number, facts in enumerate(
        [
            {},
            {"driver": "590.10"},
            {"name": "NVIDIA other GPU"},
            {"packages": {**packages, "tensorrt-cu13-libs": "11.4.0.106"}},
        ],
        1,
    ):
        here("8.6", **facts)
        tf.load(for_other_gpus)
        assert len(builds) == number
    here("8.9")
    tf.load(for_other_gpus)
    assert len(builds) == 5
    here("8.6")
    tf.load(for_other_gpus)
    assert len(builds) == 5


def test_a_damaged_or_foreign_engine_in_the_cache_is_built_anew(
    for_other_gpus, here, opened, builds, cache
):
    here("8.6")
    tf.load(for_other_gpus)
    (kept,) = [each for each in (cache / "engines").iterdir() if each.is_dir()]
    (file,) = (kept / "engines").iterdir()
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    tf.load(for_other_gpus)
    assert len(builds) == 2
    assert opened[0].data == opened[1].data
    # Somebody put an engine for another GPU there, in a bundle that is right in itself.
    shutil.rmtree(kept)
    shutil.copytree(for_other_gpus, kept)
    tf.load(for_other_gpus)
    assert len(builds) == 3


def test_two_that_load_at_once_build_once(for_other_gpus, here, opened, builds):
    here("8.6")
    failures = []

    def work():
        try:
            tf.load(for_other_gpus)
        except Exception as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(builds) == 1
    assert len(opened) == 3


def test_a_build_that_fails_leaves_nothing(for_other_gpus, here, monkeypatch, cache):
    def fails(*_):
        raise tf.BuildError("no kernel")

    monkeypatch.setattr(TensorRT, "build", fails)
    here("8.6")
    with pytest.raises(tf.BuildError, match="no kernel"):
        tf.load(for_other_gpus)
    assert [each for each in (cache / "engines").iterdir() if each.is_dir()] == []


def test_gpus_that_no_installed_tensorrt_serves(for_other_gpus, here):
    here("9.0", packages={"tensorrt-rtx-cu13-libs": "1.7.1.116"})
    with pytest.raises(EnvironmentLacks, match="TensorRT-RTX does not run on NVIDIA GPU"):
        tf.load(for_other_gpus)


def test_of_several_gpus_one_that_can_run_it_is_built_for(for_other_gpus, here, opened, builds):
    here("9.0", "8.6")
    tf.load(for_other_gpus)
    assert opened[0].gpu.compute_capability == "8.6"
    with pytest.raises(EnvironmentLacks, match="does not run on"):
        tf.load(for_other_gpus, gpu=0)
    assert len(builds) == 1


def test_without_a_model_nothing_can_be_built(tmp_path, here):
    place = bundle(tmp_path, engine(tmp_path / "run", targets=("sm_120",)), with_model=False)
    here("8.6")
    with pytest.raises(EnvironmentLacks, match="no ONNX model to rebuild from"):
        tf.load(place)
    with pytest.raises(EnvironmentLacks, match="no ONNX model to rebuild from"):
        tf.load(place, allow_onnxruntime=True)


def test_building_can_be_forbidden(for_other_gpus, here, builds):
    here("8.6")
    with pytest.raises(EnvironmentLacks, match=r"no engine of .* fits this machine: it is for"):
        tf.load(for_other_gpus, build=False)
    assert builds == []


def test_files_that_a_recipe_names_are_left_out(for_other_gpus):
    """The bundle may come from a stranger."""
    manifest = Bundle(for_other_gpus).manifest
    options = {"timing_cache": "/etc/passwd", "optimization_level": 3, "flavor": "auto"}
    steps = [{"cast": {"to": "float16"}}, {"tensorrt": options}]
    manifest = replace(manifest, recipe={"stages": [{"name": "all", "steps": steps}]})
    library = Library("tensorrt_rtx", "1.7.1.116", "13")
    builder = Builder(TensorRT, library, machine("8.6").gpus[0])
    document = builder.document(manifest)
    assert document["stages"] == [
        {
            "name": "build",
            "steps": [{"tensorrt": {"optimization_level": 3, "flavor": "tensorrt_rtx"}}],
        }
    ]
    assert document["targets"] == ["sm_86"]
    assert builder.document(replace(manifest, recipe={}))["stages"][0]["steps"] == [
        {"tensorrt": {"flavor": "tensorrt_rtx"}}
    ]


# ONNX Runtime in place of an engine.


def test_without_a_gpu_it_says_so(for_other_gpus, here):
    here(driver="")
    with pytest.raises(EnvironmentLacks, match="there is no GPU") as caught:
        tf.load(for_other_gpus)
    assert "allow_onnxruntime=True" in caught.value.remedy


def test_onnx_runtime_takes_over_where_the_caller_allows_it(for_other_gpus, here):
    here(driver="")
    with pytest.warns(UserWarning, match="in place of an engine"):
        model = tf.load(for_other_gpus, allow_onnxruntime=True)
    with model:
        assert model.runs_in.startswith("ONNX Runtime ")
        assert "there is no GPU" in model.notes[0]
        assert np.array_equal(model(x=ones())["y"], ones() + 1)
        with pytest.raises(RequestError, match="NumPy arrays only"):
            model.run({"x": ones()}, on_device=True)
        with pytest.raises(DataError):
            model(z=ones())
    with pytest.raises(RequestError, match="was closed"):
        model(x=ones())


def test_a_wrong_request_is_not_answered_by_onnx_runtime(for_other_gpus, here, tmp_path):
    here("8.6")
    with pytest.raises(RequestError, match="no GPU 7"):
        tf.load(for_other_gpus, gpu=7, allow_onnxruntime=True)
    with pytest.raises(RequestError, match="Did you mean 'allow_onnxruntime'"):
        tf.load(for_other_gpus, allow_onnx_runtime=True)
    (for_other_gpus / "model" / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError):
        tf.load(for_other_gpus, allow_onnxruntime=True)


# Chains, and inputs that a pass changed.


def test_a_chain_passes_tensors_on_and_keeps_them_on_the_gpu():
    first = Session({"x": F32}, {"h": F32, "skip": F32}, lambda x: {"h": x + 1, "skip": x * 2})
    second = Session({"h": F32, "skip": F32}, {"y": F32}, lambda h, skip: {"y": h + skip})
    chain = Chain([first, second], ["y"], {})
    assert [tensor.name for tensor in chain.inputs] == ["x"]
    found = chain.run({"x": ones()}, stream=5)
    assert list(found) == ["y"]
    assert np.array_equal(found["y"], ones() * 4)
    assert first.calls == [(True, 5)]
    assert second.calls == [(False, 5)]
    assert chain.title == "a stand-in, 2 engines in a chain"
    chain.close()
    assert first.closed
    assert second.closed


def test_an_output_that_no_engine_gives_is_refused():
    with pytest.raises(BundleError, match="'z'"):
        Chain([Session({"x": F32}, {"y": F32}, lambda x: {"y": x})], ["z"], {})


def test_changed_types_are_those_of_the_given_model():
    metadata = {}
    io_adapter.write(metadata, {"x": Adapted("UINT16", "INT32"), "y": Adapted("UINT16", "INT32")})
    now = np.dtype(np.int32)

    def compute(x):
        assert x.dtype == now
        return {"y": x + 1}

    chain = Chain([Session({"x": now}, {"y": now}, compute)], ["y"], metadata)
    assert chain.inputs[0].dtype == chain.outputs[0].dtype == np.uint16
    given = np.array([[1, 65534, 3, 4]], np.uint16)
    for on_device in (False, True):
        found = chain.run({"x": given}, on_device=on_device)
        assert found["y"].dtype == np.uint16
        assert np.array_equal(found["y"], given + 1)
    with pytest.raises(DataError, match="65536"):
        chain.run({"x": np.array([[65535, 0, 0, 0]], np.uint16)})


def test_frozen_inputs_may_be_given_with_their_value_only():
    metadata = {}
    frozen_inputs.write(metadata, {"axes": np.array([1])})
    chain = Chain([Session({"x": F32}, {"y": F32}, lambda x: {"y": x})], ["y"], metadata)
    for feed in ({"x": ones()}, {"x": ones(), "axes": np.array([1])}):
        assert np.array_equal(chain.run(feed)["y"], ones())
    with pytest.raises(DataError, match="frozen to"):
        chain.run({"x": ones(), "axes": np.array([2])})
    with pytest.raises(DataError, match="the model takes x; given: nothing"):
        chain.run({})


def test_calls_from_threads_take_turns():
    running = []

    def compute(x):
        running.append(1)
        time.sleep(0.01)
        assert len(running) == 1
        running.pop()
        return {"y": x}

    model = LoadedModel(Session({"x": F32}, {"y": F32}, compute))
    threads = [threading.Thread(target=model, kwargs={"x": ones()}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running == []


def test_a_session_that_does_not_open_closes_the_others(tmp_path, here, monkeypatch):
    sessions = []

    def open_engine(_cls, file):
        if sessions:
            raise tf.StepError("no memory")
        sessions.append(Session({"x": F32}, {"y": F32}, None, file))
        return sessions[0]

    monkeypatch.setattr(TensorRT, "open_engine", classmethod(open_engine))
    parts = [engine(tmp_path / "run", name, data=plan(payload=name.encode())) for name in "ab"]
    here("8.6", packages={"tensorrt-rtx-cu13-libs": parts[0].version})
    with pytest.raises(tf.StepError, match="no memory"):
        tf.load(bundle(tmp_path, *parts))
    assert sessions[0].closed


# The key, and the command.


def test_the_key_covers_what_decides_an_engine(for_other_gpus, tmp_path):
    manifest = Bundle(for_other_gpus).manifest
    now = machine("8.6")
    gpu = now.gpus[0]
    key = store_key(manifest, now, gpu)
    assert store_key(manifest, replace(now, cores=1, memory=5), gpu) == key
    others = [
        store_key(replace(manifest, recipe={}), now, gpu),
        store_key(manifest, replace(now, driver="590"), gpu),
        store_key(manifest, replace(now, cuda="13.1"), gpu),
        store_key(manifest, replace(now, system="Windows 11"), gpu),
        store_key(manifest, now, replace(gpu, compute_capability="8.9")),
        store_key(manifest, now, replace(gpu, name="other")),
        store_key(manifest, replace(now, packages={}), gpu),
    ]
    assert len({key, *others}) == 8
    assert store_key(manifest, now, replace(gpu, free=1)) == key


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentLacks, match="cannot be written"),
        EngineStore(tmp_path / "file").locked("key"),
    ):
        pass


def test_the_command_loads_and_runs(tmp_path):
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stages: [{name: build, steps: [fold-constants, tensorrt]}]\n")
    run(recipe, demo.MODEL, out=out, shapes={"image": "2x1x8x8"}, targets=["sm_86"], compare=False)
    write(of_runs([out]), tmp_path / "b.zip")
    refused = trtforge("bundle", "load", tmp_path / "b.zip")
    assert refused.code == 4
    assert "no GPU" in refused.err
    data, result = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(data, image=np.zeros((2, 1, 8, 8), np.float32))
    line = ("bundle", "load", tmp_path / "b.zip", "--allow-onnxruntime")
    answer = trtforge(*line, "--data", data, "--out", result, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["runs_in"].startswith("ONNX Runtime")
    assert "in place of an engine" in answer.json["notes"][0]
    assert np.load(result)["logits"].shape == (2, 10)
    assert json.loads(answer.out)["inputs"] == {"image": "float32 ?x1x8x8"}
    assert trtforge(*line, "--data", data).code == 2
