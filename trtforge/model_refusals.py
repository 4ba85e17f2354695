"""What makes a file no model that can be worked on; each refusal says what to do."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
import onnx_ir as ir

from trtforge.errors import ModelError
from trtforge.quantities import format_bytes

LARGEST = 2**58
"""Entries of the largest array that NumPy addresses, of any type."""
_FIELDS = (
    "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data",
)  # fmt: skip
# First bytes of the files that people give by mistake, what they are, and what to do.
_SIGNATURES = (
    (
        b"PK\x03\x04",
        "a zip archive, as PyTorch and Keras write",
        "give it the ending .pt2 or .keras",
    ),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", "give it the ending .h5 or .keras"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"\x80\x02", "a Python pickle, as old PyTorch writes", "export the model to ONNX"),
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "run git lfs pull"),
    (b"<", "a web page or XML", "download the file itself, not the page about it"),
    (b"ftrt", "a TensorRT engine", "give the ONNX model that it was built from"),
)


def no_model(head: bytes) -> ModelError | None:
    """Return why a file with these first bytes is no ONNX model, or None when it may be one."""
    if not head:
        return ModelError("the file is empty", remedy="copy or export it again")
    for signature, what, remedy in _SIGNATURES:
        if head.lstrip().startswith(signature):
            return ModelError(f"this is no ONNX model but {what}", remedy=remedy)
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return ModelError("this is a text file, no ONNX model", remedy="give the binary .onnx file")
    return None


def check_proto(proto: onnx.ModelProto) -> None:
    """Refuse a model that lacks a graph or an opset, or is newer than the installed ``onnx``.

    Raises:
        ModelError: it does.
    """
    again = "the file may be cut short or no ONNX model; copy or export it again"
    if not proto.HasField("graph") or not proto.graph.output:
        lack = "graph with outputs" if proto.HasField("graph") else "graph"
        raise ModelError(f"the model has no {lack}", remedy=again)
    if not proto.opset_import:
        raise ModelError("the model imports no operator set", remedy=again)
    upgrade = "install a newer onnx, or export the model for an older version"
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"IR version {proto.ir_version} is newer than {onnx.IR_VERSION}, which onnx"
            f" {onnx.__version__} reads",
            remedy=upgrade,
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise ModelError(
                f"operator set {opset.version} is newer than {newest}, which onnx"
                f" {onnx.__version__} knows",
                remedy=upgrade,
            )


def check_tensor(tensor: ir.TensorProtocol, file: Path) -> None:
    """Refuse a tensor whose data does not fit its type and shape, before anything is allocated.

    Raises:
        ModelError: the data is missing, too short, too long, or outside the folder of ``file``.
    """
    where = f"tensor {tensor.name!r}"
    if any(not isinstance(dim, int) or dim < 0 for dim in tensor.shape):
        raise ModelError(f"the shape {tensor.shape} is no shape of data", where=where)
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelError("the tensor has no type", where=where)
    if isinstance(tensor, ir.ExternalTensor):
        _check_external(tensor, file, where)
    else:
        _check_entries(tensor, where)
    if prod(dim for dim in tensor.shape.numpy() if dim) > LARGEST:  # a 0 hides what no array holds
        raise ModelError(f"the shape {tensor.shape} is larger than any array", where=where)


def _check_entries(tensor: ir.TensorProtocol, where: str) -> None:
    needed, held = _entries(tensor)
    if needed != held:
        raise ModelError(
            f"type {tensor.dtype.name} and shape {tensor.shape} need {needed} entries of data;"
            f" the file holds {held}",
            where=where,
            remedy="the file is damaged: copy or export it again",
        )


def _entries(tensor: ir.TensorProtocol) -> tuple[int, int]:
    """Return how many entries type and shape need, and how many there are.

    An entry is a byte of ``raw_data``, or one number or text of the field that ONNX's
    ``TensorProto`` prescribes for the type.
    """
    proto = tensor.raw
    if isinstance(tensor, ir.Tensor):
        return tensor.size, tensor.size  # an array, which has its shape
    if not isinstance(proto, onnx.TensorProto):
        return tensor.size, len(proto)  # the list of a string tensor
    if proto.HasField("raw_data"):
        return tensor.nbytes, len(proto.raw_data)
    held = len(getattr(proto, onnx.helper.tensor_dtype_to_field(proto.data_type)))
    if not held:
        held = sum(len(getattr(proto, each)) for each in _FIELDS) if not tensor.size else 0
    if tensor.dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * tensor.size, held
    return tensor.nbytes if tensor.dtype.bitwidth in (2, 4) else tensor.size, held


def _check_external(tensor: ir.ExternalTensor, file: Path, where: str) -> None:
    """Hold the place of external data to the model's folder, and its length to the shape."""
    location = str(tensor.location)
    where = f"{where}, external data {location!r}"
    folder = file.parent.absolute()
    real = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not real.is_relative_to(folder.resolve()):
        raise ModelError(
            "the data lies outside the model's folder; such a model could read any file",
            where=where,
            remedy="copy model and data into one folder, with links followed (cp -L)",
        )
    if not real.is_file():
        raise ModelError(
            "the data file is missing",
            where=where,
            remedy=f"put it beside the model, in {folder}",
        )
    stat = real.stat()
    if stat.st_nlink > 1 or real == file.resolve():
        raise ModelError(
            "the data file is a hard link, or the model itself; onnx refuses to read it",
            where=where,
            remedy="give the data file a copy of its own",
        )
    start, length = tensor.offset or 0, tensor.length
    if start < 0 or length not in (None, tensor.nbytes):
        raise ModelError(
            f"offset {start} and length {length} do not fit {tensor.dtype.name}"
            f" {tensor.shape}, which has {tensor.nbytes} bytes",
            where=where,
        )
    if start + tensor.nbytes > stat.st_size:
        raise ModelError(
            f"the data file is too short: {format_bytes(stat.st_size)}, needed"
            f" {format_bytes(start + tensor.nbytes)}",
            where=where,
            remedy="copy it again and compare the sizes",
        )


def shorten(message: str, limit: int = 300) -> str:
    """Return a library's message on one line, without its context dump."""
    line = " ".join(message.partition("==> Context")[0].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
