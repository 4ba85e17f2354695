"""What a ``.pt2`` archive may hold before PyTorch opens it.

``torch.export.load`` unpickles without limits: tensors and objects marked ``use_pickle``, example
inputs that its safe loader refuses, and compiled libraries; it also evaluates formulas. PyTorch's
documentation says never to load one from an untrusted source. A plain model needs none of that, so
whatever is not known to be harmless is refused here. This closes the known ways; it is no sandbox.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import trtforge as tf

_KNOWN_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[\w.-]+|\.format/[\w.-]+"
    r"|models/\w+\.json|data/(weights|constants)/\w+_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/\w+\.pt|extra/.*"
)
_TARGET = re.compile(r"torch\.ops\.[\w.]+|torch\.sym_\w+|_operator\.\w+|math\.\w+")
# Formulas: Mul(Integer(8), Symbol('s73', positive=True)), L['x'].size()[0] <= 32*L['y'].size()[2]
_QUOTED = re.compile(r"'\w+'")
_FORMULA = re.compile(r"[\w\s+\-*/%().,<>=!\[\]]*")
_CALL = re.compile(r"([\w.]+)\s*\(")
_FUNCTION = re.compile(r"[A-Z]\w*|(\w*\.)?size|max|min|abs")
_MAX_JSON = 512 * 2**20


def refuse_code(path: Path) -> None:
    """Refuse an archive that holds more than a plain model.

    Raises:
        ModelError: it does, or it is no archive of ``torch.export.save``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            reason = next(_suspects(archive), None)
            if reason is None:
                _check_example_inputs(archive, path)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise tf.ModelError(
            f"this is no archive of torch.export.save: {error}",
            where=str(path),
            remedy="save the model with torch.export.save",
        ) from error
    if reason is not None:
        raise _refusal(reason, path)


def _refusal(reason: str, path: Path) -> tf.ModelError:
    return tf.ModelError(
        f"opening this archive could run code: {reason}",
        where=str(path),
        remedy="if you made it or trust its maker, set import-torch's option trust to true",
    )


def _suspects(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield what is not known to be harmless."""
    for member in archive.infolist():
        name = member.filename.partition("/")[2] or member.filename
        if member.compress_type != zipfile.ZIP_STORED or not _KNOWN_MEMBERS.fullmatch(name):
            yield f"it holds {member.filename}, which a plain model does not"
        elif name.endswith(".json"):
            if member.file_size > _MAX_JSON:
                yield f"{member.filename} is too large to be a graph"
                continue
            yield from _suspect_entries(json.loads(archive.read(member)), name)


def _suspect_entries(document: object, name: str) -> Iterator[str]:
    for key, entry in _entries(document):
        if key == "use_pickle" and entry is not False:
            yield f"{name} names a pickled object"
        elif key == "target" and not _TARGET.fullmatch(str(entry)):
            yield f"its graph calls {entry!r}"
        elif key in ("expr_str", "guards_code") and not _is_plain(str(entry)):
            yield f"its graph has the formula {str(entry)[:80]!r}"


def _entries(document: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield every leaf of a JSON document with the key that leads to it."""
    stack = [(key, document)]
    while stack:
        key, entry = stack.pop()
        if isinstance(entry, dict):
            stack.extend(entry.items())
        elif isinstance(entry, list):
            stack.extend((key, item) for item in entry)
        else:
            yield key, entry


def _is_plain(formula: str) -> bool:
    """Whether a formula is arithmetic on sizes: no attribute but size, no function but known."""
    bare = _QUOTED.sub("", formula)
    if "__" in formula or not _FORMULA.fullmatch(bare):
        return False
    attributes = re.findall(r"\.\s*([a-zA-Z_]\w*)", bare)
    calls = (call.rpartition(".")[2] for call in _CALL.findall(bare))
    return set(attributes) <= {"size"} and all(_FUNCTION.fullmatch(call) for call in calls if call)


def _check_example_inputs(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse example inputs that PyTorch's restricted unpickler does not take."""
    import torch

    for member in archive.infolist():
        if "/sample_inputs/" in member.filename:
            try:
                torch.load(io.BytesIO(archive.read(member)), weights_only=True)
            except Exception as error:  # whatever the restricted loader says, the answer is no
                raise _refusal("its example inputs are more than tensors", path) from error
