"""The step cache: what a step made of a model, by content, so that nothing is done twice.

A key covers the model, the artifacts, the step with its options, the code of its package and of the
custom ops, the files it reads, and the facts of the environment that matter. A change of any of
them is a miss.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.artifact_file import ArtifactFiles
from trtforge.artifacts import Artifact
from trtforge.context import Context, Request
from trtforge.errors import DataError
from trtforge.options import adapter, as_data
from trtforge.records import StepRecord
from trtforge.steps import Step
from trtforge.store import Blobs, atomic_file, digest, file_digest, freeze, thaw, write_tensor

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.ops import CustomOp
    from trtforge.recipe import Stage

FORMAT = 3
LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnx-graphsurgeon", "onnxruntime", "ml_dtypes")
DIGEST = "digest"
DEFAULT_LIMIT = 20 * 2**30
CODE_SUFFIXES = (".py", ".jinja", ".cu", ".cuh", ".yaml")


@dataclass(frozen=True)
class UserFile:
    """A place in a file of the user, and how that file looked: it is not copied."""

    path: str
    offset: int
    size: int
    modified: int
    """Nanoseconds."""

    @classmethod
    def of(cls, path: Path, offset: int) -> UserFile:
        """Look at the file now."""
        stat = path.stat()
        return cls(str(path), offset, stat.st_size, stat.st_mtime_ns)

    @property
    def unchanged(self) -> bool:
        """Whether the file still looks as it did."""
        try:
            return self == UserFile.of(Path(self.path), self.offset)
        except OSError:
            return False


@dataclass(frozen=True)
class Entry:
    """A stored state after some steps."""

    model: str
    """Key of the frozen model."""
    weights: Mapping[str, UserFile | None]
    """Where each large weight lies, by its key: in the user's own file, or (None) in a blob."""
    artifacts: tuple[Mapping[str, Any], ...]
    records: tuple[Mapping[str, Any], ...]

    @property
    def state(self) -> str:
        """Hash of the model and the artifacts: the start of the next key."""
        return state_key(self.model, self.artifacts)


def default_root() -> Path:
    """Return the cache folder: ``$TRTFORGE_CACHE``, or the user's own cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("TRTFORGE_CACHE")
    return Path(chosen) if chosen else user_cache_path("trtforge")


def state_key(model: str, artifacts: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of a model's key and encoded artifacts."""
    ordered = sorted(json.dumps(artifact, sort_keys=True) for artifact in artifacts)
    return digest("\n".join([model, *ordered]).encode())


def step_key(step: Step) -> dict[str, Any]:
    """Return everything about ``step`` that decides its result.

    Raises:
        DataError: a file that it reads is not there.
    """
    return {
        "name": step.name,
        "options": as_data(step),
        "code": code_digest(type(step).__module__.partition(".")[0]),
        "environment": dict(step.environment()),
        "files": {str(path): _content(path, step) for path in step.reads()},
    }


def _content(path: Path, step: Step) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", where=f"step {step.name!r}"
        ) from error


def request_key(request: Request) -> dict[str, Any]:
    """Return what of the request decides results: profiles and targets."""
    profiles = [{name: str(shape) for name, shape in p.items()} for p in request.profiles]
    return {"profiles": profiles, "targets": [target.name for target in request.targets]}


@cache
def code_digest(package: str) -> str:
    """Return the hash of the code files of a top-level package or module.

    Code without a file, of a notebook for example, has another hash in each process.
    """
    file = getattr(import_module(package), "__file__", None)
    if file is None:
        return digest(os.urandom(16))
    origin = Path(file)
    files = [origin]
    if origin.name == "__init__.py":
        files = [path for path in origin.parent.rglob("*") if path.suffix in CODE_SUFFIXES]
    return digest("".join(file_digest(path) for path in sorted(files)).encode())


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that every result may depend on."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = ""
    return versions


