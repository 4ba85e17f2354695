"""What a worker of ``coverage.py`` does: one model of the suite, in one variant."""

from __future__ import annotations

import io
import random
import tempfile
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from trtforge import Context, Request, TrtforgeError, io_adapter
from trtforge.context import Silent
from trtforge.host import Host
from trtforge.recipe import Setting
from trtforge.recipe_reader import find, read

KINDS = ("node", "simple", "real", "pytorch-converted", "pytorch-operator")
SM = 89
ADAPT = "widen-types.interface=adapt"


@cache
def suite() -> Mapping[str, Any]:
    """Return the suite's cases by kind and name."""
    from onnx.backend.test.loader import load_model_tests

    np.random.seed(0)  # noqa: NPY002  # some cases draw their data so, when they are loaded
    random.seed(0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {
            f"{kind}/{case.name.removeprefix('test_')}": case
            for kind in KINDS
            for case in sorted(load_model_tests(kind=kind), key=lambda case: case.name)
        }


@cache
def host() -> Host:
    """Return the installed plugins."""
    return Host()


def measure(payload: dict[str, Any], _progress: object) -> dict[str, Any]:
    """Return whether the model is parsed, built, and still right, and why not."""
    case, variant = suite()[payload["name"]], payload["variant"]
    model, data = load(case)
    row = {"parsed": False, "built": False, "equal": False, "reason": "", "left": ""}
    frozen: set[str] = set()
    if variant != "raw":
        try:
            model, frozen, notes = converted(model, variant, data)
            row["left"] = cause(model) or "; ".join(notes)
        except Exception as error:  # noqa: BLE001  # that it raises is the result
            return {**row, "reason": f"RAISED {type(error).__name__}: {error}"}
    row["equal"], row["reason"] = right(model, data, case, frozen)
    if not row["equal"] and variant != "raw":
        row["equal"] = row["by float64"] = exact(model, load(case)[0], data, case)
    try:
        row["parsed"], row["built"], reason = build(model, data)
    except TrtforgeError as error:
        reason = error.what
    return {**row, "reason": reason or row["reason"]}


def converted(
    model: onnx.ModelProto, variant: str, data: list[tuple[dict[str, Any], list[Any]]]
) -> tuple[onnx.ModelProto, set[str], list[str]]:
    """Return the model after the recipe ``convert``, the inputs that it froze, and what it left."""
    from trtforge_plugins.convert.freeze_inputs import FreezeInputs, inputs_to_freeze

    settings = [Setting.read(ADAPT)] if variant in ("adapted", "frozen") else []
    recipe = read(find("convert", host()), host(), settings)
    frozen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(ir.from_proto(model), Path(folder), Request("suite"))
        if variant == "frozen" and data:
            values = {n: data[0][0][n] for n in inputs_to_freeze(ctx.model) if n in data[0][0]}
            plain = {n: np.asarray(v).tolist() for n, v in values.items() if not _is_list(v)}
            host().run_step(FreezeInputs(values=plain), ctx)
            frozen = set(plain)
        for stage in recipe.stages:
            for _ in range(stage.repeat):
                if not sum([host().run_step(step, ctx) for step in stage.steps]):
                    break
        left = [note.text.partition("left alone: ")[2] for note in ctx.notes]
        return ir.to_proto(ctx.model), frozen, [*dict.fromkeys(filter(None, left))]


def cause(model: onnx.ModelProto) -> str:
    """Return what no rewrite can change: the model's ends are no tensors of numbers, or ""."""
    ends = [value.type for value in (*model.graph.input, *model.graph.output)]
    if any(end.WhichOneof("value") != "tensor_type" for end in ends):
        return "an input or output is a sequence or an optional; TensorRT has tensors only"
    if any(end.tensor_type.elem_type == onnx.TensorProto.STRING for end in ends):
        return "an input or output is text; TensorRT has none"
    return ""


def _is_list(value: object) -> bool:
    return isinstance(value, list) or value is None


def build(model: onnx.ModelProto, data: list[Any]) -> tuple[bool, bool, str]:
    """Return whether TensorRT parses and builds the model, and its words if not."""
    from trtforge_plugins.tensorrt import adapter
    from trtforge_plugins.tensorrt.events import Listener
    from trtforge_plugins.tensorrt.order import BuildOrder

    listener = Listener(io.StringIO(), "ERROR")
    session = adapter.Session(adapter.load("tensorrt_rtx"), listener)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        refused = session.parse(path)
    if refused:
        return False, False, f"{refused[0]['op']}: {refused[0]['text']}"
    feeds = adapted_feeds(model, data[0][0]) if data else {}
    profile = {}
    for each in session.inputs():
        if -1 in each.dims and not each.is_shape:
            shape = list(np.shape(feeds[each.name]))
            profile[each.name] = (shape, shape, shape)
        elif each.is_shape:
            values = np.asarray(feeds[each.name]).reshape(-1).tolist()
            profile[each.name] = (values, values, values)
    order = BuildOrder(
        "tensorrt_rtx", str(path), profiles=[profile] if profile else [], targets=[SM]
    )
    try:
        session.build(order, Silent())
    except TrtforgeError as error:
        return True, False, next(iter(listener.errors), error.what)
    return True, True, ""


def adapted_feeds(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the suite's inputs as the model takes them now."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return dict(io_adapter.to_model(io_adapter.read(metadata), dict(feeds)))


def right(model: onnx.ModelProto, data: list[Any], case: Any, frozen: set[str]) -> tuple[bool, str]:
    """Return whether some evaluator gives the suite's outputs, and what went wrong if not."""
    if not data:
        return True, ""
    reasons = []
    for evaluate in (by_onnxruntime, by_reference, by_rounding):
        try:
            for feeds, expected in data:
                given = {name: value for name, value in feeds.items() if name not in frozen}
                found = restored(model, evaluate(model, adapted_feeds(model, given)))
                compare(found, expected, case)
        except Exception as error:  # noqa: BLE001  # either evaluator may lack the operator
            reasons.append(f"{evaluate.__name__}: {' '.join(str(error).split())[:150]}")
        else:
            return True, ""
    return False, "; ".join(reasons)


def exact(model: onnx.ModelProto, given: onnx.ModelProto, data: list[Any], case: Any) -> bool:
    """Return whether ``model`` gives what ``given`` computes in float64.

    Asked only where the suite's outputs are missed. Some of them were computed in float32 and hold
    its rounding errors where the value is 0: an inverse DFT expects 1.9e-7 with a tolerance of
    1e-7. The tolerances stay the suite's, and so do most values: an expected output that is not
    within rounding of the float64 one is no proof of anything, and counts as missed.
    """
    try:
        wide = widened(given)
        for feeds, expected in data:
            doubles = {n: v.astype(np.float64) if _is_float(v) else v for n, v in feeds.items()}
            truth = list(by_reference(wide, doubles).values())
            for one, other in zip(truth, expected, strict=True):
                bound = np.finfo(np.float32).eps * np.abs(one).max() * 8
                np.testing.assert_allclose(other, one, rtol=0, atol=bound)
            found = restored(model, by_onnxruntime(model, adapted_feeds(model, feeds)))
            compare(found, [t.astype(e.dtype) for t, e in zip(truth, expected, strict=True)], case)
    except Exception:  # noqa: BLE001  # float64 is one more witness; without it the miss stands
        return False
    return bool(data)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model of one node whose float32 inputs and outputs are float64."""
    assert len(model.graph.node) == 1
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return wide


def _is_float(value: Any) -> bool:
    return bool(np.asarray(value).dtype == np.float32)


def restored(model: onnx.ModelProto, outputs: Mapping[str, Any]) -> list[Any]:
    """Return the outputs in the types of the model that was given."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return list(io_adapter.from_model(io_adapter.read(metadata), dict(outputs)).values())


def by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run the model under ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run the model under the ONNX reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    names = list(evaluator.output_names)
    return dict(zip(names, evaluator.run(None, dict(feeds)), strict=True))


def by_rounding(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Run the model as trtforge does: ONNX Runtime, with bfloat16 rounded where the model says."""
    from trtforge.reference import Reference

    plain = onnx.ModelProto.FromString(model.SerializeToString())
    del plain.metadata_props[:]  # types are adapted and inputs frozen by the caller
    return Reference(ir.from_proto(plain), provider="cpu", optimize=False).run(feeds)


def compare(found: list[Any], expected: list[Any], case: Any) -> None:
    """Raise AssertionError where outputs differ by more than the suite's tolerances."""
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, list | tuple):
            compare(list(one), list(other), case)
            continue
        if other is None:
            assert one is None
            continue
        a, b = np.asarray(one), np.asarray(other)
        assert a.shape == b.shape, f"shape {a.shape} instead of {b.shape}"
        assert a.dtype == b.dtype, f"type {a.dtype} instead of {b.dtype}"
        if b.dtype.kind in "OUST":
            assert a.astype(str).tolist() == b.astype(str).tolist()
        else:
            wide = (a.astype(np.complex128), b.astype(np.complex128))
            np.testing.assert_allclose(*wide, rtol=case.rtol, atol=case.atol)


def load(case: Any) -> tuple[onnx.ModelProto, list[tuple[dict[str, Any], list[Any]]]]:
    """Return the model of a case, and its inputs by name with its expected outputs."""
    if case.model is not None:
        names = [value.name for value in case.model.graph.input]
        sets = [(dict(zip(names, i, strict=False)), list(o)) for i, o in case.data_sets]
        return case.model, [
            ({n: _array(v) for n, v in i.items()}, [*map(_array, o)]) for i, o in sets
        ]
    if case.model_dir is None:
        path = Path(onnx.__file__).parents[1] / case.url
        folder = path.with_suffix("")
        model = onnx.load(path)
        stem = path.name.removeprefix("light_").removesuffix(".onnx")
        return model, _light_data(model, path.parent, stem) if not folder.is_dir() else []
    model = onnx.load(Path(case.model_dir) / "model.onnx")
    return model, [_stored(model, f) for f in sorted(Path(case.model_dir).glob("test_data_set_*"))]


def _light_data(model: onnx.ModelProto, folder: Path, stem: str) -> list[Any]:
    """The light models have an expected output for an input of ones; their weights are constant."""
    expected = folder / f"light_{stem}_output_0.pb"
    if not expected.exists():
        return []
    weights = {tensor.name for tensor in model.graph.initializer}
    (value,) = (value for value in model.graph.input if value.name not in weights)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    feed = (np.arange(size).reshape(shape) / size).astype(np.float32)
    return [({value.name: feed}, [onnx.numpy_helper.to_array(onnx.load_tensor(expected))])]


def _stored(model: onnx.ModelProto, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    def read_all(kind: str, values: Any) -> list[Any]:
        files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
        return [_read(file, value.type) for file, value in zip(files, values, strict=False)]

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    names = [value.name for value in inputs]
    given = read_all("input", inputs)
    return dict(zip(names, given, strict=False)), read_all("output", model.graph.output)


def _read(file: Path, kind: onnx.TypeProto) -> Any:
    data = file.read_bytes()
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value if isinstance(value, list) or value is None else np.asarray(value)
