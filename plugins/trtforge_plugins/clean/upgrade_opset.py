"""upgrade-opset: write the model in a newer version of the standard operator set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from trtforge import Context, ModelError, Pass, RequestError, ShapeRange, TrtforgeError
from trtforge.compare import compare
from trtforge.feeds import synthesize
from trtforge.graph import graphs, interface, opset
from trtforge.model_file import check
from trtforge.reference import Reference
from trtforge.weights import exchange, exchanged
from trtforge_plugins.clean.infer_shapes import light

if TYPE_CHECKING:
    pass


if TYPE_CHECKING:
    import onnx

_SAME_DB = 40.0
"""Signal to noise ratio that float16 rounding keeps, and that no changed meaning reaches."""


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Write the model in a newer version of the standard ONNX operator set.

    The converter of the ``onnx`` package does it, on the graph without its weights. Its result is
    taken only when the checker accepts it and nothing of the model is lost; otherwise the model
    stays as it is and a note says why.
    """

    name: ClassVar[str] = "upgrade-opset"

    to: int = 21
    """The version to reach; 21 is the first with 4-bit Q/DQ and blocked scales."""
    verify: bool = True
    """Whether to run both models under ONNX Runtime and take the result only if they agree."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Convert; return the number of versions gained, 0 where the model stays as it is.

        Raises:
            RequestError: the installed ``onnx`` package does not know the version asked for.
        """
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.to <= newest:
            raise RequestError(
                f"upgrade-opset: to={self.to} is not between 1 and {newest}",
                remedy="choose a version that the installed onnx package knows",
            )
        given = opset(model)
        if given >= self.to:
            return 0
        place = model.graph.name or "graph"
        reason = self._why_not(model, given)
        if reason is None:
            reason = self._upgrade(model, ctx)
        if reason is not None:
            ctx.note(place, f"left at opset {given}: {reason}")
            return 0
        return self.to - given

    def _why_not(self, model: ir.Model, given: int) -> str | None:
        if given < 7:
            return "versions before 7 broadcast by other rules, which the converter does not follow"
        if model.functions:
            return "the converter leaves out the bodies of functions"
        return None

    def _upgrade(self, model: ir.Model, ctx: Context) -> str | None:
        """Put the converted graph into ``model``, or return why the model stays as it is."""
        import onnx

        left_out = _LeftOut()
        with exchanged(model, left_out.swap):
            proto = ir.serde.serialize_model(model)
        try:
            converted = onnx.version_converter.convert_version(proto, self.to)
            _drop_new_facts(converted.graph, proto.graph)
            fresh = ir.from_proto(converted)
        except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
            return f"the converter refuses: {str(error).splitlines()[0]}"
        left_out.put_back(fresh)
        _keep_interface(model.graph, fresh.graph)
        _copy_metadata(model, fresh)
        reason = _why_lossy(model, fresh, left_out) or (
            _why_different(model, fresh, ctx) if self.verify else None
        )
        if reason is None:
            model.graph = fresh.graph
            least = onnx.helper.find_min_ir_version_for(converted.opset_import)
            model.ir_version = max(model.ir_version, least)
        return reason


class _LeftOut:
    """The weights that do not travel through the converter, by the name of their stand-in."""

    def __init__(self) -> None:
        self._tensors: dict[str, ir.TensorProtocol] = {}
        self.missing: set[str] = set()

    def swap(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        stand_in = light(tensor)
        if stand_in is tensor or not isinstance(stand_in, ir.ExternalTensor):
            return tensor
        key = f"left-out-{len(self._tensors)}"
        self._tensors[key] = tensor
        self.missing.add(key)
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor(key, None, None, tensor.dtype, shape=shape, name=tensor.name or "")

    def put_back(self, model: ir.Model) -> None:
        """Exchange each stand-in in ``model`` for the weight itself."""

        def find(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            key = str(tensor.location) if isinstance(tensor, ir.ExternalTensor) else ""
            self.missing.discard(key)
            return self._tensors.get(key, tensor)

        exchange(model, find)


def _drop_new_facts(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """Remove the shapes that the converter infers on its way, with made-up names in them."""
    known = {info.name for info in before.value_info}
    kept = [info for info in graph.value_info if info.name in known]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _keep_interface(graph: ir.Graph, fresh: ir.Graph) -> None:
    """Give inputs and outputs the types and shapes they had; the converter infers some."""
    promised = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for value in (*fresh.inputs, *fresh.outputs):
        old = promised.get(value.name)
        if old is not None:
            value.type, value.shape = old.type, old.shape


def _copy_metadata(model: ir.Model, fresh: ir.Model) -> None:
    """Give nodes, values and the graph the metadata that the converter drops."""
    by_output = {
        value.name: value
        for graph in graphs(model)
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs))
    }
    fresh.graph.metadata_props.update(model.graph.metadata_props)
    for graph in graphs(fresh):
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
            old = by_output.get(value.name)
            if old is None:
                continue
            value.metadata_props.update(old.metadata_props)
            producer, was = value.producer(), old.producer()
            if producer is not None and was is not None:
                producer.metadata_props.update(was.metadata_props)


def _why_lossy(model: ir.Model, fresh: ir.Model, left_out: _LeftOut) -> str | None:
    if interface(fresh) != interface(model):
        return "the converter changes inputs or outputs"
    if left_out.missing:
        return f"the converter loses {len(left_out.missing)} weights"
    try:
        check(fresh)
    except ModelError as error:
        return f"the converted model {error.what}"
    return None


def _why_different(model: ir.Model, fresh: ir.Model, ctx: Context) -> str | None:
    """Run both models on made-up inputs; return what differs, or why they cannot be run."""
    profile = {
        value.name or "": ShapeRange.read([d if isinstance(d, int) else 2 for d in value.shape])
        for value in model.graph.inputs
        if value.shape is not None
    }
    if ctx.request.profiles:
        profile.update(ctx.request.profiles[0])
    try:
        feeds = synthesize(model, profile, samples=1).feeds
        outputs = [
            [reference.run(feed) for feed in feeds]
            for reference in (Reference(both, provider="cpu") for both in (model, fresh))
        ]
    except TrtforgeError as error:
        return f"the result cannot be compared ({error.what}); verify: false takes it all the same"
    for result in compare(*outputs):
        if result.problem or result.nonfinite_mismatch or result.sqnr_db < _SAME_DB:
            detail = result.problem or f"SQNR {result.sqnr_db:.1f} dB"
            return f"output {result.name!r} of the converted model differs: {detail}"
    return None
