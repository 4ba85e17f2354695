"""Opens an engine on a GPU of this machine."""

from __future__ import annotations

import sys

from trtforge import EnvironmentLacks
from trtforge.runtime.session import EngineFile
from trtforge_plugins.tensorrt import adapter
from trtforge_plugins.tensorrt.cuda_device import CudaDevice
from trtforge_plugins.tensorrt.engine_session import EngineSession
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.loaded_engine import LoadedEngine


def opened(engine: EngineFile) -> EngineSession:
    """Return an engine that is ready to run.

    Raises:
        EnvironmentLacks: TensorRT or CuPy does not load, CUDA does not show the GPU, or the engine
            brings a runtime of its own and nobody known has signed it.
        StepError: TensorRT refuses the engine.
    """
    if engine.brings_runtime and not engine.trusted:
        raise EnvironmentLacks(
            "the engine is version compatible, so it holds code that TensorRT would run, and "
            "nobody known has signed its bundle",
            remedy="give the public key of its author (key=), or build without version_compatible",
        )
    device = CudaDevice(engine.gpu)
    listener = Listener(sys.stderr, "ERROR")
    trt = adapter.load(engine.flavor)
    with device.active():
        loaded = LoadedEngine(trt, listener, engine.data, host_code=engine.brings_runtime)
    return EngineSession(loaded, device, engine.flavor, cuda_graph=engine.cuda_graph)