class StepCache:
    """A folder of entries and blobs.

    Args:
        root: The folder; made when it is first written to.
        known: Artifact classes that may be read back, by ``module:Class``.
        limit: Size in bytes above which the least recently used entries go.
    """

    def __init__(
        self, root: Path, known: Mapping[str, type[Artifact]], limit: int = DEFAULT_LIMIT
    ) -> None:
        self.root = root
        self.blobs = Blobs(root / "blobs")
        self._entries = root / "entries"
        self._known = known
        self._limit = limit

    def key(
        self,
        state: str,
        stages: Iterable[Stage],
        request: Request,
        ops: Iterable[type[CustomOp]] = (),
    ) -> str:
        """Return the key of applying ``stages`` to a state; their names do not matter.

        The code of the packages of ``ops`` counts: a kernel goes into the engine, not the model.
        """
        packages = sorted({op.__module__.partition(".")[0] for op in ops})
        parts = {
            "format": FORMAT,
            "state": state,
            "stages": [
                {"repeat": stage.repeat, "steps": [step_key(step) for step in stage.steps]}
                for stage in stages
            ],
            "request": request_key(request),
            "libraries": library_versions(),
            "host": code_digest("trtforge"),
            "ops": {package: code_digest(package) for package in packages},
        }
        return digest(json.dumps(parts, sort_keys=True, default=str).encode())

    def find(self, key: str) -> Entry | None:
        """Return the entry of ``key``; a damaged one counts as none."""
        path = self._entries / f"{key}.json"
        try:
            data = json.loads(path.read_bytes())
            if data.pop(DIGEST) != _digest(data):
                return None
            entry = adapter(Entry).validate_python(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        blobs = [entry.model, *(key for key, own in entry.weights.items() if own is None)]
        if not all(self.blobs.path(key).is_file() for key in blobs):
            return None
        if not all(own.unchanged for own in entry.weights.values() if own):
            return None
        with suppress(OSError):  # a cache that may only be read
            os.utime(path)
        return entry

    def freeze(
        self, ctx: Context, artifacts: Iterable[Artifact], records: Iterable[StepRecord]
    ) -> Entry:
        """Store the model of ``ctx`` and ``artifacts``; return the entry, not yet under a key."""
        frozen = freeze(ctx.model)
        self.blobs.put_bytes(frozen.graph)
        places = {key: self._user_file(tensor) for key, tensor in frozen.weights.items()}
        for key, tensor in frozen.weights.items():
            if places[key] is None:
                self.blobs.put(key, partial(write_tensor, tensor))
        files = ArtifactFiles(self.blobs, ctx.workdir)
        encoded = tuple(files.encode(artifact) for artifact in artifacts)
        return Entry(frozen.key, places, encoded, tuple(asdict(record) for record in records))

    def _user_file(self, tensor: ir.TensorProtocol) -> UserFile | None:
        """Return where a memory-mapped weight lies, unless in this store."""
        import onnx_ir as ir

        if not isinstance(tensor, ir.ExternalTensor):
            return None
        path = Path(tensor.path).resolve()
        if path.is_relative_to(self.root.resolve()):
            return None
        return UserFile.of(path, tensor.offset or 0)

    def save(self, key: str, entry: Entry) -> None:
        """Store ``entry`` under ``key``."""
        data = asdict(entry)
        with atomic_file(self._entries / f"{key}.json") as file:
            file.write(json.dumps({DIGEST: _digest(data), **data}).encode())

    def restore(self, entry: Entry, ctx: Context) -> None:
        """Put the model and the artifacts of ``entry`` into ``ctx``.

        Raises:
            CacheError: something stored is missing or damaged; ``ctx`` is then unchanged.
        """

        def locate(key: str) -> tuple[Path, int]:
            own = entry.weights[key]
            if own:
                return Path(own.path), own.offset
            return self.blobs.path(key).resolve(), 0

        model = thaw(self.blobs.read(entry.model), locate)
        files = ArtifactFiles(self.blobs, ctx.workdir)
        artifacts = [files.decode(data, self._known) for data in entry.artifacts]
        ctx.model = model
        ctx.artifacts = {type(artifact): artifact for artifact in artifacts}

    def records(self, entry: Entry) -> tuple[StepRecord, ...]:
        """Return the records of ``entry``, marked as cached."""
        made = (adapter(StepRecord).validate_python(dict(record)) for record in entry.records)
        return tuple(replace(record, cached=True, seconds=0.0) for record in made)

    def distrust(self) -> None:
        """Write again also what is stored already: something of it was found to be damaged."""
        self.blobs.trusted = False

    def prune(self) -> int:
        """Remove the least recently used entries above the size limit; return bytes freed."""
        newest_first = sorted(
            self._entries.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True
        )
        kept: set[str] = set()
        size = 0
        for path in newest_first:
            named = _blob_names(path.read_text())
            size += sum(_size(self.blobs.path(key)) for key in named - kept)
            if size > self._limit:
                path.unlink(missing_ok=True)
            else:
                kept |= named
        return self._sweep(kept) if size > self._limit else 0

    def _sweep(self, kept: set[str]) -> int:
        freed = 0
        an_hour_ago = time.time() - 3600  # a run that is under way may not have its entry yet
        for path in self.blobs.root.glob("*/*"):
            if path.name not in kept and path.stat().st_mtime < an_hour_ago:
                freed += _size(path)
                path.unlink(missing_ok=True)
        return freed


def _digest(data: Mapping[str, Any]) -> str:
    """Return the hash of an entry's content: a changed digit in it would still be an entry."""
    return digest(json.dumps(data, sort_keys=True).encode())


def _blob_names(text: str) -> set[str]:
    """Return every string in an entry that has the form of a blob's name."""
    import re

    return set(re.findall(r'"([0-9a-f]{32,40})"', text))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def known_artifacts(steps: Iterable[type[Step]]) -> dict[str, type[Artifact]]:
    """Return the artifact classes that the installed steps give, by ``module:Class``."""
    classes = {cls for step in steps for cls in step.gives}
    return {f"{cls.__module__}:{cls.__qualname__}": cls for cls in classes}
