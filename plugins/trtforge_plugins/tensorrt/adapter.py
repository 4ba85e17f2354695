"""The only file that imports TensorRT: one way to parse and build for 10.x, 11.x and RTX.

What not every version has goes through :func:`feature`, which refuses with a reason; everything
else is in all of them. ``tests/test_tensorrt_api.py`` holds each name here to the API of four
versions, and relies on the names of the variables: ``builder``, ``network``, ``config``, …
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtforge import BuildError, EnvironmentLacks, Progress, RequestError
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.order import BuildOrder, Profile
from trtforge_plugins.tensorrt.profiles import NetworkInput
from trtforge_plugins.tensorrt.target_rules import check_targets


def load(flavor: str) -> Any:
    """Import TensorRT.

    Raises:
        EnvironmentLacks: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(flavor)
    except ImportError as error:
        raise EnvironmentLacks(
            f"{flavor} does not load: {error}", remedy="`trtforge doctor` looks for the cause"
        ) from error


def feature(owner: Any, name: str) -> Any:
    """Return the attribute ``name`` of ``owner``, which only some versions have.

    Raises:
        EnvironmentLacks: this version has it not.
    """
    found = getattr(owner, name, None)
    if found is None:
        title = getattr(owner, "__name__", type(owner).__name__)
        raise EnvironmentLacks(
            f"this TensorRT has no {title}.{name}",
            remedy="drop the option that needs it, or install a TensorRT that has it",
        )
    return found


def quick_plugins(trt: Any, flavor: str) -> Any:
    """Return the module ``tensorrt.plugin`` where it takes kernels ahead of time, else None."""
    if not hasattr(trt, "QuickPluginCreationRequest"):  # what tensorrt.plugin itself goes by
        return None
    try:
        return importlib.import_module(f"{flavor}.plugin")
    except ImportError:
        return None


