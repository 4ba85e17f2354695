"""Gathers what goes into a bundle: from a run that goes on, or from folders of finished runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge import frozen_inputs, io_adapter, model_file, recipe_document
from trtforge.artifacts import Engine, Ranges
from trtforge.bundle.manifest import TensorEntry
from trtforge.environment import environment
from trtforge.errors import RequestError
from trtforge.evidence import MODEL, read_ranges, read_report
from trtforge.report import Report, Verdict, make_report, summarize_value

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.context import Context

RUNNER_METADATA = (io_adapter.KEY, frozen_inputs.KEY)


@dataclass(frozen=True)
class Interface:
    """What a runner must know of the model without reading it."""

    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]
    """Entries of the model's metadata about changed types and frozen inputs."""

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        """Read it off a model."""
        kept = {k: model.metadata_props[k] for k in RUNNER_METADATA if k in model.metadata_props}
        return cls(
            tuple(map(_tensor, model.graph.inputs)), tuple(map(_tensor, model.graph.outputs)), kept
        )


@dataclass(frozen=True)
class Contents:
    """What one bundle shall hold."""

    name: str
    """Of the model."""
    model: Path
    """The ONNX model file that the engines were built from."""
    interface: Interface
    reports: tuple[Report, ...]
    """One for each run; each brings its engines."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    ranges: Ranges | None = None
    licenses: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    """Files beside the model that hold its large weights."""
    with_model: bool = True
    """Whether the ONNX model goes along; without it engines cannot be rebuilt."""

    @property
    def engines(self) -> tuple[tuple[Engine, Report], ...]:
        """Every engine with the report that it comes from."""
        return tuple((engine, report) for report in self.reports for engine in report.engines)


def of_runs(
    folders: Sequence[Path], *, licenses: Iterable[Path] = (), with_model: bool = True
) -> Contents:
    """Return the contents of finished runs of one recipe on one model, for example on other GPUs.

    The model and the recipe are those of the first run; rebuilds start from them.

    Raises:
        RequestError: a folder holds no run that ended well, or the runs are of other models.
    """
    reports = tuple(map(_report, folders))
    first = folders[0]
    different = [
        folder
        for folder, report in zip(folders, reports, strict=True)
        if report.final is None or _interface(report) != _interface(reports[0])
    ]
    if different:
        raise RequestError(
            f"{different[0]} is a run of another model than {first}: inputs or outputs differ",
            remedy="bundle runs of one model",
        )
    model = model_file.load(first / MODEL)
    return Contents(
        name=Path(reports[0].request.source).stem,
        model=first / MODEL,
        data=model_file.data_files(model),
        interface=Interface.of(model),
        reports=reports,
        recipe=_recipe(first),
        ranges=read_ranges(first),
        licenses=tuple(licenses),
        with_model=with_model,
    )


def of_context(
    ctx: Context, model: Path, licenses: Iterable[Path], *, with_model: bool
) -> Contents:
    """Return the contents of the run that goes on, whose model was saved at ``model``.

    Nothing else lies in the model's folder.
    """
    recipe = _recipe(ctx.workdir)
    report = make_report(
        ctx, (), recipe="", verdict=Verdict(0), environment=environment(), given=None
    )
    return Contents(
        name=Path(ctx.request.source).stem,
        model=model,
        data=tuple(model.parent.glob("*.data")),
        interface=Interface.of(ctx.model),
        reports=(report,),
        recipe=recipe,
        ranges=ctx.find(Ranges),
        licenses=tuple(licenses),
        with_model=with_model,
    )


def _interface(report: Report) -> tuple[Any, ...]:
    return (report.final.inputs, report.final.outputs) if report.final else ()


def _report(folder: Path) -> Report:
    report = read_report(folder)
    if report.verdict.error or not report.engines:
        why = f"failed: {report.verdict.error}" if report.verdict.error else "built no engine"
        raise RequestError(
            f"the run in {folder} {why}", remedy="run a recipe that builds, and bundle that run"
        )
    places = [folder / "engines" / engine.path.name for engine in report.engines]
    for place in places:
        if not place.is_file():
            raise RequestError(
                f"the engine {place} of the run is not there any more",
                remedy="run the recipe again",
            )
    engines = zip(report.engines, places, strict=True)
    return replace(report, engines=tuple(replace(engine, path=place) for engine, place in engines))


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / recipe_document.FILE).read_bytes()))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"the run in {folder} has no readable {recipe_document.FILE}",
            remedy="run the recipe again with this trtforge",
        ) from error


def _tensor(value: ir.Value) -> TensorEntry:
    summary = summarize_value(value)
    dims = None
    if value.shape is not None:
        dims = tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape)
    return TensorEntry(summary.name, summary.dtype, summary.shape, dims)
