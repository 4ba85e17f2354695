"""Step ``profile-engine``: how long the engine takes on this GPU, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtforge import Context, Engine, EnvironmentLacks, Profiler, RequestError, Timings
from trtforge.timing_statistics import summarize
from trtforge.worker import Job, Worker
from trtforge_plugins.profiling.gpu_samples import sampled
from trtforge_plugins.tensorrt import gpu, library
from trtforge_plugins.tensorrt.execution import PROFILED

_JOB = "trtforge_plugins.tensorrt.measure_job"


@dataclass(frozen=True)
class ProfileEngine(Profiler):
    """Time the engine on the GPU of this machine, the whole and each layer.

    Whole runs are timed with CUDA events at the profile's `opt` shapes, on zeros that lie on the
    GPU; a few more with TensorRT's profiler tell how the time is spread over the layers. Clocks,
    power and throttling are sampled meanwhile.
    """

    name = "profile-engine"
    needs = (Engine,)

    runs: int = 200
    """Runs that count."""
    warmup: int = 20
    """Runs before them."""
    cuda_graph: bool = True
    """Whether the launches of one run are captured into a CUDA graph, as deployments do."""
    time_limit: float = 600.0
    """Seconds for everything."""

    def profile(self, model: ir.Model, engine: Engine | None, ctx: Context) -> Timings:
        """Run the engine in a worker process.

        Raises:
            RequestError: fewer than one run, or a negative number to warm up.
            EnvironmentLacks: there is no GPU, TensorRT or CuPy.
            StepError: the engine does not run on this GPU.
            WorkerError: TensorRT crashed or took longer than the limit.
        """
        del model
        if self.runs < 1 or self.warmup < 0:
            raise RequestError(f"runs {self.runs} and warmup {self.warmup} make no measurement")
        here = gpu.current()
        if here is None:
            raise EnvironmentLacks(
                "there is no GPU here to run the engine on",
                remedy="run on a machine that has one, or let `read-times` read what trtexec "
                "measured there",
            )
        built = engine or ctx.get(Engine)
        found = library.find("auto" if built.flavor == "other" else built.flavor)
        payload = {
            "engine": str(built.path),
            "flavor": found.flavor,
            "runs": self.runs,
            "warmup": self.warmup,
            "graph": self.cuda_graph,
        }
        job = Job(f"{_JOB}:measure", payload, f"timing by {found.title}",
                  log=ctx.path("logs", "tensorrt.log"), time_limit=self.time_limit)  # fmt: skip
        worker = Worker(imports=(found.flavor, _JOB), environment=found.variables())
        with sampled() as samples:
            result = worker.call(job, ctx.progress)
        return summarize(
            result["times"],
            device=here.name,
            warmup=self.warmup,
            layers=[(str(name), float(value)) for name, value in result["layers"]],
            notes=(
                f"{found.title}, without transfers",
                f"CUDA graph {'on' if self.cuda_graph else 'off'}",
                f"the layers: {PROFILED} further runs with TensorRT's profiler on, no CUDA graph",
                *samples(),
            ),
        )
