"""Reads the layers of a built engine from what TensorRT says about it; no GPU is needed.

Two forms are read: the VERBOSE log message that starts with ``Layers:`` (printed while an engine is
built with detailed profiling verbosity) and the JSON of the engine inspector
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html).
The text form quotes nothing, so names may hold any character. It is therefore read from left to
right by the facts that surround the names, never split at commas or line ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trtforge import (
    Artifact,
    Context,
    Engine,
    EngineLayer,
    EngineLayers,
    LayerTensor,
    Step,
    StepError,
)

MAX_DUMP_BYTES = 256 * 2**20  # 5000 layers take about 6 MB; anything near this is no layer dump
_MAX_NAME_LINES = 64  # a name may hold line breaks; this bounds the search for its end

_DTYPES = {
    "float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16", "fp8": "float8e4m3fn", "int8": "int8",
    "uint8": "uint8", "int4": "int4", "fp4": "float4e2m1", "fp4e2m1": "float4e2m1",
    "e8m0": "float8e8m0", "fp8ue8m0": "float8e8m0",
    "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip

_KIND = re.compile(r"(?:_myl\d+_\d+)?, LayerType: (\w+), Inputs: \[")
_MYELIN_KIND = re.compile(r"_myl\d+_\d+, LayerType: (\w+), Inputs: \[")
_LIST = re.compile(r",? ?(Inputs|Constants|Outputs): \[ ?")
_TENSOR = re.compile(r",? ?\{ Name: ")
_FACTS = re.compile(
    r", (?:Location: \w+, )?Dimensions: \[([^\]\n]*)\](?:, (?:Strides|StrideOrder): \[[^\]\n]*\])*"
    r", (?:Datatype: (\w+), Format: ([^{}\n]*?)|Format/Datatype: ([^{}\n]*?)) ?\}"
)
_CLOSING = re.compile(r" ?\]")
_WEIGHTS = re.compile(r'\bWeights: \{"Type": "(\w+)", "Count": (\d{1,18})\}')
_TACTIC = re.compile(r"\bTacticName: ([^,\n]*)")
_STREAM = re.compile(r"\bStreamId: (\d{1,9})\b")
_METADATA = ", Metadata: "
_NODE = "[ONNX Layer: "


@dataclass(frozen=True)
class ReadLayers(Step):
    """List the layers of the built engine, with their types and the ONNX nodes behind each."""

    name: ClassVar[str] = "read-layers"
    needs: ClassVar[tuple[type[Artifact], ...]] = (Engine,)
    gives: ClassVar[tuple[type[Artifact], ...]] = (EngineLayers,)

    def run(self, ctx: Context) -> int:
        """Put the layers into the context; the model stays as it is."""
        ctx.put(read_engine_layers(ctx.get(Engine)))
        return 0


def read_engine_layers(engine: Engine) -> EngineLayers:
    """Return the layers of ``engine``.

    Raises:
        StepError: the engine has no layer dump, or it cannot be read.
    """
    path = engine.layer_dump
    remedy = (
        "build the engine with detailed profiling verbosity, for example with the tensorrt step"
    )
    if path is None or not path.is_file():
        raise StepError(
            "there is no layer dump of this engine", where=str(path or ""), remedy=remedy
        )
    if path.stat().st_size > MAX_DUMP_BYTES:
        raise StepError(f"the layer dump is larger than {MAX_DUMP_BYTES} bytes", where=str(path))
    try:
        return parse_layers(path.read_text(encoding="utf-8", errors="replace"))
    except StepError as error:
        error.at(str(path))
        raise


def parse_layers(text: str) -> EngineLayers:
    """Return the layers in ``text``, in TensorRT's order of execution.

    Raises:
        StepError: ``text`` is no layer dump, is damaged, or holds layer names only.
    """
    stripped = text.lstrip()
    if re.match(r"\{|\[\s*[\[{\"]", stripped):
        return EngineLayers(_parse_json(stripped))
    start = re.search(r"\bLayers:[ \t]*\n", text)
    if start is None:
        raise StepError("this is no layer dump: it has no line 'Layers:'")
    return EngineLayers(_parse_text(text, start.end()))


def _parse_text(text: str, position: int) -> tuple[EngineLayer, ...]:
    layers: list[EngineLayer] = []
    while text.startswith("Name: ", position):
        try:
            layer, position = _parse_layer(text, position + len("Name: "))
        except StepError as error:
            error.at(f"layer {len(layers) + 1}")
            raise
        layers.append(layer)
        while text.startswith(("\n", " ", "\t"), position):
            position += 1
    if not layers:
        raise StepError("the layer dump lists no layer")
    return tuple(layers)


def _parse_layer(text: str, start: int) -> tuple[EngineLayer, int]:
    """Read one layer whose name begins at ``start``; return it and where the next one may begin."""
    name_end, kind, position = _find_kind(text, start)
    tensors: dict[str, tuple[LayerTensor, ...]] = {}
    while opened := _LIST.match(text, position):
        tensors[opened[1]], position = _parse_tensors(text, opened.end())
    tail = text.find(_METADATA, position)
    if tail < 0 or "\nName: " in text[position:tail]:
        raise StepError("the layer dump breaks off")
    facts = text[position:tail]
    metadata, end = _parse_metadata(text, tail + len(_METADATA))
    weights = _WEIGHTS.search(facts)
    if weights:
        constant = LayerTensor("weights", _dtype(weights[1]), (int(weights[2]),))
        tensors["Constants"] = (*tensors.get("Constants", ()), constant)
    tactic, stream = _TACTIC.search(facts), _STREAM.search(facts)
    layer = EngineLayer(
        name=text[start:name_end],
        kind=kind,
        inputs=tensors.get("Inputs", ()),
        constants=tensors.get("Constants", ()),
        outputs=tensors.get("Outputs", ()),
        nodes=onnx_nodes(metadata),
        tactic=tactic[1] if tactic else "",
        stream=int(stream[1]) if stream else None,
    )
    return layer, end


def _find_kind(text: str, start: int) -> tuple[int, str, int]:
    """Return the end of the layer's name, its kind, and where its lists of tensors begin."""
    kind = _KIND.search(text, start)
    # Myelin ends each layer name with _myl<graph>_<index>: it tells the true kind from one that
    # a node name imitates.
    if kind and not kind[0].startswith("_myl"):
        line_end = text.find("\n", kind.end())
        kind = _MYELIN_KIND.search(text, start, line_end if line_end >= 0 else len(text)) or kind
    if kind is None:
        raise StepError("the layer has no LayerType; the dump may hold layer names only")
    return kind.start(1) - len(", LayerType: "), kind[1], kind.end() - len(" Inputs: [") - 1


