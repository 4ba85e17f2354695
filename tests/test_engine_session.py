"""Running an engine: recorded calls of a TensorRT that computes on the addresses it is given.

No GPU was used: what CUDA and TensorRT themselves do is not shown here.
"""

import ast
import inspect
import io
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from fake_tensorrt import DeviceArray, FakeDevice, FakeTensorRT, Spec
from trtforge_plugins.tensorrt import adapter, cuda_device, loaded_engine, opening
from trtforge_plugins.tensorrt.backend import TensorRT
from trtforge_plugins.tensorrt.engine_session import EngineSession, handle_of
from trtforge_plugins.tensorrt.engine_validity import CAUSES, refuse_invalid
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.loaded_engine import LoadedEngine

from trtforge import DataError, EnvironmentLacks, StepError
from trtforge.environment import Gpu
from trtforge.runtime.session import EngineFile

L4 = Gpu("NVIDIA L4", "8.9", 24 * 2**30, 20 * 2**30, "0000:65:00.0")
BATCHES = ((1, 4), (2, 4), (8, 4))
LARGE = ((9, 4), (16, 4), (32, 4))
SPECS = (Spec("x", (-1, 4), ranges=(BATCHES, LARGE)), Spec("y", (-1, 4), is_input=False))


def add_one(x):
    return {"y": x + 1}


def session(specs=SPECS, compute=add_one, *, cuda_graph=True, device=None, **facts):
    device = device or FakeDevice()
    trt = FakeTensorRT(specs, compute, device, **facts)
    with device.active():
        engine = LoadedEngine(trt, Listener(io.StringIO(), "ERROR"), b"plan", host_code=False)
    return EngineSession(engine, device, "tensorrt", cuda_graph=cuda_graph), trt, device


def batch(count, value=0.0):
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4) + np.float32(value)


def names(calls):
    return [call[0] for call in calls]


def test_the_calls_of_a_first_run():
    """The order that TensorRT asks for: shapes before output shapes, addresses before running."""
    runs, trt, device = session()
    trt.calls.clear()
    device.calls.clear()
    found = runs.run({"x": batch(2)})
    assert np.array_equal(found["y"], batch(2) + 1)
    assert names(trt.calls) == [
        "set_input_shape",
        "set_tensor_address",
        "infer_shapes",
        "set_tensor_address",
        "execute_async_v3",
    ]
    assert names(device.calls) == [
        "buffer",  # x
        "buffer",  # y
        "pinned",
        "upload",
        "pinned",
        "download",
        "synchronize",
    ]
    streams = {call[-1] for call in device.calls if call[0] in ("upload", "download")}
    assert streams == {runs._own_stream} == {trt.calls[-1][1]}


def test_later_runs_of_a_shape_allocate_nothing_and_become_a_graph():
    runs, trt, device = session()
    for number in range(5):
        if number == 3:
            trt.calls.clear()
            device.calls.clear()
        data = batch(2, number)
        assert np.array_equal(runs.run({"x": data})["y"], data + 1)
    assert trt.calls == []  # TensorRT itself is not called: the graph is replayed
    assert names(device.calls) == ["upload", "launch", "download", "synchronize"] * 2


def test_the_first_run_of_a_shape_is_never_captured():
    """TensorRT updates its own state in it."""
    runs, _, device = session()
    runs.run({"x": batch(2)})
    assert "begin_capture" not in names(device.calls)
    runs.run({"x": batch(2)})
    assert "begin_capture" in names(device.calls)
    device.calls.clear()
    runs.run({"x": batch(3)})
    assert "launch" not in names(device.calls)


def test_no_graph_where_none_is_wanted():
    runs, trt, device = session(cuda_graph=False)
    for number in range(4):
        runs.run({"x": batch(2, number)})
    assert "begin_capture" not in names(device.calls)
    assert names(trt.calls).count("execute_async_v3") == 4


def test_an_engine_that_cannot_be_captured_runs_without():
    runs, trt, _ = session(device=FakeDevice(refuses_capture=True))
    for number in range(4):
        data = batch(2, number)
        assert np.array_equal(runs.run({"x": data})["y"], data + 1)
    assert names(trt.calls).count("execute_async_v3") == 4


def test_shapes_may_change_from_run_to_run():
    runs, _, _ = session()
    kept = []
    for number, count in enumerate([2, 8, 1, 8, 8, 8, 2, 3, 3, 3]):
        data = batch(count, number)
        kept.append((data, runs.run({"x": data})["y"]))
    for data, result in kept:  # no result is memory that a later run wrote to
        assert np.array_equal(result, data + 1)


def test_the_profile_follows_the_shapes():
    runs, trt, _ = session(profiles=2)
    for count in (2, 20, 20, 2):
        assert len(runs.run({"x": batch(count)})["y"]) == count
    chosen = [call for call in trt.calls if call[0] == "set_optimization_profile_async"]
    assert [call[1] for call in chosen] == [1, 0]
    with pytest.raises(DataError, match=r"'x' has \(33, 4\), and the engine takes") as caught:
        runs.run({"x": batch(33)})
    assert "(1, 4) to (8, 4) or (9, 4) to (32, 4)" in str(caught.value)
    assert np.array_equal(runs.run({"x": batch(2)})["y"], batch(2) + 1)


