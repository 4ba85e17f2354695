"""Engine sessions on a real GPU: its memory, pinned copies, streams and CUDA graphs, by CuPy.

TensorRT is a stand-in whose engine adds one by a CUDA kernel on the addresses it is given, in the
stream it is given, so that a CUDA graph really records and replays it.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_tensorrt import FakeContext, FakeDevice, FakeTensorRT, Spec
from trtforge_plugins.tensorrt.cuda_device import CudaDevice
from trtforge_plugins.tensorrt.engine_session import EngineSession
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.loaded_engine import LoadedEngine

from trtforge.environment import environment

RANGE = ((1, 4), (2, 4), (4096, 4))


class Adding(FakeContext):
    """Adds one by a kernel on the GPU."""

    def execute_async_v3(self, stream):
        import cupy

        self.trt.said("execute_async_v3", stream)
        count = int(np.prod(self.shapes["x"]))
        x, y = (self._on_gpu(name, count) for name in ("x", "y"))
        with cupy.cuda.ExternalStream(stream):
            cupy.add(x, cupy.float32(1), out=y)
        return True

    def _on_gpu(self, name, count):
        import cupy

        memory = cupy.cuda.UnownedMemory(self.addresses[name], count * 4, self)
        return cupy.ndarray((count,), cupy.float32, cupy.cuda.MemoryPointer(memory, 0))


def session(*, cuda_graph=True):
    specs = (Spec("x", (-1, 4), ranges=(RANGE,)), Spec("y", (-1, 4), is_input=False))
    trt = FakeTensorRT(specs, lambda x: {"y": x + 1}, FakeDevice(is_active=True))
    trt.context_class = Adding
    device = CudaDevice(environment().gpus[0])
    with device.active():
        engine = LoadedEngine(trt, Listener(io.StringIO()), b"plan", host_code=False)
    return EngineSession(engine, device, "tensorrt", cuda_graph=cuda_graph), trt


def batch(count, value=0.0):
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4) + np.float32(value)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_numbers_are_right_through_shapes_and_graphs(gpu, cuda_graph):
    pytest.importorskip("cupy", reason="NOT RUN: a GPU is here, but CuPy is not installed")
    runs, trt = session(cuda_graph=cuda_graph)
    for number, count in enumerate([2, 2, 2, 2, 4096, 4096, 4096, 1, 2, 2, 2]):
        data = batch(count, number)
        assert np.array_equal(runs.run({"x": data})["y"], data + 1)
    launched = [call for call in trt.calls if call[0] == "execute_async_v3"]
    # Each change of shape is one run and one recording; all others are replayed.
    assert len(launched) == (7 if cuda_graph else 11)


@pytest.mark.gpu
def test_arrays_of_cupy_and_torch_stay_on_the_gpu(gpu):
    cupy = pytest.importorskip("cupy", reason="NOT RUN: CuPy is not installed")
    runs, _ = session()
    for number in range(4):
        data = batch(64, number)
        found = runs.run({"x": cupy.asarray(data)}, on_device=True)["y"]
        assert isinstance(found, cupy.ndarray)
        assert np.array_equal(cupy.asnumpy(found), data + 1)
    torch = pytest.importorskip("torch", reason="NOT RUN: torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("NOT RUN: torch has no CUDA")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        given = torch.from_numpy(batch(64, 9)).cuda(non_blocking=True)
        found = torch.from_dlpack(runs.run({"x": given}, on_device=True, stream=stream)["y"])
        doubled = found * 2
    stream.synchronize()
    assert np.array_equal(doubled.cpu().numpy(), (batch(64, 9) + 1) * 2)
