"""What a run did and found, as data: the content of ``report.json``.

The JSON Schema is made from these classes. JSON has no infinity, so a number that is not finite
(the SQNR of equal outputs) is written as ``"Infinity"``, ``"-Infinity"`` or ``"NaN"``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trtforge.analysis import Advice, Prediction
from trtforge.artifacts import (
    CastTo,
    Comparison,
    Engine,
    EngineLayers,
    Figures,
    PrecisionProof,
    Timings,
)
from trtforge.chain import Chain
from trtforge.environment import Environment
from trtforge.errors import DataError
from trtforge.graph_summary import GraphSummary, summarize_graph
from trtforge.memory_plan import MemoryPlan
from trtforge.records import StepRecord
from trtforge.statistics import Sensitivity
from trtforge.statistics_report import StatisticsSummary, summarize_statistics

if TYPE_CHECKING:
    import onnx_ir as ir
    from pydantic import TypeAdapter

    from trtforge.context import Context, Request

VERSION: Literal[1] = 1
NON_FINITE = ("Infinity", "-Infinity", "NaN")
_DOCUMENTED: dict[str, Any] = {"use_attribute_docstrings": True, "extra": "forbid"}


@dataclass(frozen=True)
class TensorSummary:
    """An input or output of a model."""

    name: str
    dtype: str
    shape: str


@dataclass(frozen=True)
class ModelSummary:
    """A model in figures."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    nodes: int
    """Nodes in all graphs and functions."""
    nodes_by_op: Mapping[str, int]
    """Number of nodes by operator, most frequent first; other domains than ONNX's are named."""
    parameters: int
    """Elements of all constant tensors."""
    parameter_bytes: int
    """Bytes of all constant tensors."""
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]


@dataclass(frozen=True)
class LayersSummary:
    """The engine's layers in figures."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    total: int
    by_kind: Mapping[str, int]
    """TensorRT's word for the layer, most frequent first."""
    by_output_type: Mapping[str, int]
    """Type of the layer's first output."""


@dataclass(frozen=True)
class RequestSummary:
    """What was asked for, as text."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    source: str
    """The model as the user named it."""
    recipe: str
    profiles: tuple[Mapping[str, str], ...]
    """Optimization profiles: shape range by input."""
    targets: tuple[str, ...]
    require: Mapping[str, str | float | bool]
    """Requirements that were stated."""


@dataclass(frozen=True)
class Verdict:
    """How the run ended."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    exit_code: int
    """0 done as asked, 1 a requirement was missed, 2 to 4 it failed."""
    missed: tuple[str, ...] = ()
    """A sentence for each missed requirement."""
    error: str = ""
    """Why the run failed; empty when it did not."""
    code: str = ""
    """The word of docs/findings.md for what is wrong; empty when nothing is."""
    remedies: tuple[str, ...] = ()
    """What to do about the missed requirements; that of a failure is in ``error``."""


@dataclass(frozen=True)
class StageSummary:
    """A stage with the steps that ran in it."""

    name: str
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class Report:
    """Everything a run has to show for its claims."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    trtforge: str
    """Version of trtforge."""
    created: str
    """Time of writing: UTC, ISO 8601."""
    verdict: Verdict
    request: RequestSummary
    environment: Environment
    given: ModelSummary | None
    """The model as it was given; null when it could not be read."""
    final: ModelSummary | None
    stages: tuple[StageSummary, ...]
    engines: tuple[Engine, ...] = ()
    """The engine; of a model that was split, the engines of its parts, in their order."""
    layers: LayersSummary | None = None
    precision: PrecisionProof | None = None
    comparison: Comparison | None = None
    cast: CastTo | None = None
    """What stays in float32 beside the lower type, and how many Casts that takes."""
    statistics: StatisticsSummary | None = None
    """The activations that can be quantized, as the calibration data showed them."""
    sensitivity: Sensitivity | None = None
    """What the search for the nodes to keep in high precision measured."""
    timings: Timings | None = None
    advice: Advice | None = None
    prediction: Prediction | None = None
    """What the engine must cost at least, by counting, and the nodes behind each layer."""
    graph: GraphSummary | None = None
    """The final model's main graph; null where it is too large to be drawn."""
    chain: Chain | None = None
    """The parts, where the model was split."""
    memory_plan: MemoryPlan | None = None
    """What the engine was predicted to need before it was built; ``engines`` has what it needs."""
    figures: Mapping[str, float] = field(default_factory=dict)
    version: Literal[1] = VERSION
    """Of this format."""

    def to_json(self) -> str:
        """Return the report as JSON that :func:`report_schema` describes."""
        from pydantic_core import to_jsonable_python

        data = finite(to_jsonable_python(self))  # needs no schema, which takes long to make
        return json.dumps(data, indent=2, allow_nan=False) + "\n"


