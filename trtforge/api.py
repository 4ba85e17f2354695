"""The Python interface: run a recipe, check a model, make a model convertible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trtforge.artifacts import Batches, Comparison, Engine, EngineLayers, PrecisionProof
from trtforge.context import Context, Request
from trtforge.errors import (
    EnvironmentLacks,
    ExitCode,
    ModelError,
    RequestError,
    TrtforgeError,
    did_you_mean,
)
from trtforge.host import Host
from trtforge.options import bind
from trtforge.quantities import ShapeRange
from trtforge.recipe import Recipe, Setting, Stage, find, read
from trtforge.run_folder import REPORT, RunFolder, default_folder
from trtforge.runner import Observer, PlannedStep, Runner, builds
from trtforge.steps import Backend, Importer
from trtforge.targets import read_target

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from trtforge.cache import StepCache
    from trtforge.diagnosis import Diagnosis
    from trtforge.report import Report

IMPORT = "import"


@dataclass(frozen=True)
class RunOptions:
    """How to run a recipe, beside the recipe itself."""

    out: Path | None = None
    """Run folder; None: ``runs/MODEL-RECIPE``."""
    settings: Sequence[str] = ()
    """``step.option=value`` texts that replace options of the recipe."""
    shapes: Mapping[str, object] | None = None
    """Shapes by input name; they replace those of the recipe."""
    targets: Sequence[str] = ()
    """GPUs to build for; they replace those of the recipe."""
    resume: bool = False
    """Continue the run in the folder."""
    verify_each: bool = False
    """Compare the model after every step and name the step that changed values."""
    use_cache: bool = True
    """Reuse and keep the results of steps."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    exit_code: ExitCode
    """0, or 1 when a requirement was missed."""
    missed: tuple[str, ...]
    """A sentence for each missed requirement."""
    report: Report
    model: Path
    """The final ONNX model."""
    engine: Engine | None
    layers: int | None
    """Number of the engine's layers."""
    comparison: Comparison | None
    proof: PrecisionProof | None


def run(
    recipe: str | Path,
    model: str | Path | None = None,
    *,
    options: RunOptions | None = None,
    host: Host | None = None,
    observer: Observer | None = None,
    **more: Any,
) -> Run:
    """Run a recipe on a model.

    Args:
        recipe: A recipe file, or the name of a recipe that ships: ``"fp16"``.
        model: A model file, a folder, or ``package.module:factory``; None: the recipe's own.
        options: How to run; fields of :class:`RunOptions` may be given by name instead, for
            example ``run("fp16", "m.onnx", out=Path("result"))``.
        host: The plugins; None: all that are installed.
        observer: Is told of every step; None: nobody.
        **more: Fields of :class:`RunOptions`.

    Raises:
        RequestError: recipe, options or model are wrong; nothing was run.
        StepError: a step or TensorRT failed.
    """
    session = _Session.open(recipe, model, _options(options, more), host, observer)
    return session.run()


def plan(
    recipe: str | Path,
    model: str | Path | None = None,
    *,
    options: RunOptions | None = None,
    host: Host | None = None,
    **more: Any,
) -> tuple[Recipe, list[PlannedStep]]:
    """Return the resolved recipe and what :func:`run` would do; only the import is done.

    Raises:
        RequestError: recipe, options or model are wrong.
    """
    session = _Session.open(recipe, model, _options(options, more), host, None)
    with TemporaryDirectory(prefix="trtforge-plan-") as folder:
        return session.recipe, session.plan(Path(folder))


def _options(options: RunOptions | None, more: Mapping[str, Any]) -> RunOptions:
    known = RunOptions.__dataclass_fields__
    for name in more:
        if name not in known:
            raise RequestError(f"run() has no option {name!r}. {did_you_mean(name, known)}")
    return replace(options or RunOptions(), **more)


def check(model: str | Path, *, host: Host | None = None, after: bool = True) -> Diagnosis:
    """Say what TensorRT would refuse of a model, before any build.

    Args:
        model: A model file, a folder, or ``package.module:factory``.
        host: The plugins; None: all that are installed.
        after: Whether to look again at what :func:`make_convertible` makes of it.

    Raises:
        ModelError: the model cannot be read.
        EnvironmentLacks: no TensorRT is installed.
    """
    host = host or Host()
    backend = _backend(host)
    with TemporaryDirectory(prefix="trtforge-check-") as folder:
        ctx = open_model(str(model), Path(folder), host)
        now = backend().examine(ctx.model, ctx)
        if not now.findings or not after:
            return now
        _convert(ctx, host)
        return replace(now, after=backend().examine(ctx.model, ctx).findings)


