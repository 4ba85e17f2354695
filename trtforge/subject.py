"""What ``profile`` and ``diff`` look at: a run, an engine, a dump of its layers, or a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtforge.analysis import Advice, Prediction
from trtforge.artifacts import Engine, EngineLayers, Timings
from trtforge.errors import DataError, EnvironmentLacks, RequestError, StepError
from trtforge.evidence import MODEL, read_report
from trtforge.importing import empty_context, open_model
from trtforge.options import bind
from trtforge.quantities import ShapeRange
from trtforge.run_folder import REPORT
from trtforge.timing_files import timings_beside, timings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtforge.artifacts import Artifact
    from trtforge.context import Context
    from trtforge.host import Host
    from trtforge.report import Report
    from trtforge.steps import Step

DUMP = ".layers.txt"
_ENGINES = (".engine", ".plan", ".trt")
_DUMPS = (".txt", ".json")
NO_ADVICE = Advice((), "predicted")


@dataclass(frozen=True)
class Subject:
    """What is known of one thing to look at."""

    title: str
    prediction: Prediction
    engine: Engine | None = None
    timings: Timings | None = None
    """Measured times, where there are some."""
    advice: Advice = NO_ADVICE

    def layer_times(self) -> dict[str, float]:
        """Return the measured milliseconds of each layer or node; those of one name are added."""
        times: dict[str, float] = {}
        for layer in self.timings.layers if self.timings else ():
            times[layer.name] = times.get(layer.name, 0.0) + layer.median_ms
        return times


def open_subject(  # noqa: PLR0913  # what to look at, and what is known of it
    source: Path,
    host: Host,
    *,
    model: str = "",
    device: str = "",
    shapes: Mapping[str, ShapeRange] | None = None,
    times: Sequence[Path] = (),
) -> Subject:
    """Read ``source`` and count what it costs.

    Args:
        source: The folder of a run, an engine with its layer dump beside it (``NAME.layers.txt``),
            a layer dump of TensorRT, or a model.
        host: The plugins that read and count.
        model: The model behind an engine or dump; empty: the ``model.onnx`` of the run around it,
            else none, and then only memory is counted.
        device: A GPU of the table; empty: by the engine's target.
        shapes: Replaces the shapes of open dimensions; their ``opt`` counts.
        times: Files of measured times (:mod:`trtforge.timing_files`): one, or one of whole runs and
            one of layers. None given: those beside the layer dump, then those of the run.

    Raises:
        RequestError: it is none of these, or the device is not in the table.
        DataError: the layer dump, or a file of measured times, cannot be read.
    """
    report, engine = known(source)
    if not source.exists():
        raise RequestError(f"{source} does not exist", remedy="give a run, an engine or a model")
    with TemporaryDirectory(prefix="trtforge-look-") as scratch:
        given = model or _model_of(source, engine)
        work = Path(scratch)
        ctx = open_model(given, work, host) if given else empty_context("", work, host)
        ctx.request = replace(ctx.request, profiles=_profiles(report, shapes))
        if engine is not None:
            ctx.put(engine)
            _read_layers(host, ctx)
        host.run_step(bind(_giver(host, Prediction), {"device": device}, "--device"), ctx)
        timings = _timings(times, report, engine)
        if timings is not None:
            ctx.put(timings)
        host.run_step(bind(_giver(host, Advice), {}, "advice"), ctx)
        return Subject(str(source), ctx.get(Prediction), engine, timings, ctx.get(Advice))


def _read_layers(host: Host, ctx: Context) -> None:
    try:
        host.run_step(bind(_giver(host, EngineLayers), {}, "layers"), ctx)
    except StepError as error:  # here it is the user's file, not what a step made
        remedy = "give the layer list that the tensorrt step or trtexec --exportLayerInfo wrote"
        raise DataError(error.what, where=error.where, remedy=remedy) from error


def _timings(files: Sequence[Path], report: Report | None, engine: Engine | None) -> Timings | None:
    if files:
        return timings_of(files)
    beside = timings_beside(engine.layer_dump) if engine and engine.layer_dump else None
    return beside or (report.timings if report else None)


def _giver(host: Host, artifact: type[Artifact]) -> type[Step]:
    """Return the step that gives ``artifact`` and nothing else."""
    found = [host.steps[name] for name in host.givers(artifact)]
    alone = [step for step in found if step.gives == (artifact,)]
    if not alone:
        raise EnvironmentLacks(
            f"no installed plugin gives {artifact.__name__}", remedy="pip install trtforge"
        )
    return alone[0]


def known(source: Path) -> tuple[Report | None, Engine | None]:
    """Return the report of a run and the engine, as far as ``source`` has them.

    Raises:
        DataError: the report cannot be read.
        RequestError: it is an engine without a layer dump beside it.
    """
    report: Report | None
    if (source / REPORT).is_file():
        report = read_report(source)
        return report, next((_in_folder(source, each) for each in report.engines), None)
    if source.suffix in _ENGINES:
        dump = source.with_suffix(DUMP)
        if not dump.is_file():
            raise RequestError(
                f"{source}: there is no layer dump {dump.name} beside it",
                remedy="build with the tensorrt step, or give the JSON of the engine inspector",
            )
        around = source.parent.parent
        report = read_report(around) if (around / REPORT).is_file() else None
        return report, _engine(source, dump)
    if source.suffix in _DUMPS:
        return None, _engine(source, source)
    return None, None


def _engine(path: Path, dump: Path) -> Engine:
    size = path.stat().st_size if path.is_file() and path != dump else 0
    return Engine(path, "other", "", (), size, 0.0, layer_dump=dump)


def _in_folder(folder: Path, engine: Engine) -> Engine | None:
    """Return ``engine`` where it lies now: a run folder may have been moved."""
    path = folder / "engines" / engine.path.name
    dump = path.with_suffix(DUMP)
    return replace(engine, path=path, layer_dump=dump) if dump.is_file() else None


def _model_of(source: Path, engine: Engine | None) -> str:
    if (source / REPORT).is_file():
        return str(source / MODEL)
    if engine is None:
        return str(source)
    beside = source.parent.parent / MODEL
    return str(beside) if beside.is_file() else ""


def _profiles(
    report: Report | None, shapes: Mapping[str, ShapeRange] | None
) -> tuple[Mapping[str, ShapeRange], ...]:
    if shapes:
        return (shapes,)
    if report is None:
        return ()
    return tuple(
        {name: ShapeRange.read(text) for name, text in profile.items()}
        for profile in report.request.profiles
    )
