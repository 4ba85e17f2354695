"""How engines are timed, with stand-ins for TensorRT, CuPy and NVML: none runs here."""

import types

import pytest
from test_tensorrt_api import VERSIONS
from trtforge_plugins.profiling.gpu_samples import _handle, sampled
from trtforge_plugins.tensorrt.execution import PROFILED, Execution

from trtforge import StepError


class FakeTensorRT:
    """An engine with one input and one output; each run takes a millisecond more."""

    class IProfiler:
        def __init__(self):
            pass

    TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
    TensorLocation = types.SimpleNamespace(HOST="host", DEVICE="device")

    def __init__(self, *, output=(8, 4), location="device", runs=True):
        self.output, self.location, self.works = output, location, runs
        self.clock, self.launches, self.addresses = 0.0, 0, {}
        self.num_io_tensors = 2
        self.profiler = None

    def Runtime(self, logger):  # noqa: N802  # TensorRT's name
        return self

    def deserialize_cuda_engine(self, plan):
        return self if plan else None

    def create_execution_context(self):
        return self

    def get_tensor_name(self, index):
        return ("y", "x")[index]  # outputs may come first

    def get_tensor_mode(self, name):
        return "in" if name == "x" else "out"

    def get_tensor_location(self, name):
        return self.location

    def get_tensor_profile_shape(self, name, profile):
        return (1, 4), (8, 4), (16, 4)

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(itemsize=0.5 if name == "x" else 4)

    def set_input_shape(self, name, shape):
        self.input = shape

    def get_tensor_shape(self, name):
        return self.input if name == "x" else self.output

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        self.launches += 1
        self.clock += 1 + self.launches
        if self.profiler is not None:
            self.profiler.report_layer_time("conv", float(self.launches))
            self.profiler.report_layer_time("fc", 0.5)
        return self.works


class FakeCupy:
    """Streams, events and buffers; events read the clock of the engine."""

    def __init__(self, engine):
        self.engine, self.buffers, self.captured = engine, [], 0
        self.cuda = types.SimpleNamespace(
            Stream=self.stream, Event=self.event, get_elapsed_time=lambda a, b: b.at - a.at
        )

    def zeros(self, size, dtype):
        self.buffers.append(size)
        return types.SimpleNamespace(data=types.SimpleNamespace(ptr=1000 + len(self.buffers)))

    def event(self):
        class Event:
            def record(event, stream):  # noqa: N805
                event.at = self.engine.clock

            def synchronize(event):  # noqa: N805
                pass

        return Event()

    def stream(self, *, non_blocking):
        class Stream:
            ptr = 7

            def __enter__(stream):  # noqa: N805
                return stream

            def __exit__(stream, *error):  # noqa: N805
                pass

            def synchronize(stream):  # noqa: N805
                pass

            def begin_capture(stream):  # noqa: N805
                self.captured += 1

            def end_capture(stream):  # noqa: N805
                launch = lambda _: self.engine.execute_async_v3(stream.ptr)  # noqa: E731
                return types.SimpleNamespace(launch=launch)

        return Stream()


def test_an_engine_is_timed_as_a_whole_and_by_layer():
    engine = FakeTensorRT()
    cupy = FakeCupy(engine)
    execution = Execution(engine, cupy, None, b"plan")
    assert engine.input == (8, 4)  # the profile's opt
    assert cupy.buffers == [16, 128]  # 32 inputs of 4 bits, 32 outputs of 32
    assert set(engine.addresses) == {"x", "y"}
    assert execution.time(3, 2, graph=False) == [2, 3, 4, 5, 6]
    assert cupy.captured == 0
    assert len(execution.time(3, 0, graph=True)) == 3
    assert cupy.captured == 1
    first = engine.launches + 2  # the first profiled run does not count
    layers = dict(map(tuple, execution.time_layers()))
    assert layers == {"conv": first + (PROFILED - 1) / 2, "fc": 0.5}


@pytest.mark.parametrize(
    ("engine", "plan", "said"),
    [
        (FakeTensorRT(), b"", "cannot load the engine"),
        (FakeTensorRT(output=(8, -1)), b"p", "depends on the data"),
        (FakeTensorRT(location="host"), b"p", "on the CPU"),
    ],
)
def test_engines_that_cannot_be_timed_are_refused(engine, plan, said):
    with pytest.raises(StepError, match=said):
        Execution(engine, FakeCupy(engine), None, plan)


def test_a_run_that_fails_is_no_time():
    engine = FakeTensorRT(runs=False)
    with pytest.raises(StepError, match="failed while running"):
        Execution(engine, FakeCupy(engine), None, b"p").time(1, 0, graph=False)


def test_the_names_used_are_in_every_version_of_tensorrt():
    used = {
        "Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context",
        "ICudaEngine.num_io_tensors", "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_mode",
        "ICudaEngine.get_tensor_location", "ICudaEngine.get_tensor_profile_shape",
        "ICudaEngine.get_tensor_dtype", "IExecutionContext.set_input_shape",
        "IExecutionContext.get_tensor_shape", "IExecutionContext.set_tensor_address",
        "IExecutionContext.execute_async_v3", "IExecutionContext.profiler",
        "IProfiler.report_layer_time", "TensorIOMode.INPUT", "TensorLocation.HOST",
        "DataType.itemsize",
    }  # fmt: skip
    for version, names in VERSIONS.items():
        assert used <= names, version


class FakeNvml(types.ModuleType):
    """A GPU that gets hot."""

    NVML_CLOCK_SM = 1
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20  # noqa: N815  # NVML's own name

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver=True):
        super().__init__("pynvml")
        self.driver, self.looks, self.closed = driver, 0, False

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self):  # noqa: N802
        self.closed = True

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return uuid

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        self.looks += 1
        return 1980 if self.looks == 1 else 1500

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return 350_000

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return types.SimpleNamespace(used=2**30)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        return 0x21 if self.looks > 1 else 0x01  # 1: the GPU is idle, which is no throttling


def test_the_gpu_is_watched_while_it_is_timed(monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    with sampled() as notes:
        while nvml.looks < 3:
            pass
    clock, throttled = notes()
    assert "1500 to 1980 MHz, 350 to 350 W, 1GiB in use" in clock
    assert throttled.startswith("throttled in ")
    assert throttled.endswith("temperature")
    assert nvml.closed


@pytest.mark.parametrize(
    ("visible", "handle"), [("", 0), ("2,0", 2), ("GPU-8f", "GPU-8f"), ("MIG-1", 0)]
)
def test_the_gpu_that_is_watched_is_the_first_visible_one(monkeypatch, visible, handle):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _handle(FakeNvml()) == handle


def test_without_a_driver_the_notes_say_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", FakeNvml(driver=False))
    with sampled() as notes:
        pass
    assert notes() == ("clocks and throttling were not looked at: NVML: Driver Not Loaded",)
    with sampled(on=False) as none:
        pass
    assert none() == ()
