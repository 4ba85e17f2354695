"""Writes and reads the manifest of a chain, and runs its parts one after another.

The folder of a chain holds an ONNX file for each part, perhaps an engine for each, and
``chain.json``, which names them in their order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from trtforge.chain import Chain, ChainPart, Loading
from trtforge.errors import ModelError
from trtforge.reference import Reference
from trtforge.store import atomic_file

if TYPE_CHECKING:
    from trtforge.artifacts import Array

PARTS = "parts"
"""Folder of a chain in the folder of its run."""
MANIFEST = "chain.json"
MAX_BYTES = 16 * 2**20
_STRICT: dict[str, Any] = {"extra": "forbid"}


class Runnable(Protocol):
    """Something that computes a part: :class:`~trtforge.reference.Reference`, an engine, ..."""

    def run(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the part's outputs by name."""


@dataclass(frozen=True)
class _Part:
    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    profiles: tuple[dict[str, str], ...]
    between: int
    engine: str | None = None


@dataclass(frozen=True)
class _Manifest:
    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    loading: Loading
    parts: tuple[_Part, ...]
    version: Literal[1] = 1


def write_manifest(chain: Chain, folder: Path) -> Path:
    """Write ``chain.json`` into the folder that holds the files of the parts; return its path."""
    parts = [
        _Part(
            each.model.name, each.inputs, each.outputs, tuple(map(dict, each.profiles)),
            each.between, each.engine.path.name if each.engine else None,
        )
        for each in chain.parts
    ]  # fmt: skip
    told = asdict(_Manifest(chain.inputs, chain.outputs, chain.loading, tuple(parts)))
    place = folder / MANIFEST
    with atomic_file(place) as file:
        file.write(json.dumps(told, indent=2).encode() + b"\n")
    return place


def read_manifest(folder: Path) -> Chain:
    """Return the chain in ``folder``, without what is known of its engines.

    Raises:
        ModelError: there is none, it does not fit its format, a file of it would lie elsewhere, or
            a part reads what no earlier part gives.
    """
    from pydantic import TypeAdapter, ValidationError

    place = folder / MANIFEST
    try:
        if place.stat().st_size > MAX_BYTES:
            raise ModelError(f"{place} is too large for the manifest of a chain")
        told = TypeAdapter(_Manifest).validate_json(place.read_bytes())
    except OSError as error:
        raise ModelError(f"{place} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{place} is no manifest of a chain: {where}: {first['msg']}") from error
    _check(told, place)
    parts = (
        ChainPart(folder / each.model, each.inputs, each.outputs, each.profiles, each.between)
        for each in told.parts
    )
    return Chain(told.inputs, told.outputs, tuple(parts), told.loading)


def _check(told: _Manifest, place: Path) -> None:
    known = set(told.inputs)
    for each in told.parts:
        for name in filter(None, (each.model, each.engine)):
            if Path(name).name != name or name in (".", ".."):
                raise ModelError(f"{place}: {name!r} is no plain file name")
        if missing := set(each.inputs) - known:
            raise ModelError(f"{place}: no part before {each.model} gives {min(missing)!r}")
        known.update(each.outputs)
    if missing := set(told.outputs) - known:
        raise ModelError(f"{place}: no part gives the output {min(missing)!r}")


def reference(part: ChainPart) -> Runnable:
    """Open a part's ONNX file under ONNX Runtime."""
    return Reference(part.model)


class ChainRunner:
    """Runs a chain; a tensor is let go after its last reader.

    Args:
        chain: What to run. Where ``loading`` is ``one``, each part is opened when its turn comes
            and closed after it; else all are opened here.
        open_part: Opens a part: :func:`reference`, or a function of yours that deserializes its
            engine and runs it.
    """

    def __init__(
        self, chain: Chain, open_part: Callable[[ChainPart], Runnable] = reference
    ) -> None:
        self._chain = chain
        self._open = open_part
        self._opened = [open_part(part) for part in chain.parts] if chain.loading == "all" else []

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of the model by name.

        Args:
            feed: An array for each input of the model.

        Raises:
            DataError: an input is missing, or of another type or shape.
        """
        known = dict(feed)
        found = {name: feed[name] for name in self._chain.outputs if name in feed}
        for at, part in enumerate(self._chain.parts):
            running = self._opened[at] if self._opened else self._open(part)
            given = running.run({name: known[name] for name in part.inputs if name in known})
            del running
            known.update(given)
            found |= {name: array for name, array in given.items() if name in self._chain.outputs}
            later = {name for each in self._chain.parts[at + 1 :] for name in each.inputs}
            known = {name: array for name, array in known.items() if name in later}
        return {name: found[name] for name in self._chain.outputs}
