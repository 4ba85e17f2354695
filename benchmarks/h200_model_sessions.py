"""What ``h200_models.py`` runs: models bound in ONNX Runtime, and modules that torch compiled.

Each is captured as a CUDA graph where that works, so that what is timed is the GPU's work and one
launch, not the launches of single kernels. A run ends when the GPU has ended: ONNX Runtime waits
after each replay of a graph, so torch is made to wait, too.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Outputs = Mapping[str, "np.ndarray[Any, Any]"]
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}


@dataclass(frozen=True)
class Mode:
    """How ONNX Runtime runs the models of one row, all tools alike."""

    graph: bool
    """Whether runs are captured as CUDA graphs."""
    fixed: bool = False
    """Whether ONNX Runtime is told the inputs' sizes before it optimizes."""

    def __str__(self) -> str:
        how = "CUDA graph" if self.graph else "launches"
        return how + (", sizes fixed" if self.fixed else "")


MODES = (Mode(graph=True), Mode(graph=True, fixed=True), Mode(graph=False))
"""Tried in this order."""

NOT_FOR_GPUS = ["WeightBiasQuantization"]
"""Turned off for all models: ONNX Runtime quantizes biases to INT32 before it knows the provider.
The CUDA provider has no kernel for DequantizeLinear of INT32, so such nodes would go to the CPU, a
copy in front of each convolution, and the model could not be captured."""


class Bound:
    """A model in ONNX Runtime, its inputs and outputs bound to torch's memory.

    Args:
        path: The model.
        feeds: Inputs, on the device that shall run it.
        shapes: The outputs' shapes, by name.
        mode: How to run it.
    """

    def __init__(
        self,
        path: Path,
        feeds: Mapping[str, Tensor],
        shapes: Mapping[str, tuple[int, ...]],
        mode: Mode,
    ) -> None:
        import onnxruntime
        import torch

        before = used_memory()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        optimized = path.with_suffix(".optimized")
        options.optimized_model_filepath = str(optimized)
        if mode.fixed:
            for name, size in _sizes(path, feeds).items():
                options.add_free_dimension_override_by_name(name, size)
        names, settings = _providers(mode)
        self.session = onnxruntime.InferenceSession(
            str(path), options, names, settings, disabled_optimizers=NOT_FOR_GPUS
        )
        assert self.session.get_providers() == names, "a provider did not start"
        self.operators = _operators(optimized)
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.binding = self.session.io_binding()
        device = next(iter(feeds.values())).device
        self.given = {v.name: feeds[v.name].contiguous() for v in self.session.get_inputs()}
        self.found = {
            v.name: torch.empty(
                shapes[v.name], dtype=getattr(torch, _DTYPES[v.type]), device=device
            )
            for v in self.session.get_outputs()
        }
        for name, value in self.given.items():
            self.binding.bind_input(name, *_buffer(value))
        for name, value in self.found.items():
            self.binding.bind_output(name, *_buffer(value))
        self()  # allocates, and captures
        self()
        self.memory = used_memory() - before

    def __call__(self) -> None:
        """Run once, to the end."""
        self.session.run_with_iobinding(self.binding, self.options)
        wait()

    def outputs(self) -> Outputs:
        """Run once more, over memory that holds other values, and return what comes out."""
        for value in self.found.values():
            value.fill_(float("nan") if value.is_floating_point() else -1)
        self()
        return {name: value.cpu().numpy() for name, value in self.found.items()}


def _providers(mode: Mode) -> tuple[list[str], list[dict[str, str]]]:
    """Return ONNX Runtime's providers and their settings; without a GPU, the CPU's."""
    import torch

    if not torch.cuda.is_available():
        return ["CPUExecutionProvider"], [{}]
    settings = {
        "user_compute_stream": str(torch.cuda.current_stream().cuda_stream),
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": str(int(mode.graph)),
    }
    return ["CUDAExecutionProvider", "CPUExecutionProvider"], [settings, {}]


def _buffer(value: Tensor) -> tuple[str, int, Any, tuple[int, ...], int]:
    """Return what an IO binding asks for: device, its number, type, shape, address."""
    kind = np.dtype(str(value.dtype).removeprefix("torch."))
    return value.device.type, 0, kind, tuple(value.shape), value.data_ptr()


def _sizes(path: Path, feeds: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes of the named dimensions of the model's inputs."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return {
        dim.dim_param: size
        for value in graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True)
        if dim.dim_param
    }


def _operators(path: Path) -> dict[str, int]:
    """Return how many nodes of each operator ONNX Runtime made of the model."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return dict(sorted(Counter(node.op_type for node in nodes).items()))


def compiled(module: nn.Module, feeds: Mapping[str, Tensor], precision: str) -> Callable[[], Any]:
    """Return the compiled module as a function that runs it once, to the end."""
    import torch

    module = copy.deepcopy(module)  # so that its weights count as memory of this one
    if precision == "float16":
        module = module.half()
        feeds = {n: t.half() if t.is_floating_point() else t for n, t in feeds.items()}
    torch._dynamo.reset()  # noqa: SLF001  # torch documents no other way to compile anew
    function = torch.compile(module, dynamic=False)
    for _ in range(3):
        found = function(**feeds)
    if not torch.cuda.is_available():
        return lambda: function(**feeds)
    wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(**feeds)

    alive = (module, feeds)  # the graph reads their memory, which it does not hold

    def run() -> Any:
        assert alive
        graph.replay()
        wait()
        return found

    return run


def wait() -> None:
    """Wait until the GPU has ended what this process gave it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()


def used_memory() -> int:
    """Return the bytes of the GPU that are in use."""
    import torch

    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what torch keeps for later is not in use
    free, total = torch.cuda.mem_get_info()
    return int(total - free)
