"""The ``tensorrt`` step."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from trtforge import (
    Backend,
    ByteSize,
    Context,
    Engine,
    Memory,
    Progress,
    Request,
    StepError,
    Target,
    model_file,
)
from trtforge.cache import default_root
from trtforge.diagnosis import Diagnosis
from trtforge.environment import this_platform
from trtforge.runtime.session import EngineFile
from trtforge.tuning import Tuning
from trtforge.worker import Job, Worker, WorkerFailure
from trtforge_plugins.engine_layers import parse_layers
from trtforge_plugins.tensorrt import gpu
from trtforge_plugins.tensorrt.asked import Parsed
from trtforge_plugins.tensorrt.build_files import engine_name, put_in_place, timing_cache
from trtforge_plugins.tensorrt.build_targets import Compatibility, build_targets, gpu_name, here
from trtforge_plugins.tensorrt.engine_session import EngineSession
from trtforge_plugins.tensorrt.examination import findings
from trtforge_plugins.tensorrt.known_failures import causes, failure, refusal, remedies
from trtforge_plugins.tensorrt.library import Library, find, installed
from trtforge_plugins.tensorrt.lints import lint
from trtforge_plugins.tensorrt.model_checks import check_types, prepared
from trtforge_plugins.tensorrt.opening import opened
from trtforge_plugins.tensorrt.order import BuildOrder, Order, triples
from trtforge_plugins.tensorrt.plugin_nodes import Plugins, prove_plugins, with_plugins
from trtforge_plugins.tensorrt.profiles import NetworkInput
from trtforge_plugins.tensorrt.questions import ask, is_open
from trtforge_plugins.tensorrt.reproduction import script

Level = Literal[0, 1, 2, 3, 4, 5]


@dataclass(frozen=True)
class TensorRT(Backend):
    """Build an engine with TensorRT or TensorRT-RTX, in a process of its own.

    TensorRT-RTX builds one engine for all targets, on any machine. TensorRT 10 and 11 build for
    the GPU of this machine. Types are taken as the model has them.
    """

    name: ClassVar[str] = "tensorrt"

    flavor: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto"
    """Which library builds; auto: TensorRT-RTX where it is installed, else TensorRT."""
    optimization_level: Level | None = None
    """How long TensorRT searches for faster kernels, 0 to 5; left out: TensorRT's own default."""
    workspace: ByteSize | None = None
    """Largest scratch memory of the engine's layers; left out: all of the GPU's memory."""
    tactic_shared_memory: ByteSize | None = None
    """Largest shared memory that a kernel may use."""
    tactic_dram: ByteSize | None = None
    """Largest GPU memory that the search for kernels may use."""
    max_aux_streams: int | None = None
    """How many further CUDA streams the engine may use; left out: TensorRT decides."""
    hardware_compatibility: Compatibility = "none"
    """Other GPUs that an engine of TensorRT 10 or 11 shall also run on."""
    version_compatible: bool = False
    """Let the engine run on later versions of TensorRT too."""
    weight_streaming: bool = False
    """Let the runtime keep weights in host memory, for engines larger than the GPU's memory."""
    refit: bool = False
    """Let the engine's weights be exchanged later; TensorRT-RTX needs the target's GPU for it."""
    plugins: Literal["auto", "body"] | tuple[str, ...] = "auto"
    """Custom ops that run by their own CUDA kernel: ``auto``: each whose kernel compiles for all
    targets; ``body``: none, TensorRT builds their functions' bodies; or the ops' names."""
    tf32: bool = True
    """Allow TF32 for float32 convolutions and matrix products."""
    timing_cache: Path | None = None
    """File that keeps kernel timings from build to build; TensorRT-RTX keeps none."""
    file: str = ""
    """Name of the engine file in the run folder's engines/; empty: the model's name."""
    time_limit: float = 4 * 3600.0
    """Seconds after which the build is stopped."""
    memory_limit: ByteSize | None = None
    """Largest memory of the build process; left out: no limit."""
    ask_again: float = 60.0
    """Seconds for which TensorRT may be asked again, with one thing changed, where a failure of its
    fits several causes; 0: never."""
    log_level: Literal["error", "warning", "info", "verbose"] = "info"
    """Which of TensorRT's messages go to logs/tensorrt.log; verbose: all of them."""

    opens: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt_rtx")

    @classmethod
    def open_engine(cls, engine: EngineFile) -> EngineSession:
        """Return an engine that is ready to run on a GPU of this machine."""
        return opened(engine)

    def environment(self) -> Mapping[str, str]:
        """Return which TensorRT, which GPU and which tuned tactics decide the result."""
        library = next((each for each in installed() if self._fits(each)), None)
        device, tuning = gpu.current(), Tuning().digest()
        return {
            "tensorrt": library.title if library else "none",
            "gpu": f"{device.name}, sm_{device.sm}, {device.driver}" if device else "none",
            **({"tuning": tuning} if tuning else {}),
        }

    def warm_up(self) -> None:
        """Start the build process, which then imports TensorRT while other steps run.

        Raises:
            EnvironmentLacks: TensorRT is not installed.
        """
        self._worker.start()

    def build(self, model: ir.Model, ctx: Context) -> Engine:
        """Return the engine; ``model`` stays as it is.

        Raises:
            BuildError: TensorRT refuses the model or fails; all of its errors are in the message.
            WorkerError: TensorRT crashed, or passed a limit.
            RequestError: options, shapes, targets and model do not fit together.
            EnvironmentLacks: there is no TensorRT, or none or no GPU that can do it.
        """
        library = find(self.flavor)
        place = ctx.path("engines", engine_name(self.file, ctx.request.source))
        ready = prepared(model)
        targets = self._targets(library, ctx.request, ready)
        check_types(ready, targets)
        plugins = with_plugins(model, self.plugins, targets, ctx)
        if plugins.nodes:
            ready = prepared(plugins.model)
        with tempfile.TemporaryDirectory(prefix=".tensorrt-", dir=ctx.workdir) as scratch:
            order = _with_plugins(self._order(library, targets, ctx.request), plugins, targets, ctx)
            order = self._placed(order, library, Path(scratch), ctx)
            answer = self._call("build", order, ready, ctx, library)
            if answer["refused"]:
                raise refusal(answer["refused"], library.title, ctx)
            if answer["failed"]:
                raise failure(answer["failed"], answer["errors"], answer["warnings"])
            layers = _keep_layers(order, place, plugins) if answer["has_layers"] else None
            Path(order.engine).replace(place)
            if order.timing_cache is not None:
                put_in_place(Path(order.timing_cache_out), Path(order.timing_cache))
        return Engine(
            path=place,
            flavor=library.flavor,
            version=answer["version"],
            targets=tuple(target.name for target in targets),
            size=answer["size"],
            seconds=answer["seconds"],
            memory=Memory(**answer["memory"]),
            layer_dump=layers,
            events=tuple(answer["events"]),
            cuda=library.cuda,
            platform=this_platform(),
            gpu=gpu_name(library),
            hardware_compatibility=self.hardware_compatibility,
            version_compatible=self.version_compatible,
        )

    def explain(self, error: StepError, ctx: Context) -> None:
        """Find out what is at fault by building with one thing changed, and add it to ``error``."""
        if self.ask_again > 0 and is_open(error):
            ask(error, vars(self), ctx, self._build_changed, self.ask_again)

    def _build_changed(self, options: Mapping[str, Any], model: ir.Model, ctx: Context) -> Engine:
        return replace(self, timing_cache=None, **options).build(model, ctx)

    def examine(self, model: ir.Model, ctx: Context) -> Diagnosis:
        """Return what TensorRT's parser refuses of ``model``, and advice; nothing is built.

        Raises:
            EnvironmentLacks: TensorRT is not installed or does not load.
        """
        library = find(self.flavor)

        def parse(ready: ir.Model) -> Parsed:
            with tempfile.TemporaryDirectory(prefix=".tensorrt-", dir=ctx.workdir) as scratch:
                order = Order(library.flavor, str(Path(scratch) / "model.onnx"))
                answer = self._call("parse", order, ready, ctx, library)
            inputs = tuple(NetworkInput(**each) for each in answer["inputs"])
            return Parsed(library.title, answer["refused"], inputs, answer["targets"] or here())

        return Diagnosis(
            model=ctx.request.source,
            backend=f"{library.flavor} {library.version}",
            findings=(
                *findings(model, ctx.request, parse, ctx.ops),
                *lint(model, ctx.request),
            ),
        )

    def reproduction(self, model: ir.Model, file: str, request: Request) -> str:
        """Return a script of its own that builds ``file`` as this step does."""
        library = find(self.flavor)
        targets = self._targets(library, request, prepared(model))
        return script(replace(self._order(library, targets, request), model=file), library.version)

    def _call(
        self, function: str, order: Order, model: ir.Model, ctx: Context, library: Library
    ) -> dict[str, Any]:
        """Write the model where ``order`` says and have a function of the build job do it."""
        # Weights in a file of their own are mapped by TensorRT instead of parsed and copied.
        model_file.save(model, order.model, external_over=0)
        job = Job(
            f"{__package__}.build_job:{function}",
            asdict(order),
            f"the {function} by {library.title}",
            log=ctx.path("logs", "tensorrt.log"),
            time_limit=self.time_limit,
            memory_limit=self.memory_limit,
        )
        try:
            return self._worker.call(job, _Labelled(ctx.progress))
        except WorkerFailure as error:
            known = next(iter(causes([error.what])), None)
            if known is not None:
                error.code = known.rule.code
                error.remedy = f"{remedies(known.rule)}; {error.remedy}"
            raise

    @cached_property
    def _worker(self) -> Worker:
        library = find(self.flavor)
        imports = (library.flavor, f"{__package__}.build_job")
        return Worker(imports=imports, environment=library.variables())

    def _fits(self, library: Library) -> bool:
        return self.flavor in ("auto", library.flavor)

    def _targets(self, library: Library, request: Request, model: ir.Model) -> tuple[Target, ...]:
        return build_targets(library, request.targets, model, self.hardware_compatibility)

    def _order(self, library: Library, targets: Sequence[Target], request: Request) -> BuildOrder:
        limits = {
            "WORKSPACE": self.workspace,
            "TACTIC_SHARED_MEMORY": self.tactic_shared_memory,
            "TACTIC_DRAM": self.tactic_dram,
        }
        flags = {
            "VERSION_COMPATIBLE": self.version_compatible,
            "WEIGHT_STREAMING": self.weight_streaming,
            "REFIT": self.refit,
        }
        return BuildOrder(
            flavor=library.flavor,
            model="",
            log_level=self.log_level.upper(),
            profiles=[triples(profile) for profile in request.profiles],
            targets=[target.sm for target in targets] if library.flavor == "tensorrt_rtx" else [],
            optimization_level=self.optimization_level,
            pools={name: int(limit) for name, limit in limits.items() if limit is not None},
            flags={name: True for name, wanted in flags.items() if wanted} | {"TF32": self.tf32},
            hardware_compatibility=self.hardware_compatibility.upper(),
            max_aux_streams=self.max_aux_streams,
        )

    def _placed(
        self, order: BuildOrder, library: Library, scratch: Path, ctx: Context
    ) -> BuildOrder:
        """Return ``order`` with the files that it reads and writes."""
        return replace(
            order,
            model=str(scratch / "model.onnx"),
            engine=str(scratch / "engine"),
            layers=str(scratch / "layers"),
            timing_cache=timing_cache(self.timing_cache, library, ctx),
            timing_cache_out=str(scratch / "timing.cache"),
        )


class _Labelled:
    """Puts the step's name before the names of TensorRT's phases."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def update(self, label: str, done: int, total: int) -> None:
        self._progress.update(f"tensorrt: {label}", done, total)


def _with_plugins(
    order: BuildOrder, plugins: Plugins, targets: Sequence[Target], ctx: Context
) -> BuildOrder:
    """Return ``order`` with what the plugins among the model's nodes need."""
    return replace(
        order,
        ops=plugins.classes,
        ahead_of_time=plugins.ahead_of_time(ctx) if order.flavor == "tensorrt" else [],
        kernel_targets=[target.name for target in targets],
        kernel_store=str(default_root().absolute() / "kernels"),
        tuning=str(Tuning().root.absolute()),
    )


def _keep_layers(order: BuildOrder, engine: Path, plugins: Plugins) -> Path:
    """Move the layer list beside ``engine``, once it proves that the plugins are in it."""
    if plugins.nodes:
        text = Path(order.layers).read_text("utf-8", errors="replace")
        prove_plugins(plugins.nodes, parse_layers(text))
    return Path(order.layers).replace(engine.with_suffix(".layers.txt"))