class Session:
    """One network on its way from a model file to an engine.

    Args:
        trt: What :func:`load` returned.
        listener: Hears everything that TensorRT says. There is no ``IErrorRecorder``: it would
            take errors away from the logger, and with one set on a builder whose network had a
            parser, TensorRT-RTX 1.7.1 crashes when the network is freed.
    """

    def __init__(self, trt: Any, listener: Listener) -> None:
        self.trt = trt
        self.version = str(trt.__version__)
        self._listener = listener
        self._logger = logger(trt, listener)
        try:
            builder = trt.Builder(self._logger)
        except TypeError as error:  # how pybind says that the factory returned nothing
            raise EnvironmentLacks(
                "TensorRT cannot start its builder; it needs an NVIDIA driver and a GPU",
                remedy="`trtforge doctor` looks for the cause",
            ) from error
        # Versions from 11 on are always strongly typed and ignore the flag.
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._builder = builder
        self._network = builder.create_network(typed)
        self._parser = trt.OnnxParser(self._network, self._logger)

    def parse(self, model: Path) -> list[dict[str, Any]]:
        """Read an ONNX file into the network and return what the parser refused, in its words."""
        parser = self._parser
        if parser.parse_from_file(str(model)):
            return []
        refused = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        return refused or [_nameless("the parser refused the model and gave no reason")]

    def inputs(self) -> list[NetworkInput]:
        """Return the inputs of the parsed network."""
        network = self._network
        tensors = [network.get_input(i) for i in range(network.num_inputs)]
        return [
            NetworkInput(tensor.name, tuple(tensor.shape), bool(tensor.is_shape_tensor))
            for tensor in tensors
        ]

    def targets(self) -> list[int]:
        """Return the compute capabilities that it builds for; none: that of this machine's GPU."""
        if not hasattr(self.trt, "ComputeCapability"):
            return []
        known = feature(self.trt, "ComputeCapability").__members__
        return [int(name[2:]) for name in known if name[2:].isdigit()]

    def build(self, order: BuildOrder, progress: Progress) -> memoryview:
        """Build the network and return the engine's bytes; the listener has heard the reasons.

        Raises:
            BuildError: TensorRT refuses the order or fails.
            RequestError: the order names what this TensorRT has not.
            EnvironmentLacks: the order needs another version of TensorRT.
        """
        config = self._builder.create_builder_config()
        self._configure(config, order)
        self._set_targets(config, order.targets)
        for profile in order.profiles:
            self._add_profile(config, profile)
        monitor = _progress_monitor(self.trt, progress)
        config.progress_monitor = monitor
        cache = None
        if order.timing_cache is not None:
            cache = self._timing_cache(config, Path(order.timing_cache))
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            raise BuildError("TensorRT failed to build the engine")
        if cache is not None:
            Path(order.timing_cache_out).write_bytes(memoryview(cache.serialize()))
        return memoryview(plan).cast("B")

    def _configure(self, config: Any, order: BuildOrder) -> None:
        trt = self.trt
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if order.optimization_level is not None:
            config.builder_optimization_level = order.optimization_level
        if order.max_aux_streams is not None:
            config.max_aux_streams = order.max_aux_streams
        if order.hardware_compatibility != "NONE":
            level = feature(trt.HardwareCompatibilityLevel, order.hardware_compatibility)
            config.hardware_compatibility_level = level
        for name, limit in order.pools.items():
            config.set_memory_pool_limit(feature(trt.MemoryPoolType, name), limit)
        for name, wanted in order.flags.items():
            change = config.set_flag if wanted else config.clear_flag
            change(feature(trt.BuilderFlag, name))

        unsupported = [text for text in self._listener.warnings if "is unsupported in" in text]
        if unsupported:  # it would go on without the option
            raise EnvironmentLacks(
                "; ".join(unsupported), remedy="drop the option, or choose another flavor"
            )

    def _timing_cache(self, config: Any, file: Path) -> Any:
        """Let the builder use the timing cache of ``file``, or a new one when there is no file."""
        heard = len(self._listener.events)
        data = file.read_bytes() if file.exists() else b""
        cache = config.create_timing_cache(data)
        usable = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
        if not usable or (data and len(self._listener.events) > heard):
            raise RequestError(
                f"the timing cache {file} is damaged, or made by another TensorRT or for another "
                "GPU",
                remedy="name another file, or delete this one",
            )
        return cache

    def _set_targets(self, config: Any, targets: Sequence[int]) -> None:
        if not targets:
            return
        known = feature(self.trt, "ComputeCapability").__members__
        check_targets(f"TensorRT-RTX {self.version}", targets, self.targets())
        config.num_compute_capabilities = len(targets)
        for index, sm in enumerate(targets):
            if not feature(config, "set_compute_capability")(known[f"SM{sm}"], index):
                raise BuildError(f"TensorRT refused the target sm_{sm}")

    def _add_profile(self, config: Any, wanted: Profile) -> None:
        profile = self._builder.create_optimization_profile()
        for each in self.inputs():
            if each.name in wanted:
                give = profile.set_shape_input if each.is_shape else profile.set_shape
                give(each.name, *wanted[each.name])
        if not profile or config.add_optimization_profile(profile) == -1:
            raise BuildError(f"TensorRT refused the optimization profile {wanted}")

    def inspect(self, plan: memoryview) -> str | None:
        """Return the layers of a built engine as JSON, or None where no GPU can load it."""
        trt = self.trt
        runtime = trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return None
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _parser_error(error: Any) -> dict[str, Any]:
    """Return a parser error as data; ``functions`` is the chain of calls around the node."""
    return {
        "node": error.node_name(),
        "op": error.node_operator(),
        "text": error.desc(),
        "code": error.code().name,
        "functions": list(error.local_function_stack()),
        "source": f"{error.file()}:{error.line()} {error.func()}",
    }


def _nameless(text: str) -> dict[str, Any]:
    return {"node": "", "op": "", "text": text, "code": "", "functions": [], "source": ""}


def logger(trt: Any, listener: Listener) -> Any:
    """Return a logger of TensorRT's that hands everything to ``listener``."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            listener(severity.name, text)

    return Logger()


def _progress_monitor(trt: Any, progress: Progress) -> Any:
    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            progress.update(phase, step, self.steps.get(phase, 0))
            return True  # False would cancel the build

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return ProgressMonitor()
