"""Step, the one concept of a recipe, and its kinds.

A step is a frozen dataclass; its fields are its options, the string under a field documents it,
and the class docstring is its help text. Authors need nothing else: options are validated, shown
by ``trtforge show`` and written into the JSON Schema from these facts alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from trtforge.artifacts import Artifact, Batches, Engine, Ranges, Timings
from trtforge.errors import StepError

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.context import Context, Request
    from trtforge.diagnosis import Diagnosis
    from trtforge.runtime.session import EngineFile, InferenceSession


@dataclass(frozen=True)
class Step(ABC):
    """One thing that a recipe can name."""

    name: ClassVar[str]
    """What a recipe says, in kebab-case: ``fuse-bias-gelu``."""
    needs: ClassVar[tuple[type[Artifact], ...]] = ()
    """Artifacts that an earlier step must give."""
    gives: ClassVar[tuple[type[Artifact], ...]] = ()
    """Artifacts that this step gives."""
    by_user: ClassVar[tuple[str, ...]] = ()
    """Options that make code run. A recipe may come from a stranger, so only the command line or
    the Python caller may set them."""
    checkpoint: ClassVar[bool] = True
    """Whether the result is worth a cache entry of its own; quick edits are cached together."""
    cacheable: ClassVar[bool] = True
    """False for steps that must run each time, for example measurements."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "arbitrary_types_allowed": True,
    }

    @abstractmethod
    def run(self, ctx: Context) -> int:
        """Do the work and return the number of changes made to the model."""

    def warm_up(self) -> None:  # noqa: B027  # optional: most steps have nothing to start
        """Start what takes long to start; the runner calls it while earlier steps still run."""

    def reads(self) -> Iterable[Path]:
        """Return the files whose content decides the result; the cache key includes them."""
        return ()

    def environment(self) -> Mapping[str, str]:
        """Return facts of this machine that decide the result, for example a library's version."""
        return {}


@dataclass(frozen=True)
class Pass(Step):
    """A rewrite of the graph, written with onnx-ir."""

    checkpoint: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Change ``model`` in place and return how many changes were made: 0 means untouched.

        The graph's inputs and outputs keep their names, types and order. Where a node is left
        alone although it looks like a candidate, ``ctx.note`` says why.
        """

    @final
    def run(self, ctx: Context) -> int:
        """Apply :meth:`rewrite` to the context's model."""
        return self.rewrite(ctx.model, ctx)


@dataclass(frozen=True)
class Calibrator(Step):
    """Runs the model on data and chooses a value range for each tensor that will be quantized."""

    needs: ClassVar[tuple[type[Artifact], ...]] = (Batches,)
    gives: ClassVar[tuple[type[Artifact], ...]] = (Ranges,)

    @abstractmethod
    def calibrate(self, model: ir.Model, batches: Batches, ctx: Context) -> Ranges:
        """Return the ranges; ``model`` stays as it is."""

    @final
    def run(self, ctx: Context) -> int:
        """Put the ranges into the context."""
        ctx.put(self.calibrate(ctx.model, ctx.get(Batches), ctx))
        return 0


@dataclass(frozen=True)
class Backend(Step):
    """Turns the model into an engine."""

    gives: ClassVar[tuple[type[Artifact], ...]] = (Engine,)

    @abstractmethod
    def build(self, model: ir.Model, ctx: Context) -> Engine:
        """Return the engine; ``model`` stays as it is.

        Raises:
            BuildError: the model was refused or the build failed.
        """

    def explain(self, error: StepError, ctx: Context) -> None:
        """Add to ``error``, with which :meth:`build` failed in a run, what else can be found out.

        ``build`` alone does not call it: a search that builds many models wants no explanation.
        """

    def examine(self, model: ir.Model, ctx: Context) -> Diagnosis:
        """Return what the backend would refuse of ``model``, without building.

        Raises:
            StepError: this backend cannot tell without building.
        """
        del model, ctx
        raise StepError(f"backend {self.name!r} cannot examine a model without building it")

    opens: ClassVar[tuple[str, ...]] = ()
    """Libraries whose engines :meth:`open_engine` runs: ``tensorrt``."""

    @classmethod
    def open_engine(cls, engine: EngineFile) -> InferenceSession:
        """Return an engine that is ready to run on a GPU of this machine.

        Raises:
            StepError: this backend runs no engines, or the library refuses this one.
            EnvironmentLacks: the library does not load here.
        """
        del engine
        raise StepError(f"backend {cls.name!r} runs no engines")

    def reproduction(self, model: ir.Model, file: str, request: Request) -> str:
        """Return a Python script that shows how building the model in ``file`` fails.

        It needs nothing but the backend's own library and onnx, and lies beside ``file``. Empty
        where this backend has none.
        """
        del model, file, request
        return ""

    @final
    def run(self, ctx: Context) -> int:
        """Put the engine into the context."""
        try:
            ctx.put(self.build(ctx.model, ctx))
        except StepError as error:
            self.explain(error, ctx)
            raise
        return 0


@dataclass(frozen=True)
class Profiler(Step):
    """Measures the engine, or the model where there is no engine yet."""

    gives: ClassVar[tuple[type[Artifact], ...]] = (Timings,)
    cacheable: ClassVar[bool] = False

    @abstractmethod
    def profile(self, model: ir.Model, engine: Engine | None, ctx: Context) -> Timings:
        """Return timings; ``model`` stays as it is."""

    @final
    def run(self, ctx: Context) -> int:
        """Put the timings into the context."""
        ctx.put(self.profile(ctx.model, ctx.find(Engine), ctx))
        return 0


@dataclass(frozen=True)
class Importer(Step):
    """Reads a model of some framework; chosen by the source unless a recipe names it."""

    checkpoint: ClassVar[bool] = True

    source: str = ""
    """The model; empty: the one that the recipe or the command names."""

    @classmethod
    @abstractmethod
    def accepts(cls, source: str) -> bool:
        """Whether ``source`` looks like one of this importer's models."""

    @abstractmethod
    def load(self, source: str, ctx: Context) -> ir.Model:
        """Return the model.

        Raises:
            ModelError: ``source`` cannot be read.
            EnvironmentLacks: the framework is not installed.
        """

    @final
    def run(self, ctx: Context) -> int:
        """Put the model into the context."""
        ctx.model = self.load(self.source or ctx.request.source, ctx)
        return 0