def _parse_tensors(text: str, position: int) -> tuple[tuple[LayerTensor, ...], int]:
    """Read tensors up to the closing bracket; return them and the position behind it."""
    tensors: list[LayerTensor] = []
    while opened := _TENSOR.match(text, position):
        facts = _FACTS.search(text, opened.end())
        if facts is None:
            raise StepError("a tensor of the layer has no type")
        name = text[opened.end() : facts.start()]
        form = facts[3] if facts[2] else facts[4]
        tensors.append(LayerTensor(name, _dtype(facts[2] or form), _shape(facts[1]), form))
        position = facts.end()
    closing = _CLOSING.match(text, position)
    if closing is None:
        raise StepError("a list of tensors of the layer does not end")
    return tuple(tensors), closing.end()


def _parse_metadata(text: str, start: int) -> tuple[str, int]:
    """Return the metadata and where it ends: a line end that closes every bracket before it."""
    end = start
    for _ in range(_MAX_NAME_LINES):
        newline = text.find("\n", end)
        end = len(text) if newline < 0 else newline
        metadata = text[start:end]
        # Myelin may add a word behind the last bracket: [ONNX Layer: conv]__gemm_from_conv1x1
        if not metadata.startswith(_NODE) or re.search(r"\]\w*\s*\Z", metadata):
            return metadata, end
        if newline < 0:
            break
        end += 1
    raise StepError("the metadata of the layer does not end")


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Return the node names in ``[ONNX Layer: a][ONNX Layer: b]``, each once, in order.

    A node inside a model-local function is named ``inner | call (Op)``, as TensorRT writes it.
    TensorRT 10 puts control characters between the entries, Myelin may add a word behind the last.
    """
    names: dict[str, None] = {}
    pending = ""
    for piece in metadata.split(_NODE)[1:]:
        piece = pending + piece  # noqa: PLW2901  # glue a name that itself holds "[ONNX Layer: "
        end = piece.rfind("]")
        pending = piece + _NODE if end < 0 else ""
        if end >= 0:
            names[piece[:end]] = None
    return tuple(names)


def _parse_json(text: str) -> tuple[EngineLayer, ...]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StepError(f"the layer dump is no valid JSON: {error}") from error
    entries = document.get("Layers") if isinstance(document, dict) else document
    if not isinstance(entries, list) or not entries:
        raise StepError("the layer dump has no list 'Layers'")
    if any(not isinstance(entry, dict) for entry in entries):
        raise StepError(
            "the layer dump holds layer names only",
            remedy="build the engine with detailed profiling verbosity",
        )
    return tuple(_json_layer(entry) for entry in entries)


def _json_layer(entry: Mapping[str, Any]) -> EngineLayer:
    constants = _json_tensors(entry.get("Constants"))
    weights = entry.get("Weights")
    if isinstance(weights, dict) and weights.get("Type"):
        count = weights.get("Count")
        shape = (count,) if isinstance(count, int) else ()
        constants += (LayerTensor("weights", _dtype(str(weights["Type"])), shape),)
    stream = entry.get("StreamId")
    return EngineLayer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", "")),
        inputs=_json_tensors(entry.get("Inputs")),
        constants=constants,
        outputs=_json_tensors(entry.get("Outputs")),
        nodes=onnx_nodes(str(entry.get("Metadata", ""))),
        tactic=str(entry.get("TacticName", "")),
        stream=stream if isinstance(stream, int) else None,
    )


def _json_tensors(entries: object) -> tuple[LayerTensor, ...]:
    if not isinstance(entries, list):
        return ()
    tensors = [entry for entry in entries if isinstance(entry, dict)]
    return tuple(
        LayerTensor(
            name=str(tensor.get("Name", "")),
            dtype=_dtype(str(tensor.get("Datatype") or tensor.get("Format/Datatype", ""))),
            shape=_json_shape(tensor.get("Dimensions")),
            format=str(tensor.get("Format") or tensor.get("Format/Datatype", "")),
        )
        for tensor in tensors
    )


def _json_shape(dims: object) -> tuple[int, ...]:
    return _shape(",".join(map(str, dims))) if isinstance(dims, list) else ()


def _dtype(text: str) -> str:
    """Return ONNX's spelling of a type that stands alone or in a format's description."""
    for word in re.findall(r"\w+", text):
        if word.lower() in _DTYPES:
            return _DTYPES[word.lower()]
    return text.strip().lower()


def _shape(text: str) -> tuple[int, ...]:
    """Return the dimensions; -1 stands for one that is known at run time only."""
    dims = [dim.strip() for dim in text.split(",") if dim.strip()]
    return tuple(int(dim) if re.fullmatch(r"-?\d{1,18}", dim) else -1 for dim in dims)