def verify(
    expected: str | Path,
    actual: str | Path,
    data: Path | None = None,
    *,
    host: Host | None = None,
) -> Comparison:
    """Compare the outputs of two models on the same inputs.

    Args:
        expected: The model that is right.
        actual: The model to hold against it.
        data: Inputs: ``.npz``, ``.npy`` or a folder of them; None: made up from a seed.
        host: The plugins; None: all that are installed.

    Raises:
        ModelError: a model cannot be read.
        DataError: the data do not fit the models.
    """
    host = host or Host()
    with TemporaryDirectory(prefix="trtforge-verify-") as folder:
        ctx = open_model(str(expected), Path(folder), host)
        ctx.given = _as_onnx(ctx, str(expected))
        if data is not None:
            loader = host.steps[host.givers(Batches)[0]]
            host.run_step(bind(loader, {"path": data}, f"step {loader.name!r}"), ctx)
        host.run_step(_importer(str(actual), host), ctx)
        host.run_step(host.steps[host.givers(Comparison)[0]](), ctx)
        return ctx.get(Comparison)


def make_convertible(model: onnx.ModelProto, *, host: Host | None = None) -> onnx.ModelProto:
    """Return ``model`` rewritten so that TensorRT takes more of it, with equal outputs.

    The argument stays as it is. What cannot be rewritten is left alone.
    """
    import onnx_ir as ir

    host = host or Host()
    with TemporaryDirectory(prefix="trtforge-convert-") as folder:
        ctx = _context("model in memory", Path(folder), host)
        ctx.model = ir.from_proto(model)
        _convert(ctx, host)
        proto: onnx.ModelProto = ir.to_proto(ctx.model)
    return proto


def _convert(ctx: Context, host: Host) -> None:
    """Apply the recipe ``convert`` that ships."""
    recipe = read(find("convert", host), host)
    for stage in recipe.stages:
        for _ in range(stage.repeat):
            if not sum([host.run_step(step, ctx) for step in stage.steps]):
                break


def _backend(host: Host) -> type[Backend]:
    found = [cls for cls in host.steps.values() if issubclass(cls, Backend)]
    if not found:
        raise RequestError("no installed plugin offers a backend", remedy="pip install trtforge")
    return found[0]


def _context(source: str, workdir: Path, host: Host) -> Context:
    return Context(model=_no_model(), workdir=workdir, request=Request(source=source), ops=host.ops)