def test_arrays_on_the_gpu_stay_there():
    runs, _, device = session()
    device.calls.clear()
    found = runs.run({"x": DeviceArray(batch(2))}, on_device=True)
    assert np.array_equal(found["y"].array, batch(2) + 1)
    assert names(device.calls) == [
        "take", "buffer", "buffer", "pinned", "copy", "give", "synchronize",
    ]  # fmt: skip


def test_work_goes_to_the_callers_stream_and_is_not_waited_for():
    runs, trt, device = session()
    device.calls.clear()
    runs.run({"x": DeviceArray(batch(2))}, on_device=True, stream=99)
    assert "synchronize" not in names(device.calls)
    assert {call[-1] for call in device.calls if call[0] in ("take", "copy", "give")} == {99}
    assert trt.calls[-1] == ("execute_async_v3", 99)
    runs.run({"x": batch(2)}, stream=99)  # NumPy results must be there when it returns
    assert device.calls[-1] == ("synchronize", 99)


@pytest.mark.parametrize(
    "stream", [5, type("Cupy", (), {"ptr": 5})(), type("Torch", (), {"cuda_stream": 5})()]
)
def test_streams_of_any_library(stream):
    assert handle_of(stream) == 5


def test_torch_tensors_are_taken_by_dlpack():
    torch = pytest.importorskip("torch", reason="NOT RUN: torch is not installed")
    runs, _, _ = session()
    found = runs.run({"x": torch.from_numpy(batch(2))})
    assert np.array_equal(found["y"], batch(2) + 1)
    with pytest.raises(DataError, match="no array that NumPy takes"):
        runs.run({"x": torch.ones(2, 4, requires_grad=True)})


def test_arrays_of_any_order_in_memory():
    runs, _, _ = session()
    data = np.asfortranarray(batch(2))
    assert np.array_equal(runs.run({"x": data})["y"], data + 1)
    assert np.array_equal(runs.run({"x": batch(4)[::2]})["y"], batch(4)[::2] + 1)


def test_outputs_whose_length_depends_on_the_data():
    def positive(x):
        return {"y": x[x > 0]}

    specs = (Spec("x", (-1, 4), ranges=(BATCHES,)), Spec("y", (-1,), is_input=False))
    runs, trt, device = session(specs, positive, unknown=("y",))
    for value in (-3.0, 0.0, 2.0):
        data = batch(2, value)
        for _ in range(3):
            assert np.array_equal(runs.run({"x": data})["y"], data[data > 0])
    assert "set_output_allocator" in names(trt.calls)
    assert "begin_capture" not in names(device.calls)  # memory is asked for while it runs


def test_inputs_that_decide_shapes_stay_in_main_memory():
    def repeat(x, count):
        return {"y": np.concatenate([x] * int(count[0])) if count[0] else x[:0]}

    specs = (
        Spec("x", (-1, 4), ranges=(BATCHES,)),
        Spec("count", (1,), "INT64", on_host=True),
        Spec("y", (-1, 4), is_input=False),
    )
    runs, _, device = session(specs, repeat)
    for count in (3, 3, 3, 1, 0, 2):
        found = runs.run({"x": batch(2), "count": np.array([count])})
        assert found["y"].shape == (2 * count, 4)
    uploads = [call for call in device.calls if call[0] == "upload"]
    assert {call[1] for call in uploads} == {batch(2).nbytes}


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, "takes x; given: nothing"),
        ({"x": batch(2), "z": batch(2)}, "given: x, z"),
        ({"x": batch(2).astype(np.float64)}, "is float64 instead of float32"),
        ({"x": batch(2).reshape(4, 2)}, r"shape \(4, 2\) instead of \?x4"),
        ({"x": batch(2).reshape(8)}, r"shape \(8,\) instead of \?x4"),
        ({"x": object()}, "object"),
    ],
)
def test_wrong_inputs_are_named_and_change_nothing(feed, message):
    runs, _, _ = session()
    with pytest.raises(DataError, match=message):
        runs.run(feed)
    assert np.array_equal(runs.run({"x": batch(2)})["y"], batch(2) + 1)


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ("deserialize_cuda_engine", "refuses the engine"),
        ("create_execution_context", "cannot make an execution context"),
        ("set_input_shape", "refuses shape"),
        ("set_tensor_address", "refuses the address of 'x'"),
        ("execute_async_v3", "refuses to run"),
    ],
)
def test_what_tensorrt_refuses_is_said_in_its_words(refuse, message):
    with pytest.raises(StepError, match=f"{message}.*: no {refuse} today"):
        session(refuse=refuse)[0].run({"x": batch(2)})


