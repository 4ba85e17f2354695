"""The Python interface: run a recipe, check a model, make a model convertible."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trtforge import frozen_inputs
from trtforge.artifacts import Batches, Comparison
from trtforge.context import Context
from trtforge.errors import RequestError, StepError, did_you_mean
from trtforge.host import Host
from trtforge.importing import as_onnx, empty_context, open_model
from trtforge.memory_plan import MemoryPlan
from trtforge.options import bind
from trtforge.quantities import ShapeRange
from trtforge.recipe import Recipe, Setting
from trtforge.recipe_reader import find, read
from trtforge.runner import Observer, PlannedStep, apply_stages
from trtforge.session import Run, RunOptions, Session, shape_range
from trtforge.steps import Backend
from trtforge.targets import read_target

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from trtforge.accuracy_bisection import Blame
    from trtforge.bisection import Reduced, Search
    from trtforge.diagnosis import Diagnosis


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
    session = Session.open(recipe, model, _options(options, more), host, observer)
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
    session = Session.open(recipe, model, _options(options, more), host, None)
    with TemporaryDirectory(prefix="trtforge-plan-") as folder:
        return session.recipe, session.plan(Path(folder))


def _options(options: RunOptions | None, more: Mapping[str, Any]) -> RunOptions:
    known = RunOptions.__dataclass_fields__
    for name in more:
        if name not in known:
            raise RequestError(f"run() has no option {name!r}. {did_you_mean(name, known)}")
    return replace(options or RunOptions(), **more)


def check(  # noqa: PLR0913  # each argument is one option of the command
    model: str | Path,
    *,
    targets: Sequence[str] = (),
    host: Host | None = None,
    after: bool = True,
    memory: bool = False,
    shapes: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Say what TensorRT would refuse of a model, before any build.

    Args:
        model: A model file, a folder, or ``package.module:factory``.
        targets: GPUs to judge for, as ``sm_89``; none: only what no GPU takes is found.
        host: The plugins; None: all that are installed.
        after: Whether to look again at what :func:`make_convertible` makes of it.
        memory: Whether to predict the engine's memory too.
        shapes: Shape, or shape range, of each dynamic input; the largest are planned.

    Raises:
        ModelError: the model cannot be read.
        RequestError: a shape cannot be read, or memory was asked for and no plugin predicts it.
        EnvironmentLacks: no TensorRT is installed.
    """
    host = host or Host()
    backend = _backend(host)
    with TemporaryDirectory(prefix="trtforge-check-") as folder:
        ctx = open_model(str(model), Path(folder), host)
        profile = _profile(shapes or {})
        ctx.request = replace(
            ctx.request,
            targets=tuple(map(read_target, targets)),
            profiles=(profile,) if profile else (),
        )
        examiner = backend()
        now = examiner.examine(ctx.model, ctx)
        if memory:
            now = _with_memory(now, ctx, host)
        if now.convertible or not after:
            return now
        _convert(ctx, host)
        left = examiner.examine(ctx.model, ctx).findings
        places = {(each.code, each.node) for each in left}
        findings = (
            replace(each, mended=(each.code, each.node) not in places) for each in now.findings
        )
        return replace(now, findings=tuple(findings), after=left)


def _profile(shapes: Mapping[str, object]) -> dict[str, ShapeRange]:
    """Read the shape, or the range, of each input; an error names the input."""
    return {name: shape_range(name, shape) for name, shape in shapes.items()}


def _with_memory(diagnosis: Diagnosis, ctx: Context, host: Host) -> Diagnosis:
    """Return ``diagnosis`` with the memory that is predicted of the model as it is."""
    planners = host.givers(MemoryPlan)
    if not planners:
        raise RequestError("no installed plugin predicts memory", remedy="pip install trtforge")
    try:
        host.run_step(host.steps[planners[0]](), ctx)
    except StepError as error:
        return replace(diagnosis, memory_problem=f"{error.what}; {error.remedy}".rstrip("; "))
    return replace(diagnosis, memory=ctx.get(MemoryPlan))


