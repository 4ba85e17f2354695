"""ONNX model files: read them without trust, write them whole or not at all.

Weights in external data files are memory-mapped, so that a model of any size is opened, edited
and saved in little memory: data that no step touched is copied from file to file by the kernel.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import onnx_ir as ir

from trtforge import inline_weights
from trtforge.errors import ModelError, RequestError, TrtforgeError
from trtforge.model_refusals import check_proto, check_tensor, no_model, shorten
from trtforge.quantities import format_bytes
from trtforge.store import write_error, write_tensor
from trtforge.weights import exchange, tensors

EXTERNAL_OVER = 3 * 2**29
"""Weights of more bytes than this go to a data file beside the model; protobuf ends at 2 GiB."""
MAX_PROTOBUF = 2**31 - 1
_ALIGN = 4096  # a page: tensors can be mapped, and copied between files without their blocks moving
_SMALL = 4096  # smaller tensors stay in the model file


def find(path: str | os.PathLike[str]) -> Path:
    """Return the ``.onnx`` file that ``path`` means: itself, or the only one of a folder.

    Raises:
        ModelError: there is none, or there are several.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(place.glob("*.onnx"))
        if len(found) == 1:
            return found[0]
        if not found:
            hint = "name the model file"
            if (place / "saved_model.pb").exists():
                hint = "this is a TensorFlow SavedModel: use the step import-tensorflow"
            raise ModelError("the folder holds no .onnx file", where=str(place), remedy=hint)
        names = ", ".join(file.name for file in found)
        raise ModelError(
            f"the folder holds {len(found)} models: {names}", where=str(place), remedy="name one"
        )
    if not place.exists():
        raise ModelError("there is no such file", where=str(place), remedy="check the path")
    if not place.is_file():
        raise ModelError("this is not a regular file", where=str(place))
    return place


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX model from a file, or from a folder that holds exactly one.

    External data is memory-mapped when a tensor's values are first used. Every tensor's data is
    held against its type and shape here, so that no later step meets a short one.

    Raises:
        ModelError: the file is missing, damaged, no ONNX model, too new, or its external data is
            missing, too short or outside the model's folder.
    """
    file = find(path)
    proto = _read_proto(file)
    try:
        check_proto(proto)
        model = ir.serde.deserialize_model(proto)
        del proto
        exchange(model, inline_weights.take_out)
        for tensor in tensors(model):
            if isinstance(tensor, ir.ExternalTensor):
                # Never empty: an empty base_dir turns off onnx-ir's own checks of the path.
                tensor.base_dir = str(file.parent.absolute())
            check_tensor(tensor, file)
    except TrtforgeError as error:
        error.at(str(file))
        raise
    except Exception as error:  # onnx-ir raises many kinds; each means a malformed model
        raise ModelError(
            f"the graph cannot be read: {shorten(str(_first_cause(error)))}", where=str(file)
        ) from error
    return model


def _first_cause(error: BaseException) -> BaseException:
    earlier = error.__cause__ or error.__context__
    return _first_cause(earlier) if earlier else error


def _read_proto(file: Path) -> onnx.ModelProto:
    size = file.stat().st_size
    if size > MAX_PROTOBUF:
        raise ModelError(
            f"the file has {format_bytes(size)}; protobuf ends at 2GiB",
            where=str(file),
            remedy="export the model with its weights as external data",
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(file)) from error
    refusal = no_model(data[:512])
    if refusal is not None:
        refusal.at(str(file))
        raise refusal
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has no types to import it by
        raise ModelError(
            "the file is damaged, cut short, or no ONNX model: it does not parse as protobuf",
            where=str(file),
            remedy="copy or export it again and compare the sizes",
        ) from error
    return proto


def save(
    model: ir.Model, path: str | os.PathLike[str], *, external_over: int = EXTERNAL_OVER
) -> None:
    """Write ``model`` to ``path``: whole, or not at all.

    Weights of more than ``external_over`` bytes together (1.5 GiB at most) go to ``<path>.data``,
    or to ``<path>.<word>.data`` where a file of that name is there. Both files are written under
    other names; renaming the model's is what counts, and only then an earlier data file is
    removed. So whenever the process ends, there is the old model or the new one, each with its own
    weights. ``model`` stays as it is; where its own data file is removed, its tensors read the new
    one from then on.

    Raises:
        RequestError: ``path`` cannot be written.
        EnvironmentLacks: the disk is full.
    """
    target = Path(path).absolute()
    earlier = list(_data_files(target))
    data = target.with_name(f"{target.name}.data")
    if data in earlier:
        data = target.with_name(f"{target.name}.{secrets.token_hex(4)}.data")
    scratch, data_scratch = (
        place.with_name(f".{place.name}.{secrets.token_hex(4)}") for place in (target, data)
    )
    weights = [tensor for tensor in tensors(model) if tensor.dtype != ir.DataType.STRING]
    total = sum(tensor.nbytes for tensor in weights)
    outside = total > min(external_over, EXTERNAL_OVER)
    large = [tensor for tensor in weights if outside and tensor.nbytes >= _SMALL]
    with _writing(target, total, scratch, data_scratch):
        placed = _write_data(large, data_scratch, data) if large else {}

        _write_message(model, scratch, placed)
        if placed:
            data_scratch.replace(data)
        scratch.replace(target)
    if placed and earlier:
        moved = {
            id(old): placed.get(id(old)) or inline_weights.inline(old)
            for old in weights
            if _is_in(old, earlier) or isinstance(old, ir.LazyTensor)  # which may read them
        }
        exchange(model, lambda tensor: moved.get(id(tensor), tensor))
        for file in earlier:
            with suppress(OSError):
                file.unlink()


def data_files(model: ir.Model) -> tuple[Path, ...]:
    """Return the files that hold weights of a model that :func:`load` read."""
    paths = {Path(each.path) for each in tensors(model) if isinstance(each, ir.ExternalTensor)}
    return tuple(sorted(paths))


def _data_files(target: Path) -> Iterator[Path]:
    """Yield the data files that earlier calls of :func:`save` left beside ``target``."""
    name = re.compile(rf"{re.escape(target.name)}(\.[0-9a-f]{{8}})?\.data")
    with suppress(OSError):  # its folder may not be there
        yield from (file for file in target.parent.iterdir() if name.fullmatch(file.name))


@contextmanager
def _writing(target: Path, total: int, *scratches: Path) -> Iterator[None]:
    """Check ``target``, name what went wrong while writing, and leave no scratch file."""
    if target.exists() and not target.is_file():
        raise RequestError(
            "this is no regular file, so a model cannot take its place",
            where=str(target),
            remedy="give another path for the output",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target.parent, total)
        yield
    except OSError as error:
        raise write_error(error, target, "the model") from error
    finally:
        for scratch in scratches:
            with suppress(OSError):  # its folder may not even exist
                scratch.unlink()


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        amounts = f"{format_bytes(needed)} needed, {format_bytes(free)} free"
        raise OSError(errno.ENOSPC, amounts)


def _write_message(model: ir.Model, file: Path, outside: Mapping[int, ir.ExternalTensor]) -> None:
    try:
        with file.open("wb") as stream:
            inline_weights.write(model, stream, outside, MAX_PROTOBUF)
    except OSError:
        raise
    except (
        Exception
    ) as error:  # onnx-ir raises many kinds; each means a model that ONNX cannot hold
        raise ModelError(
            f"the model cannot be written as ONNX: {shorten(str(_first_cause(error)))}",
            where=model.graph.name or "model",
        ) from error


def _write_data(
    large: list[ir.TensorProtocol], scratch: Path, data: Path
) -> dict[int, ir.ExternalTensor]:
    """Write tensors one after the other; return their places in ``data`` by object identity."""
    placed = {}
    with scratch.open("wb") as file:
        for tensor in large:
            offset = -(-file.tell() // _ALIGN) * _ALIGN
            file.seek(offset)
            write_tensor(tensor, file)
            placed[id(tensor)] = _external(tensor, data, offset)
    return placed


def _external(tensor: ir.TensorProtocol, data: Path, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        data.name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=str(data.parent),
    )


def _is_in(tensor: ir.TensorProtocol, files: Sequence[Path]) -> bool:
    if not isinstance(tensor, ir.ExternalTensor):
        return False
    return Path(tensor.path).resolve() in [file.resolve() for file in files]


def check(model: ir.Model | str | os.PathLike[str]) -> None:
    """Hold a model, or a model file, against ONNX's rules with ONNX's own checker.

    The weights of a model in memory are checked for type and shape only; none is copied.

    Raises:
        ModelError: a rule is broken; the checker's words say which.
    """
    if isinstance(model, ir.Model):
        with tempfile.TemporaryDirectory(prefix="trtforge-check-") as folder:
            skeleton = Path(folder, "model.onnx")
            _write_skeleton(model, skeleton)
            _check_file(skeleton, where=model.graph.name or "model")
    else:
        file = find(model)
        _check_file(file, where=str(file))


def _check_file(file: Path, where: str) -> None:
    try:
        onnx.checker.check_model(str(file))
    except Exception as error:  # ValidationError, and C++ errors of other kinds
        raise ModelError(
            f"breaks ONNX's rules: {shorten(str(error))}",
            where=where,
            remedy="correct the export; onnx.checker.check_model shows the whole message",
            code=_broken_rule(str(error), file),
        ) from error


def _broken_rule(words: str, file: Path) -> str:
    """Return the code of what the checker's words mean; empty: that of any bad model."""
    if "is not an output of any node" in words:
        return "value-missing"
    late = re.search(r"topologically sorted, however input '(.*?)' of node", words, re.DOTALL)
    if late is None:
        return ""
    made = {out.name for node in load(file).graph.all_nodes() for out in node.outputs}
    return "graph-has-no-order" if late[1] in made else "value-missing"


def _write_skeleton(model: ir.Model, file: Path) -> None:
    """Write ``model`` with its larger tensors in a sparse file that takes no space."""
    data = file.with_name("model.data")
    data.touch()

    outside = {}
    for tensor in tensors(model):
        if tensor.dtype != ir.DataType.STRING and tensor.nbytes >= _SMALL:
            if tensor.nbytes > data.stat().st_size:
                os.truncate(data, tensor.nbytes)
            outside[id(tensor)] = _external(tensor, data, 0)
    _write_message(model, file, outside)
