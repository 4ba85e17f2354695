"""Stores any artifact as JSON plus blobs, without pickle, and reads it back by its type hints."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.artifacts import Artifact
from trtforge.errors import CacheError
from trtforge.options import adapter
from trtforge.store import Blobs, atomic_file


class ArtifactFiles:
    """Encodes and decodes artifacts.

    Args:
        blobs: Where arrays and files go.
        workdir: The run folder; files below it are stored and put back at the same place in
            another run folder, other paths are kept as they are.
    """

    def __init__(self, blobs: Blobs, workdir: Path) -> None:
        self._blobs = blobs
        self._workdir = workdir

    def encode(self, artifact: Artifact) -> dict[str, Any]:
        """Return JSON-ready data for ``artifact``."""
        cls = type(artifact)
        return {"class": f"{cls.__module__}:{cls.__qualname__}", "fields": self._pack(artifact)}

    def decode(self, data: Mapping[str, Any], known: Mapping[str, type[Artifact]]) -> Artifact:
        """Return the artifact behind ``data``; only classes in ``known`` are made.

        Raises:
            CacheError: the class is not known or the data do not fit it.
        """
        cls = known.get(data["class"])
        if cls is None:
            raise CacheError(f"no installed step gives artifacts of class {data['class']}")
        try:
            return adapter(cls).validate_python(self._unpack(data["fields"]))
        except ValueError as error:
            raise CacheError(f"a stored {cls.__name__} does not fit its class: {error}") from error

    def _pack(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"$array": self._put_array(value)}
        if isinstance(value, Path):
            return self._put_path(value)
        if is_dataclass(value):
            return {"$object": {f.name: self._pack(getattr(value, f.name)) for f in fields(value)}}
        if isinstance(value, Mapping):
            return {"$map": [[str(key), self._pack(item)] for key, item in value.items()]}
        if isinstance(value, tuple | list):
            return [self._pack(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return {"$float": repr(value)}
        return value

    def _unpack(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self._unpack(item) for item in value)
        if not isinstance(value, dict):
            return value
        ((tag, content),) = value.items()
        match tag:
            case "$array":
                data = io.BytesIO(self._blobs.read(content))
                return np.load(data, allow_pickle=False)
            case "$file":
                return self._get_file(Path(content[0]), content[1])
            case "$path":
                return Path(content)
            case "$float":
                return float(content)
            case "$map":
                return {key: self._unpack(item) for key, item in content}
            case _:
                return {key: self._unpack(item) for key, item in content.items()}

    def _put_array(self, array: Any) -> str:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return self._blobs.put_bytes(buffer.getvalue())

    def _put_path(self, path: Path) -> dict[str, Any]:
        if path.is_file() and path.resolve().is_relative_to(self._workdir.resolve()):
            relative = path.resolve().relative_to(self._workdir.resolve())
            return {"$file": [relative.as_posix(), self._blobs.put_file(path)]}
        return {"$path": str(path)}

    def _get_file(self, relative: Path, key: str) -> Path:
        target = self._workdir / relative
        if not target.resolve().is_relative_to(self._workdir.resolve()):
            raise CacheError(f"a stored file would leave the run folder: {relative}")
        with self._blobs.checked(key).open("rb") as source, atomic_file(target) as file:
            shutil.copyfileobj(source, file)
        return target
