"""What the processes of ``h200_models.py`` do: prepare a model for all tools, and time it.

    python benchmarks/h200_model_jobs.py {prepare,warm,measure} NAME {float32,float16,qdq} FOLDER

Prints a JSON object as its last line.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from architectures.architecture import Architecture
    from torch import Tensor, nn

PRECISIONS = ("float32", "float16", "qdq")
TOOLS = ("raw", "trtforge", "onnxsim", "onnxslim")
PEERS = ("raw", "onnxsim", "onnxslim")
BATCHES = (1, 32)
ROUNDS, ROUND_SECONDS = 15, 0.02
RECIPE = Path(__file__).resolve().with_suffix("").parent / "h200_models.yaml"
LOWER = {
    "float16": "stages: [{name: lower, steps: [infer-shapes, cast: {to: float16, keep: [Range]}]}]",
    "qdq": "stages: [{name: lower, steps: [infer-shapes, fold-constants, drop-identity,"
    " fold-batchnorm, {load-data: {synthesize: true, count: 8}}, calibrate-max,"
    " insert-qdq: {dtype: int8}]}]",
}
"""What is done to the float32 export; every tool gets the result."""
# Largest difference of an output from the raw model's, in shares of its largest value: float32
# without TF32 but in another order of sums; Q/DQ: such a difference turns into steps of 1/127,
# which later layers carry on. In float16 a tool's model may be at most twice as far from torch's
# float32 outputs as the raw model is, or within float16's own step.
NEAR = {"float32": 1e-3, "qdq": 5e-2}
HALF_STEP = 2.0**-10


def prepare(name: str, precision: str, work: Path) -> dict[str, Any]:
    """Export the network and let every tool rewrite it; return ``reason`` if that failed."""
    folder = work / f"{name}.{precision}"
    if (folder / "ready").is_file():
        return {"reason": ""}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _export(_architecture(name), precision, folder / "raw.onnx")
    except Exception as error:  # noqa: BLE001  # that the exporter fails is the result
        return {"reason": f"export: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    failed = {}
    for tool in TOOLS[1:]:
        try:
            _rewrite(tool, folder / "raw.onnx", folder / f"{tool}.onnx")
        except Exception as error:  # noqa: BLE001  # that a tool fails is the result
            failed[tool] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    (folder / "failed.json").write_text(json.dumps(failed))
    (folder / "ready").touch()
    return {"reason": ""}


def _architecture(name: str) -> Architecture:
    import architectures

    (wanted,) = [each for each in architectures.ARCHITECTURES if each.name == name]
    return wanted


def _feeds(wanted: Architecture, batch: int) -> dict[str, Tensor]:
    """Return inputs of this batch, other sizes at their largest."""
    import torch

    torch.manual_seed(1)
    return wanted.inputs({**wanted.sizes("max"), "batch": batch})


def _export(wanted: Architecture, precision: str, path: Path) -> None:
    import torch

    feeds = _feeds(wanted, 2)
    axes = {name: dict(wanted.dynamic.get(name, {})) or None for name in feeds}
    with torch.no_grad():
        program = torch.onnx.export(
            wanted.module(), (), kwargs=feeds, dynamic_shapes=axes, dynamo=True,
            input_names=list(feeds), output_names=list(wanted.outputs), verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)
    if precision in LOWER:
        recipe = path.with_name("lower.yaml")
        recipe.write_text(LOWER[precision])
        shapes = {n: "x".join(map(str, t.shape)) for n, t in feeds.items()}
        _run_recipe(recipe, path, path, shapes)


def _rewrite(tool: str, model: Path, result: Path) -> None:
    if tool == "trtforge":
        _run_recipe(RECIPE, model, result)
    elif tool == "onnxsim":
        import onnx
        import onnxsim

        onnx.save(onnxsim.simplify(str(model))[0], result)
    else:
        import onnxslim

        onnxslim.slim(str(model), str(result))


def _run_recipe(
    recipe: Path, model: Path, result: Path, shapes: Mapping[str, str] | None = None
) -> None:
    import trtforge

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = trtforge.run(recipe, model, out=out, shapes=shapes, use_cache=False, compare=False)
        assert done.model is not None
        result.write_bytes(Path(done.model).read_bytes())


class Bound:
    """A model in ONNX Runtime on the GPU, its inputs and outputs bound to torch's memory.

    Args:
        path: The model.
        feeds: Inputs on the GPU.
    """

    def __init__(self, path: Path, feeds: Mapping[str, Tensor]) -> None:
        import onnxruntime
        import torch

        before = _used()
        settings = {
            "user_compute_stream": str(torch.cuda.current_stream().cuda_stream),
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        providers = [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        assert "CUDAExecutionProvider" in self.session.get_providers()
        self.names = [output.name for output in self.session.get_outputs()]
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.binding = self.session.io_binding()
        self.kept = {name: value.contiguous() for name, value in feeds.items()}
        for taken in self.session.get_inputs():
            value = self.kept[taken.name]
            kind = np.dtype(str(value.dtype).removeprefix("torch."))
            self.binding.bind_input(
                taken.name, "cuda", 0, kind, tuple(value.shape), value.data_ptr()
            )
        for name in self.names:
            self.binding.bind_output(name, "cuda", 0)
        self()
        torch.cuda.synchronize()
        self.memory = _used() - before

    def __call__(self) -> None:
        """Run once; nothing waits for the end."""
        self.session.run_with_iobinding(self.binding, self.options)

    def outputs(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs of the last run."""
        import torch

        torch.cuda.synchronize()
        return dict(zip(self.names, self.binding.copy_outputs_to_cpu(), strict=True))


