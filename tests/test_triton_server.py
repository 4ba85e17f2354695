"""A real Triton server loads what trtforge writes, and serves it.

The package ``nvidia-pytriton`` has the server and its Python backend, but neither TensorRT's nor
ONNX Runtime's backend; ``triton_backend/model.py`` stands in for both. So the configuration, the
files, batching, warm-up and ensembles are Triton's; what computes is not.

    pip install --no-deps --target FOLDER nvidia-pytriton; export TRTFORGE_TRITON=FOLDER
"""

import ctypes.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_triton import bundle, plans, split_run
from tritonclient import grpc

from trtforge import demo
from trtforge.api import run
from trtforge.testing import run_model
from trtforge.triton.repository import export
from trtforge.triton.serving import Wishes

PACKAGE = Path(os.environ.get("TRTFORGE_TRITON", "nowhere"))
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = (
    PACKAGE / "pytriton/tritonserver/python_backend_stubs" / PYTHON / "triton_python_backend_stub"
)
pytestmark = [
    pytest.mark.skipif(not STUB.is_file(), reason="NOT RUN: no TRTFORGE_TRITON"),
    pytest.mark.skipif(
        not ctypes.util.find_library(f"python{PYTHON}"),
        reason=f"NOT RUN: Triton's Python backend needs libpython{PYTHON}",
    ),
    pytest.mark.slow,
]
ONNX = Wishes(backend="onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The demo model after a run that built it for batches up to 16."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("model")
        patch.setenv("TRTFORGE_CACHE", str(folder / "cache"))
        recipe = folder / "recipe.yaml"
        recipe.write_text("stages: [{name: build, steps: [fold-constants, tensorrt]}]\n")
        shapes = {"image": "1x1x8x8:4x1x8x8:16x1x8x8"}
        out = folder / "out"
        run(recipe, demo.MODEL, out=out, shapes=shapes, targets=["sm_86"], compare=False)
        return out


@pytest.fixture(scope="module", autouse=True)
def program():
    """pip leaves out that the program may be executed."""
    (PACKAGE / "pytriton/tritonserver/bin/tritonserver").chmod(0o755)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """A client of a server with all repositories of these tests."""
    folder = tmp_path_factory.mktemp("server")
    repository = folder / "repository"
    with pytest.MonkeyPatch.context() as patch:
        export([model], repository, wishes=ONNX)
        export([split_run(folder, patch)], repository, wishes=ONNX)
        export([bundle(folder, *plans(folder / "run", "sm_80", "sm_89"))], repository)
    without_gpu(repository / "add_one" / "config.pbtxt")
    with running(folder, repository) as client:
        yield client


@contextmanager
def running(folder, repository):
    """Start a server for the models in ``repository``; it lasts as long as the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [
        PACKAGE / "pytriton/tritonserver/bin/tritonserver",
        f"--model-repository={repository}", f"--backend-directory={backends(folder)}",
        "--allow-http=false", "--allow-metrics=false",
        "--grpc-address=127.0.0.1", f"--grpc-port={port}",
    ]  # fmt: skip
    variables = {
        "LD_LIBRARY_PATH": str(PACKAGE / "nvidia_pytriton.libs"),
        "PYTHONHOME": sys.base_prefix,
        "PYTHONPATH": sysconfig.get_path("purelib"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            line, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
        end = time.monotonic() + 120
        while not is_ready(client):
            words = (folder / "log").read_text(errors="replace")[-5000:]
            assert process.poll() is None, words
            assert time.monotonic() < end, words
            time.sleep(0.1)
        yield client
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def without_gpu(config):
    """Let a model be served without a GPU: Triton refuses instances on GPUs that are not there."""
    text = config.read_text()
    assert "KIND_GPU" in text
    config.write_text(text.replace("KIND_GPU", "KIND_CPU"))


def backends(folder):
    """Make a folder of backends: Python's own, and those that stand in."""
    made = folder / "backends"
    shutil.copytree(PACKAGE / "pytriton/tritonserver/backends/python", made / "python")
    shutil.copy(STUB, made / "python")
    (made / "python" / STUB.name).chmod(0o755)
    for name in ("onnxruntime", "tensorrt"):
        shutil.copytree(Path(__file__).with_name("triton_backend"), made / name)
    return made


def is_ready(client):
    with suppress(grpc.InferenceServerException):
        return client.is_server_ready()
    return False


def ask(client, model, **feed):
    """Return the outputs of a model on the server."""
    given = []
    for name, array in feed.items():
        tensor = grpc.InferInput(name, array.shape, "FP32")
        tensor.set_data_from_numpy(array)
        given.append(tensor)
    answer = client.infer(model, given)
    return {each.name: answer.as_numpy(each.name) for each in answer.get_response().outputs}


def test_triton_serves_the_demo_model(server, model):
    images = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
    expected = run_model(onnx.load(model / "model.onnx"), {"image": images})["logits"]
    # ONNX Runtime adds in another order there than in `run_model`, and for other batches.
    close = {"rtol": 1e-5, "atol": 1e-4}
    assert np.allclose(ask(server, "digits", image=images)["logits"], expected, **close)
    with pytest.raises(grpc.InferenceServerException, match="batch-size must be <= 16"):
        ask(server, "digits", image=np.concatenate([images, images]))
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda one: ask(server, "digits", image=one[None]), images))
    assert np.allclose(np.concatenate([each["logits"] for each in found]), expected, **close)


def test_triton_reads_what_was_meant(server):
    known = server.get_model_config("digits").config
    assert (known.max_batch_size, known.backend) == (16, "onnxruntime")
    assert known.HasField("dynamic_batching")
    assert [warm.batch_size for warm in known.model_warmup] == [4]


def test_triton_passes_tensors_on_between_the_parts_of_a_split_model(server, tmp_path, monkeypatch):
    x = np.random.default_rng(0).random((1, 8), np.float32)
    split_run(tmp_path, monkeypatch)
    expected = run_model(onnx.load(tmp_path / "m.onnx"), {"x": x})
    found = ask(server, "m", x=x)
    assert set(found) == {"early", "y"}
    for name, array in found.items():
        assert np.allclose(array, expected[name], atol=1e-6)


def test_triton_takes_the_configuration_of_engines_for_two_gpus(server):
    """The stand-in finds both files; Triton itself has run the warm-up when a model is ready."""
    assert server.is_model_ready("add_one")
    known = server.get_model_config("add_one").config
    assert sorted(known.cc_model_filenames) == ["8.0", "8.9"]
    found = ask(server, "add_one", x=np.ones((32, 4), np.float32))
    assert found["y"].shape == (32, 4)
