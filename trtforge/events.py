"""The events of a run as JSON lines: what ``trtforge run --json-lines`` prints for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from trtforge.records import StepRecord
from trtforge.report import finite, with_non_finite

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from trtforge.errors import TrtforgeError


@dataclass(frozen=True, kw_only=True)
class StepStarted:
    """A step begins."""

    event: Literal["step-started"] = "step-started"
    at: float
    """Seconds since the first line; every event has it."""
    stage: str
    step: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a long step is; TensorRT's phases of building come as labels."""

    event: Literal["progress"] = "progress"
    at: float
    label: str
    done: int
    total: int
    """0: not known."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something worth a line happened."""

    event: Literal["message"] = "message"
    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """A step ended, or was taken from the cache."""

    event: Literal["step-finished"] = "step-finished"
    at: float
    record: StepRecord


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run ended; the last line. Its report is ``report.json`` in the folder."""

    event: Literal["finished"] = "finished"
    at: float
    exit_code: int
    folder: str
    missed: tuple[str, ...]
    """A sentence for each missed requirement."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The run failed, or never began; the last line."""

    event: Literal["failed"] = "failed"
    at: float
    exit_code: int
    code: str
    """A stable word; ``docs/findings.md`` has a section on each."""
    where: str
    what: str
    remedy: str


Event = StepStarted | Progress | Message | StepFinished | Finished | Failed


class JsonLines:
    """Writes each event as one line of JSON.

    Args:
        write: Takes a line, without its end.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._start = time.monotonic()

    def step_started(self, stage: str, step: str) -> None:
        """Write ``step-started``."""
        self._event(StepStarted(at=self._now(), stage=stage, step=step))

    def step_finished(self, record: StepRecord) -> None:
        """Write ``step-finished`` with the whole record."""
        self._event(StepFinished(at=self._now(), record=record))

    def message(self, text: str) -> None:
        """Write ``message``."""
        self._event(Message(at=self._now(), text=text))

    def update(self, label: str, done: int, total: int) -> None:
        """Write ``progress``."""
        self._event(Progress(at=self._now(), label=label, done=done, total=total))

    def finished(self, exit_code: int, folder: str, missed: tuple[str, ...]) -> None:
        """Write ``finished``, the last line."""
        self._event(Finished(at=self._now(), exit_code=exit_code, folder=folder, missed=missed))

    def failed(self, error: TrtforgeError) -> None:
        """Write ``failed``, the last line."""
        self._event(
            Failed(
                at=self._now(),
                exit_code=int(error.exit_code),
                code=error.code,
                where=error.where,
                what=error.what,
                remedy=error.remedy,
            )
        )

    def _now(self) -> float:
        return round(time.monotonic() - self._start, 3)

    def _event(self, event: Event) -> None:
        data = finite(_adapter().dump_python(event, mode="json"))
        self._write(json.dumps(data, allow_nan=False))


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line."""
    schema = _adapter().json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "trtforge event"
    described: dict[str, Any] = with_non_finite(schema)
    return described


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Event]:
    from pydantic import TypeAdapter

    return TypeAdapter(Event)