def test_the_real_library_refuses_what_is_no_engine():
    """TensorRT-RTX itself, as far as it goes without a GPU."""
    trt = adapter.load("tensorrt_rtx")
    listener = Listener(io.StringIO(), "ERROR")
    with pytest.raises(StepError, match="TensorRT refuses the engine: ") as caught:
        LoadedEngine(trt, listener, b"vtrt" + bytes(200), host_code=False)
    assert listener.errors
    assert listener.errors[0] in str(caught.value)
    with pytest.raises(StepError, match="TensorRT refuses the engine: its bytes are damaged"):
        LoadedEngine(trt, Listener(io.StringIO(), "ERROR"), bytes(200), host_code=False)


def test_every_cause_that_tensorrt_can_name_has_words():
    trt = adapter.load("tensorrt_rtx")
    assert set(CAUSES) == set(trt.EngineInvalidityDiagnostics.__members__)


@pytest.mark.parametrize(
    ("validity", "bits", "message"),
    [
        ("VALID", 0, None),
        ("SUBOPTIMAL", 0, None),
        ("INVALID", 2 | 4, "this GPU's compute capability; the CUDA driver is too old for it; x\n"),
        ("INVALID", 0, "refuses the engine: x\n"),
    ],
)
def test_an_engine_that_tensorrt_calls_invalid_is_not_deserialized(validity, bits, message):
    trt = adapter.load("tensorrt_rtx")
    answer = (trt.EngineValidity.__members__[validity], bits)
    runtime = SimpleNamespace(get_engine_validity=lambda _: answer)
    with pytest.raises(StepError, match=message) if message else nullcontext():
        refuse_invalid(trt, runtime, b"", ["x"])
    refuse_invalid(trt, SimpleNamespace(), b"", [])  # TensorRT 10 and 11 cannot be asked


def test_the_output_allocator_is_one_of_the_real_library():
    trt = adapter.load("tensorrt_rtx")
    told = {}
    allocator = loaded_engine._output_allocator(trt, lambda _, size: size + 1, told.__setitem__)
    assert isinstance(allocator, trt.IOutputAllocator)
    assert allocator.reallocate_output_async("y", 0, 4, 256, 0) == 5
    allocator.notify_shape("y", trt.Dims([2, 3]))
    assert told == {"y": (2, 3)}


def test_a_gpu_without_memory_is_no_defect_of_ours(monkeypatch):
    runs, _, device = session()
    with monkeypatch.context() as patch:
        patch.setattr(device, "buffer", lambda size: (_ for _ in ()).throw(MemoryError("32 bytes")))
        with pytest.raises(StepError, match="the GPU failed: 32 bytes"):
            runs.run({"x": batch(2)})
    assert np.array_equal(runs.run({"x": batch(2)})["y"], batch(2) + 1)


def test_types_that_numpy_has_not_are_refused():
    specs = (Spec("x", (4,), "INT4"), Spec("y", (4,), is_input=False))
    with pytest.raises(EnvironmentLacks, match="type INT4"):
        session(specs)


def test_an_engine_with_code_of_its_own_needs_a_known_author():
    engine = EngineFile(b"plan", "tensorrt", L4, brings_runtime=True)
    with pytest.raises(EnvironmentLacks, match="nobody known has signed"):
        TensorRT.open_engine(engine)


def test_host_code_is_allowed_for_such_engines_only():
    for wanted in (False, True):
        device = FakeDevice()
        trt = FakeTensorRT(SPECS, add_one, device)
        with device.active():
            engine = LoadedEngine(trt, Listener(io.StringIO()), b"plan", host_code=wanted)
        assert engine._runtime.engine_host_code_allowed is wanted


def test_the_step_opens_engines(monkeypatch):
    device = FakeDevice()
    trt = FakeTensorRT(SPECS, add_one, device)
    monkeypatch.setattr(opening, "CudaDevice", lambda gpu: device)
    monkeypatch.setattr(opening.adapter, "load", lambda flavor: trt)
    opened = TensorRT.open_engine(EngineFile(b"plan", "tensorrt", L4))
    assert opened.title == "TensorRT 10.13.3.9"
    assert np.array_equal(opened.run({"x": batch(2)})["y"], batch(2) + 1)
    opened.close()


def test_every_name_of_cupy_exists():
    """The real device cannot run here; the names that it uses can be looked up."""
    cupy = pytest.importorskip("cupy", reason="not run: CuPy is not installed")
    tree = ast.parse(inspect.getsource(cuda_device))
    found = set()
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        for root in ("self._cupy.", "runtime."):
            if text.startswith(root):
                path = ("cuda.runtime." if root == "runtime." else "") + text.removeprefix(root)
                found.add(path.partition("()")[0])  # what calls return is looked at below
    assert len(found) > 15
    for path in sorted(found):
        owner = cupy
        for name in path.split("."):
            assert hasattr(owner, name), path
            owner = getattr(owner, name)
    for name in ("begin_capture", "end_capture", "wait_event", "record"):
        assert hasattr(cupy.cuda.Stream, name)
    assert hasattr(cupy.cuda.Graph, "launch")
