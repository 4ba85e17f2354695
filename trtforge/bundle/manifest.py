"""What is in a bundle, as data: the content of ``manifest.json``.

The JSON Schema in ``docs/bundle.schema.json`` is made from these classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trtforge.artifacts import Memory
from trtforge.errors import BundleError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA: Literal[1] = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
_DOCUMENTED: dict[str, Any] = {"use_attribute_docstrings": True, "extra": "forbid"}


@dataclass(frozen=True)
class StoredFile:
    """A file of the bundle. Only listed files exist."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    path: str
    """From the bundle's root on, with ``/``."""
    size: int
    """Bytes."""
    blake3: str
    """BLAKE3 of its content, in hexadecimal; ``b3sum`` shows the same."""


@dataclass(frozen=True)
class BundledEngine:
    """An engine, and where it may run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    file: str
    """One of the bundle's files; several engines may share one."""
    flavor: str
    """``tensorrt``, ``tensorrt_rtx``, or another library's name."""
    version: str
    """Full version of that library, for example ``10.13.3.9``."""
    cuda: str
    """Major version of CUDA that the library was made for; empty: not known."""
    platform: str
    """System and processor that it runs on: ``linux-x86_64``; empty: not known."""
    targets: tuple[str, ...]
    """Compute capabilities, for example ``sm_86``."""
    gpu: str = ""
    """GPU it was built on; empty: on none."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which other GPUs its builder was asked to serve."""
    version_compatible: bool = False
    """Whether later versions of the library may run it too."""
    memory: Memory = field(default_factory=Memory)
    """TensorRT's own totals, bytes."""
    profiles: tuple[Mapping[str, str], ...] = ()
    """Optimization profiles: shape range by input."""
    precision: Mapping[str, float] = field(default_factory=dict)
    """Share of the multiply-accumulates by the type that they run in; empty: not proven."""
    part: int = 0
    """Place in a chain of engines that make up the model together; most models have part 0 only."""


@dataclass(frozen=True)
class TensorEntry:
    """An input or output of the model."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    name: str
    dtype: str
    """ONNX's name in lower case; ``float`` is float32."""
    shape: str
    """``?x3x224x224``."""
    dims: tuple[int | str, ...] | None = None
    """The same to compute with: a name, or ``?``, where a dimension is open; null: rank unknown."""


@dataclass(frozen=True)
class BundledModel:
    """The model behind the engines."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    name: str
    file: str | None
    """The ONNX model that the engines were built from, and that they can be rebuilt from; null
    where it was left out."""
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries of the model's metadata that runners need: changed types of inputs and outputs,
    frozen inputs."""


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED

    trtforge: str
    """Version of trtforge that wrote it."""
    created: str
    """UTC, ISO 8601."""
    model: BundledModel
    engines: tuple[BundledEngine, ...]
    files: tuple[StoredFile, ...]
    """Every file of the bundle but the manifest and its signature."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The resolved recipe, readable as a recipe again."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Metrics and proofs as the run's report has them: comparison, precision, verdict."""
    ranges: str | None = None
    """The file with the calibrator's value ranges."""
    licenses: tuple[str, ...] = ()
    """License files of the model."""
    built_on: Mapping[str, Any] = field(default_factory=dict)
    """The building machine and its packages."""
    schema: Literal[1] = SCHEMA
    """Version of this format."""

    @property
    def by_path(self) -> dict[str, StoredFile]:
        """The files by their paths."""
        return {file.path: file for file in self.files}

    @property
    def stored_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_json(self) -> bytes:
        """Return the manifest as it is stored."""
        from trtforge.report import finite

        data = finite(_adapter().dump_python(self, mode="json"))
        return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def read_manifest(text: bytes) -> Manifest:
    """Read what :meth:`Manifest.to_json` wrote.

    Raises:
        BundleError: it is no manifest, contradicts itself, or is of a newer format.
    """
    from pydantic import ValidationError

    _refuse_newer(text)
    try:
        manifest = _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or MANIFEST
        raise BundleError(f"the manifest is damaged: {place}: {first['msg']}") from error
    named = [engine.file for engine in manifest.engines]
    named += [name for name in (manifest.model.file, manifest.ranges) if name is not None]
    missing = sorted({*named, *manifest.licenses} - manifest.by_path.keys())
    if missing:
        raise BundleError(f"the manifest names {missing[0]!r}, which its list of files has not")
    if len(manifest.by_path) != len(manifest.files):
        raise BundleError("the manifest lists a file twice")
    return manifest


def _refuse_newer(text: bytes) -> None:
    try:
        version = json.loads(text)["schema"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError("the manifest is no JSON object with a schema number") from error
    if isinstance(version, int) and version > SCHEMA:
        raise BundleError(
            f"the bundle has format {version}; this trtforge reads up to {SCHEMA}",
            remedy="use the trtforge that wrote it, or a later one",
        )


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``manifest.json``."""
    schema: dict[str, Any] = _adapter().json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "trtforge bundle manifest"
    return schema


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)