def open_model(source: str, workdir: Path, host: Host) -> Context:
    """Return a context with the model ``source`` in it, outside any run.

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    ctx = _context(source, workdir, host)
    host.run_step(_importer(source, host), ctx)
    return ctx


def _importer(source: str, host: Host) -> Importer:
    cls = host.importer(source)
    if cls is None:
        exists = "is no model that trtforge knows" if Path(source).exists() else "does not exist"
        raise ModelError(
            f"the model {source!r} {exists}",
            remedy="give an .onnx file, a folder with one, a .pt2 file, a SavedModel, or "
            "package.module:factory",
        )
    return cls(source=source)


def _no_model() -> ir.Model:
    import onnx_ir as ir

    return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 1}), ir_version=10)


def _comparing(host: Host) -> tuple[Stage, ...]:
    """Return the last stage of recipes that do not compare by themselves: every run compares."""
    givers = host.givers(Comparison)
    return (Stage("compare", (host.steps[givers[0]](),)),) if givers else ()


def _as_onnx(ctx: Context, source: str) -> Path:
    """Return the model that was imported from ``source`` as an ONNX file."""
    from trtforge import model_file

    if Path(source).suffix == ".onnx" or Path(source).is_dir():
        with suppress(ModelError):  # a SavedModel is a folder too, with no ONNX file in it
            return model_file.find(source).resolve()
    path = ctx.path("given", "model.onnx")
    model_file.save(ctx.model, path)
    return path


class _Session:
    """One call of :func:`run`: its recipe, host and options, resolved."""

    def __init__(
        self,
        recipe: Recipe,
        source: str,
        host: Host,
        options: RunOptions,
        observer: Observer,
    ) -> None:
        self.recipe = recipe
        self._source = source
        self._host = host
        self._options = options
        self._observer = observer

    @classmethod
    def open(
        cls,
        recipe: str | Path,
        model: str | Path | None,
        options: RunOptions,
        host: Host | None,
        observer: Observer | None,
    ) -> _Session:
        from trtforge.terminal import Quiet

        host = host or Host()
        settings = [Setting.read(text) for text in options.settings]
        resolved = read(find(str(recipe), host), host, settings)
        source = str(model) if model is not None else resolved.model
        if source is None:
            raise RequestError(
                f"the recipe {resolved.name!r} names no model", remedy="give one with --model"
            )
        resolved = _with_options(resolved, options)
        if not any(Comparison in step.gives for step in resolved.steps):
            resolved = replace(resolved, stages=(*resolved.stages, *_comparing(host)))
        if not any(isinstance(step, Importer) for step in resolved.steps):
            importing = Stage(IMPORT, (_importer(source, host),))
            resolved = replace(resolved, stages=(importing, *resolved.stages))
        return cls(resolved, source, host, options, observer or Quiet())

    @property
    def _request(self) -> Request:
        return Request(
            source=self._source,
            profiles=self.recipe.profiles,
            targets=self.recipe.targets,
            require=self.recipe.require,
            verify_each=self._options.verify_each,
        )

    def _context(self, workdir: Path) -> Context:
        return Context(
            model=_no_model(),
            workdir=workdir,
            request=self._request,
            ops=self._host.ops,
            progress=self._observer,
        )

    def _runner(self, cache: StepCache | None, imported: Callable[[Context], None]) -> Runner:
        return Runner(self._host, cache, self._observer, imported)

    def _cache(self) -> StepCache | None:
        from trtforge.cache import StepCache, default_root, known_artifacts

        if not self._options.use_cache or self._options.verify_each:
            return None  # a step that comes from the cache cannot be verified
        return StepCache(default_root(), known_artifacts(self._host.steps.values()))

    def _imported(self, ctx: Context) -> None:
        from trtforge.request_check import check_profiles

        ctx.given = _as_onnx(ctx, self._source)
        check_profiles(ctx.model, ctx.request, will_build=builds(self.recipe))

    def plan(self, workdir: Path) -> list[PlannedStep]:
        return self._runner(self._cache(), self._imported).plan(self.recipe, self._context(workdir))

    def run(self) -> Run:
        options = self._options
        out = options.out or default_folder(self._source, self.recipe.name, resume=options.resume)
        folder = RunFolder(out)
        with folder.claim(self._source, self.recipe.name, resume=options.resume):
            return self._run(folder)

    def _run(self, folder: RunFolder) -> Run:
        from trtforge.evidence import MODEL, Evidence

        ctx = self._context(folder.path)

        def imported(ctx: Context) -> None:
            self._imported(ctx)
            (folder.path / REPORT).unlink(missing_ok=True)  # of the run that is resumed
            evidence.imported()

        cache = self._cache()
        runner = self._runner(cache, imported)
        evidence = Evidence(folder, self.recipe, ctx, runner.records)
        try:
            runner.run(self.recipe, ctx)
        except TrtforgeError as error:
            refused = isinstance(error, RequestError | EnvironmentLacks)
            if refused and len(runner.records) <= 1:  # nothing ran but the import
                folder.discard()
            else:
                evidence.write_failure(error)
            raise
        report, sentences = evidence.write()
        if cache is not None:
            with suppress(OSError):  # a cache that may only be read
                cache.prune()
        layers = ctx.find(EngineLayers)
        return Run(
            folder=folder.path,
            exit_code=ExitCode(report.verdict.exit_code),
            missed=sentences,
            report=report,
            model=folder.path / MODEL,
            engine=ctx.find(Engine),
            layers=len(layers.layers) if layers else None,
            comparison=ctx.find(Comparison),
            proof=ctx.find(PrecisionProof),
        )


def _shape_range(name: str, shape: object) -> ShapeRange:
    try:
        return ShapeRange.read(shape)
    except RequestError as error:
        error.at(f"shape of input {name!r}")
        raise


def _with_options(recipe: Recipe, options: RunOptions) -> Recipe:
    """Return ``recipe`` with the shapes and targets of ``options``, where they are given."""
    if options.shapes:
        profile = {name: _shape_range(name, shape) for name, shape in options.shapes.items()}
        recipe = replace(recipe, profiles=(profile,))
    if options.targets:
        recipe = replace(recipe, targets=tuple(map(read_target, options.targets)))
    return recipe