def _used() -> int:
    """Return the bytes of the GPU that are in use."""
    import torch

    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def measure(name: str, precision: str, work: Path, *, compiled: bool) -> dict[str, Any]:
    """Time all tools' models and torch.compile; return ``rows``, one for each batch."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wanted, folder = _architecture(name), work / f"{name}.{precision}"
    module = wanted.module().cuda()
    rows = []
    with torch.no_grad():
        for batch in BATCHES:
            feeds = {n: t.cuda() for n, t in _feeds(wanted, batch).items()}
            torch.set_default_device("cuda")
            rows.append(
                {
                    "batch": batch,
                    **_row(wanted, precision, folder, module, feeds, compiled=compiled),
                }
            )
            torch.set_default_device("cpu")
    return {"rows": rows}


def _row(  # noqa: PLR0913  # what a row is made of
    wanted: Architecture,
    precision: str,
    folder: Path,
    module: nn.Module,
    feeds: Mapping[str, Tensor],
    *,
    compiled: bool,
) -> dict[str, Any]:
    import torch

    failed = json.loads((folder / "failed.json").read_text())
    runs: dict[str, Callable[[], Any]] = {}
    outputs: dict[str, Any] = {}
    for tool in set(TOOLS) - set(failed):
        try:
            runs[tool] = bound = Bound(folder / f"{tool}.onnx", feeds)
        except Exception as error:  # noqa: BLE001  # that a model does not run is the result
            failed[tool] = " ".join(str(error).split())[:300]
        else:
            outputs[tool] = bound.outputs()
    memory = {tool: bound.memory for tool, bound in runs.items() if isinstance(bound, Bound)}
    truth = dict(zip(wanted.outputs, _arrays(module(**feeds)), strict=True))
    distance = {tool: _distance(found, truth) for tool, found in outputs.items()}
    row = {
        "gpu": torch.cuda.get_device_name(),
        "nodes": {tool: _nodes(folder / f"{tool}.onnx") for tool in runs},
        "failed": failed,
        "distance": distance,
        "differs": _differs(precision, outputs, distance),
    }
    if compiled:
        row |= _compile(module, feeds, precision, runs, memory)
    ordered = {tool: runs[tool] for tool in (*TOOLS, "torch.compile") if tool in runs}
    return {**row, "memory": memory, **_times(ordered)}


def _arrays(found: Any) -> list[np.ndarray[Any, Any]]:
    tensors = found if isinstance(found, tuple | list) else (found,)
    return [tensor.float().cpu().numpy() for tensor in tensors]


def _compile(
    module: nn.Module,
    feeds: Mapping[str, Tensor],
    precision: str,
    runs: dict[str, Callable[[], Any]],
    memory: dict[str, int],
) -> dict[str, str]:
    """Add torch.compile to the runs, or say why it is not there."""
    import torch

    try:
        torch.cuda.reset_peak_memory_stats()
        runs["torch.compile"] = _compiled(module, feeds, precision)
    except Exception as error:  # noqa: BLE001  # that it does not compile is the result
        return {"no compile": " ".join(str(error).split())[:300]}
    memory["torch.compile"] = torch.cuda.max_memory_allocated()
    return {}


def _compiled(module: nn.Module, feeds: Mapping[str, Tensor], precision: str) -> Callable[[], Any]:
    import torch

    if precision == "float16":
        module = copy.deepcopy(module).half()
        feeds = {n: t.half() if t.is_floating_point() else t for n, t in feeds.items()}
    torch._dynamo.reset()  # noqa: SLF001  # torch documents no other way to compile anew
    compiled = torch.compile(module, dynamic=False)
    for _ in range(3):
        compiled(**feeds)
    torch.cuda.synchronize()
    return lambda: compiled(**feeds)


def warm(name: str, precision: str, _work: Path) -> dict[str, Any]:
    """Fill the compiler's cache on disk, so that ``measure`` finds its kernels there."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wanted = _architecture(name)
    module = wanted.module().cuda()
    with torch.no_grad():
        for batch in BATCHES:
            feeds = {n: t.cuda() for n, t in _feeds(wanted, batch).items()}
            torch.set_default_device("cuda")
            _compiled(module, feeds, precision)
            torch.set_default_device("cpu")
    return {}


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def _distance(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Return the largest difference, in shares of each output's largest value."""
    worst = 0.0
    for name, right in expected.items():
        here = found[name].astype(np.float64)
        if here.shape != right.shape or not np.array_equal(np.isfinite(here), np.isfinite(right)):
            return float("inf")
        wide = np.nan_to_num(right.astype(np.float64))
        error = np.abs(np.nan_to_num(here) - wide).max(initial=0.0)
        worst = max(worst, float(error / (np.abs(wide).max(initial=0.0) or 1.0)))
    return worst


def _differs(
    precision: str, outputs: Mapping[str, Any], distance: Mapping[str, float]
) -> dict[str, float]:
    """Return the tools whose outputs are too far from the raw export's, and how far."""
    if precision == "float16":
        allowed = max(2 * distance["raw"], HALF_STEP)
        return {tool: far for tool, far in distance.items() if far > allowed}
    found = {tool: _distance(each, outputs["raw"]) for tool, each in outputs.items()}
    return {tool: far for tool, far in found.items() if not far <= NEAR[precision]}


def _times(runs: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return milliseconds per run and trtforge's speed beside the others', all in turn."""
    counts = {tool: _count(run) for tool, run in runs.items()}
    rounds: dict[str, list[float]] = {tool: [] for tool in runs}
    order = list(runs)
    for index in range(ROUNDS):
        turn = index % len(order)
        for tool in order[turn:] + order[:turn]:
            rounds[tool].append(_milliseconds(runs[tool], counts[tool]))
    ms = {tool: round(median(times), 5) for tool, times in rounds.items()}
    if "trtforge" not in rounds:
        return {"ms": ms, "reason": "trtforge's model does not run"}
    mine = rounds["trtforge"]
    ratio = {
        tool: round(median(t / m for t, m in zip(times, mine, strict=True)), 4)
        for tool, times in rounds.items()
        if tool != "trtforge"
    }
    return {
        "ms": ms,
        "ratio": ratio,
        "beside best": min(ratio[tool] for tool in PEERS if tool in ratio),
    }


def _count(run: Callable[[], Any]) -> int:
    """Return how many runs fill a round; they warm up as well."""
    for _ in range(3):
        run()
    once = _milliseconds(run, 5) / 1e3
    return max(5, int(ROUND_SECONDS / once))


def _milliseconds(run: Callable[[], Any], count: int) -> float:
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / count


def main() -> None:
    """Do the job of the command line."""
    started = time.perf_counter()
    job, name, precision, folder, *compiled = sys.argv[1:]
    work = Path(folder)
    if job == "measure":
        answer = measure(name, precision, work, compiled=bool(compiled))
    else:
        answer = (prepare if job == "prepare" else warm)(name, precision, work)
    print(json.dumps({**answer, "seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