def bisect_build(
    model: str | Path,
    search: Search,
    *,
    options: RunOptions | None = None,
    host: Host | None = None,
) -> Reduced:
    """Find the smallest part of a model whose build fails as the model's does.

    Args:
        model: A model file, a folder, or ``package.module:factory``.
        search: Folder for the result, and how to look for it.
        options: Shapes, targets, and settings of the backend (``tensorrt.workspace=1GiB``).
        host: The plugins; None: all that are installed.

    Raises:
        RequestError: the model builds, or the options are wrong.
    """
    from trtforge.bisection import reduce_build

    host, options = host or Host(), options or RunOptions()
    backend = _backend(host)
    settings = [Setting.read(text) for text in options.settings]
    for setting in settings:
        if setting.step != backend.name:
            raise RequestError(f"--set {setting.text}: only options of {backend.name!r} count here")
    step = bind(backend, {each.option: each.value for each in settings}, f"step {backend.name!r}")
    profile = _profile(options.shapes or {})
    with TemporaryDirectory(prefix="trtforge-bisect-") as folder:
        ctx = open_model(str(model), Path(folder), host)
        request = replace(
            ctx.request,
            targets=tuple(map(read_target, options.targets)),
            profiles=(profile,) if profile else (),
        )
        return reduce_build(ctx.model, step, request, search)


def bisect_accuracy(
    model: str | Path,
    recipe: str | Path,
    *,
    options: RunOptions | None = None,
    host: Host | None = None,
) -> Blame:
    """Find the step of a recipe, and the nodes in it, that cost the accuracy. Builds nothing.

    Args:
        model: A model file, a folder, or ``package.module:factory``.
        recipe: A recipe file, or the name of one that ships; its ``require`` decides.
        options: Settings, shapes and targets.
        host: The plugins; None: all that are installed.

    Raises:
        RequestError: recipe, options or model are wrong.
        StepError: a step failed.
    """
    from trtforge.accuracy_bisection import blame

    host = host or Host()
    resolved = Session.open(recipe, model, options or RunOptions(), host, None).recipe
    with TemporaryDirectory(prefix="trtforge-bisect-") as folder:
        ctx = open_model(str(model), Path(folder), host)
        ctx.given = as_onnx(ctx, str(model))
        ctx.request = replace(ctx.request, profiles=resolved.profiles, targets=resolved.targets)
        return blame(resolved, ctx, host)


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
        data: Inputs: ``.npz``, ``.npy`` or a folder of them; None: made up from a seed. It needs
            no data for inputs that are frozen in ``actual``.
        host: The plugins; None: all that are installed.

    Raises:
        ModelError: a model cannot be read.
        DataError: the data do not fit the models.
    """
    host = host or Host()
    with TemporaryDirectory(prefix="trtforge-verify-") as folder:
        ctx = open_model(str(expected), Path(folder), host)
        ctx.given = as_onnx(ctx, str(expected))
        final = open_model(str(actual), Path(folder), host).model
        if data is not None:
            _drop_inputs(ctx.model, frozen_inputs.read(final.metadata_props))
            loader = host.steps[host.givers(Batches)[0]]
            host.run_step(bind(loader, {"path": data}, f"step {loader.name!r}"), ctx)
        ctx.model = final
        host.run_step(host.steps[host.givers(Comparison)[0]](), ctx)
        return ctx.get(Comparison)


def _drop_inputs(model: ir.Model, names: Collection[str]) -> None:
    """Make ``model`` one that asks for no data for the inputs ``names``."""
    for value in list(model.graph.inputs):
        if value.name in names:
            model.graph.inputs.remove(value)


def make_convertible(model: onnx.ModelProto, *, host: Host | None = None) -> onnx.ModelProto:
    """Return ``model`` rewritten so that TensorRT takes more of it, with equal outputs.

    The argument stays as it is. What cannot be rewritten is left alone.
    """
    import onnx_ir as ir

    host = host or Host()
    with TemporaryDirectory(prefix="trtforge-convert-") as folder:
        ctx = empty_context("model in memory", Path(folder), host)
        ctx.model = ir.from_proto(model)
        _convert(ctx, host)
        proto: onnx.ModelProto = ir.to_proto(ctx.model)
    return proto


def _convert(ctx: Context, host: Host) -> None:
    """Apply the recipe ``convert`` that ships."""
    stages = read(find("convert", host), host).stages
    apply_stages(stages, lambda _stage, step, _round: host.run_step(step, ctx))


def _backend(host: Host) -> type[Backend]:
    found = [cls for cls in host.steps.values() if issubclass(cls, Backend)]
    if not found:
        raise RequestError("no installed plugin offers a backend", remedy="pip install trtforge")
    return found[0]
