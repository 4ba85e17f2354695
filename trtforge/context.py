"""What a step sees of the run: the model, the request, artifacts of earlier steps, its notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from trtforge.artifacts import Artifact, Batches
from trtforge.errors import StepError
from trtforge.quantities import ByteSize, ShapeRange
from trtforge.targets import Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.ops import CustomOp

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Note:
    """Something a step wants known about one place of the model: mostly a refusal's reason."""

    node: str
    text: str


@dataclass(frozen=True)
class Requirements:
    """What the result must meet; a missed one makes the exit code 1."""

    cosine: float | None = None
    """Smallest cosine similarity of any output with the given model's."""
    sample_cosine: float | None = None
    """Smallest cosine similarity of any single sample of any output."""
    top1_agreement: float | None = None
    """Smallest share of samples with the same largest entry, 0..1."""
    sqnr: float | None = None
    """Smallest signal to noise ratio of any output, decibels."""
    accuracy: float | None = None
    """Smallest task accuracy of the result; needs labelled data or a metric of your own."""
    accuracy_drop: float | None = None
    """Largest loss of task accuracy; needs labelled data or a metric of your own."""
    precision: bool = True
    """Everything asked for in a type must run in it (see ``prove-precision``)."""
    activation_memory: ByteSize | None = None
    """Largest activation memory TensorRT may report."""
    engine_size: ByteSize | None = None
    """Largest engine file."""
    total_memory: ByteSize | None = None
    """Largest sum of weights, activations and persistent memory TensorRT may report."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, beside the steps."""

    source: str
    """The model as the user named it."""
    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    """Optimization profiles; each maps input names to shape ranges."""
    targets: tuple[Target, ...] = ()
    """Empty: this machine's GPU."""
    require: Requirements = field(default_factory=Requirements)
    verify_each: bool = False
    """Compare the model with its predecessor after every step."""


class Progress(Protocol):
    """Where long work says how far it is."""

    def update(self, label: str, done: int, total: int) -> None:
        """``label`` is at ``done`` of ``total``; a total of 0 means that it is not known."""


class Silent:
    """A progress that nobody watches."""

    def update(self, label: str, done: int, total: int) -> None:
        """Do nothing."""


@dataclass
class Context:
    """The state of a run. Steps change ``model`` in place or put another one there."""

    model: ir.Model
    workdir: Path
    """The run folder; a step writes only below it."""
    request: Request
    given: Path | None = None
    """The model as it was given, as an ONNX file: the reference of every comparison."""
    ops: Mapping[str, type[CustomOp]] = field(default_factory=dict)
    """Custom ops by their ONNX name, ``domain::OpType``."""
    progress: Progress = field(default_factory=Silent)
    artifacts: dict[type[Artifact], Artifact] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    """Notes of the step that runs now."""

    def put(self, artifact: Artifact) -> None:
        """Give ``artifact`` to later steps; it replaces an earlier one of the same class."""
        self.artifacts[type(artifact)] = artifact

    def get(self, kind: type[A]) -> A:
        """Return the artifact of class ``kind``.

        Raises:
            StepError: no step gave one.
        """
        found = self.find(kind)
        if found is None:
            raise StepError(f"no earlier step gave {kind.__name__}")
        return found

    def find(self, kind: type[A]) -> A | None:
        """Return the artifact of class ``kind``, or None."""
        return cast("A | None", self.artifacts.get(kind))

    def note(self, node: str, text: str) -> None:
        """Say why ``node`` was left alone, or what was remarkable about it."""
        note = Note(node, text)
        if note not in self.notes:
            self.notes.append(note)

    def path(self, *parts: str) -> Path:
        """Return a path below the run folder, with its folder made.

        Raises:
            StepError: the path would leave the run folder.
        """
        path = self.workdir.joinpath(*parts)
        if not path.resolve().is_relative_to(self.workdir.resolve()):
            raise StepError(f"path {'/'.join(parts)!r} leaves the run folder {self.workdir}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def batches(self) -> Batches | None:
        """The data that a step loaded, if any."""
        return self.find(Batches)
