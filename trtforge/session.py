"""One run of a recipe: its options, its folder, its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge import recipe_document
from trtforge.artifacts import Comparison, Engine, EngineLayers, PrecisionProof
from trtforge.context import Context, Request
from trtforge.errors import EnvironmentLacks, ExitCode, RequestError, TrtforgeError
from trtforge.host import Host
from trtforge.importing import as_onnx, importer_of, no_model
from trtforge.quantities import ShapeRange
from trtforge.recipe import Recipe, Setting, Stage
from trtforge.recipe_reader import find, read
from trtforge.run_folder import REPORT, RunFolder, default_folder
from trtforge.runner import Observer, PlannedStep, Runner, builds
from trtforge.steps import Importer
from trtforge.targets import read_target

if TYPE_CHECKING:
    from trtforge.cache import StepCache
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
    compare: bool = True
    """Compare the result with the given model at the end, where the recipe has no such step."""
    log: Path | None = None
    """Where to copy what builders logged, also of a run that fails."""


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


class Session:
    """A recipe, its model, host and options, resolved and ready to run."""

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
    ) -> Session:
        """Read the recipe, find the importer, and complete the stages.

        Raises:
            RequestError: recipe, options or model are wrong.
        """
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
        if options.compare and not any(Comparison in step.gives for step in resolved.steps):
            resolved = replace(resolved, stages=(*resolved.stages, *_comparing(host)))
        if not any(isinstance(step, Importer) for step in resolved.steps):
            importing = Stage(IMPORT, (importer_of(source, host),))
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
            model=no_model(),
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

        ctx.given = as_onnx(ctx, self._source)
        check_profiles(ctx.model, ctx.request, will_build=builds(self.recipe))

    def plan(self, workdir: Path) -> list[PlannedStep]:
        """Return what :meth:`run` would do; the model is imported into ``workdir``."""
        return self._runner(self._cache(), self._imported).plan(self.recipe, self._context(workdir))

    def run(self) -> Run:
        """Run it in its folder and return the result."""
        options = self._options
        if options.log is not None and options.log.is_dir():
            raise RequestError(f"--log {options.log} is a folder", remedy="give a file in it")
        out = options.out or default_folder(self._source, self.recipe.name, resume=options.resume)
        folder = RunFolder(out)
        with folder.claim(self._source, self.recipe.name, resume=options.resume):
            try:
                return self._run(folder)
            finally:
                if options.log is not None and not folder.copy_logs(options.log):
                    self._observer.message(
                        f"Nothing was logged for {options.log}: no step built an engine anew "
                        "(--no-cache builds again)"
                    )

    def _run(self, folder: RunFolder) -> Run:
        from trtforge.evidence import MODEL, Evidence

        ctx = self._context(folder.path)

        def imported(ctx: Context) -> None:
            self._imported(ctx)
            folder.remove(REPORT)  # of the run that is resumed
            folder.write(recipe_document.FILE, recipe_document.text(self.recipe))
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


def _comparing(host: Host) -> tuple[Stage, ...]:
    """Return the last stage of recipes that do not compare by themselves: every run compares."""
    givers = host.givers(Comparison)
    return (Stage("compare", (host.steps[givers[0]](),)),) if givers else ()


def shape_range(name: str, shape: object) -> ShapeRange:
    """Read the shape, or the range, of an input; an error names it."""
    try:
        return ShapeRange.read(shape)
    except RequestError as error:
        error.at(f"shape of input {name!r}")
        raise


def _with_options(recipe: Recipe, options: RunOptions) -> Recipe:
    """Return ``recipe`` with the shapes and targets of ``options``, where they are given."""
    if options.shapes:
        profile = {name: shape_range(name, shape) for name, shape in options.shapes.items()}
        recipe = replace(recipe, profiles=(profile,))
    if options.targets:
        recipe = replace(recipe, targets=tuple(map(read_target, options.targets)))
    return recipe