def read_report(text: str | bytes) -> Report:
    """Read what :meth:`Report.to_json` wrote.

    Raises:
        DataError: it is no report, or one of another format version.
    """
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"this is no report of trtforge: {place}: {first['msg']}",
            remedy="give the report.json of a run, or run the recipe again",
        ) from error


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``report.json``."""
    schema = _adapter().json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "trtforge report"
    described: dict[str, Any] = with_non_finite(schema)
    return described


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Report]:
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def finite(value: Any) -> Any:
    """Return JSON data with the numbers that JSON has not replaced by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else NON_FINITE[value < 0]
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def with_non_finite(schema: Any) -> Any:
    """Allow the names of :data:`NON_FINITE` wherever the schema has a number."""
    if isinstance(schema, list):
        return [with_non_finite(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        rest = {key: entry for key, entry in schema.items() if key != "type"}
        return {**rest, "anyOf": [{"type": "number"}, {"enum": list(NON_FINITE)}]}
    return {key: with_non_finite(entry) for key, entry in schema.items()}


def make_report(  # noqa: PLR0913  # what only the runner knows; all else is in the context
    ctx: Context,
    records: Iterable[StepRecord],
    *,
    recipe: str,
    verdict: Verdict,
    environment: Environment,
    given: ModelSummary | None,
) -> Report:
    """Return the report of a run that ended with ``ctx``."""
    from trtforge import __version__

    engine, layers, figures = ctx.find(Engine), ctx.find(EngineLayers), ctx.find(Figures)
    chain = ctx.find(Chain)
    return Report(
        trtforge=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=verdict,
        request=summarize_request(ctx.request, recipe),
        environment=environment,
        given=given,
        final=summarize_model(ctx.model) if given else None,
        stages=group_stages(records),
        engines=chain.engines if chain else (engine,) if engine else (),
        layers=summarize_layers(layers) if layers else None,
        precision=ctx.find(PrecisionProof),
        comparison=ctx.find(Comparison),
        cast=ctx.find(CastTo),
        statistics=summarize_statistics(ctx),
        sensitivity=ctx.find(Sensitivity),
        timings=ctx.find(Timings),
        advice=ctx.find(Advice),
        prediction=ctx.find(Prediction),
        graph=summarize_graph(ctx.model) if given else None,
        chain=chain,
        memory_plan=ctx.find(MemoryPlan),
        figures=dict(figures.values) if figures else {},
    )


def summarize_model(model: ir.Model) -> ModelSummary:
    """Return ``model`` in figures."""
    from trtforge.graph import nodes
    from trtforge.weights import tensors

    ops = Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        for node in nodes(model)
    )
    constants = list(tensors(model))
    return ModelSummary(
        nodes=ops.total(),
        nodes_by_op=_most_frequent_first(ops),
        parameters=sum(math.prod(tensor.shape.numpy()) for tensor in constants),
        parameter_bytes=sum(tensor.nbytes for tensor in constants),
        inputs=tuple(map(summarize_value, model.graph.inputs)),
        outputs=tuple(map(summarize_value, model.graph.outputs)),
    )


def summarize_value(value: ir.Value) -> TensorSummary:
    """Return an input or output of a model as text."""
    dims = [str(dim) if isinstance(dim, int) else dim.value or "?" for dim in value.shape or ()]
    shape = "unknown" if value.shape is None else "x".join(dims) or "scalar"
    return TensorSummary(value.name or "", value.dtype.name.lower() if value.dtype else "?", shape)


def summarize_layers(layers: EngineLayers) -> LayersSummary:
    """Return an engine's layers in figures."""
    kinds = Counter(layer.kind for layer in layers.layers)
    types = Counter(layer.outputs[0].dtype for layer in layers.layers if layer.outputs)
    return LayersSummary(kinds.total(), _most_frequent_first(kinds), _most_frequent_first(types))


def summarize_request(request: Request, recipe: str) -> RequestSummary:
    """Return a request as text."""
    stated = {name: value for name, value in vars(request.require).items() if value is not None}
    return RequestSummary(
        source=request.source,
        recipe=recipe,
        profiles=tuple(
            {name: str(shapes) for name, shapes in profile.items()} for profile in request.profiles
        ),
        targets=tuple(map(str, request.targets)),
        require={
            name: value if type(value) in (bool, float, int) else str(value)
            for name, value in stated.items()
        },
    )


def group_stages(records: Iterable[StepRecord]) -> tuple[StageSummary, ...]:
    """Return the records by stage, in the order in which the stages began."""
    stages: dict[str, list[StepRecord]] = {}
    for record in records:
        stages.setdefault(record.stage, []).append(record)
    return tuple(StageSummary(name, tuple(steps)) for name, steps in stages.items())


def _most_frequent_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
