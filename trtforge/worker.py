"""Runs a function in a process of its own, so that a crash, a hang or a full memory is an answer.

A job is a function ``job(payload, progress) -> result`` of some importable module: ``payload`` and
the result are JSON-ready mappings, ``progress`` is a :class:`trtforge.context.Progress`. It is
named by text, ``package.module:function``, and nothing but JSON crosses between the processes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trtforge import errors
from trtforge.context import Progress, Silent
from trtforge.errors import TrtforgeError, WorkerError
from trtforge.quantities import format_bytes
from trtforge.worker_samples import Samples, memory_of_this_machine, oom_kills

SCRIPT = Path(__file__).with_name("worker_process.py")
TICK = 0.1  # seconds between two looks at the clock and at the memory
LOG_TAIL = 64 * 1024


class Cause(StrEnum):
    """Why a job gave no result."""

    CRASHED = "crashed"
    """The process ended by a signal such as SIGSEGV or SIGABRT, or left without an answer."""
    TIMED_OUT = "timed-out"
    """It ran past its time limit and was killed."""
    OUT_OF_MEMORY = "out-of-memory"
    """It passed its memory limit, could not allocate, or was killed by the kernel."""
    KILLED = "killed"
    """Somebody killed it with SIGKILL, and what was seen of its memory is not why."""
    RAISED = "raised"
    """The job raised an exception that is not one of trtforge's own."""


class WorkerFailure(WorkerError):
    """A job gave no result; ``cause`` says why."""

    def __init__(self, what: str, *, cause: Cause, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.cause = cause


@dataclass(frozen=True)
class Job:
    """What a worker is asked to do, and within which limits."""

    function: str
    """``package.module:function``."""
    payload: Mapping[str, Any]
    """Its argument: paths and options, JSON-ready; data itself stays in files."""
    title: str
    """How messages call it: ``the TensorRT build``."""
    log: Path | None = None
    """Where everything goes that it prints; written anew for each job."""
    time_limit: float | None = None
    """Seconds."""
    memory_limit: int | None = None
    """Bytes of resident memory, of the process and its children together."""


class Worker:
    """A process that runs jobs one after the other. It never outlives this one.

    It starts with the first job, or earlier by :meth:`start`, and again after a failure. On Linux
    the kernel kills it when the *thread* that started it ends, so start it from a lasting one.

    Args:
        imports: Modules that the process imports while it waits for its first job.
        environment: Variables to set for the process; some, like ``LD_LIBRARY_PATH``, are only
            read when a process starts.
    """

    def __init__(
        self, *, imports: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._imports = tuple(imports)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._end: weakref.finalize[..., Worker] | None = None
        self._samples = Samples()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process, or None while none runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process unless it runs; it then imports what it was told to."""
        if self._process is not None:
            return
        self._answers, far_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(SCRIPT), str(far_end), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(far_end,),
                env={**os.environ, **self._environment},
                start_new_session=True,  # a group of its own: all of it can be killed at once
            )
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(far_end)
        self._end = weakref.finalize(self, _end, self._process, self._answers)
        path = [str(Path(entry).absolute()) for entry in sys.path]
        self._send({"path": path, "imports": self._imports})

    def close(self) -> None:
        """Kill the process and all of its group, if it runs."""
        if self._end is not None:
            self._end()
        self._process, self._end = None, None

    def call(self, job: Job, progress: Progress | None = None) -> dict[str, Any]:
        """Run ``job`` and return its result. After a failure the process is gone.

        Raises:
            WorkerFailure: the process crashed, hung, ran out of memory, or the job raised.
            TrtforgeError: the job raised this error.
        """
        self.start()
        log = None
        if job.log is not None:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.unlink(missing_ok=True)  # an earlier job's words are not this one's
            log = str(job.log.absolute())
        try:
            self._send({"function": job.function, "payload": job.payload, "log": log})
            return self._result(job, progress or Silent())
        except BaseException:  # an interrupt as well: nothing goes on in the background
            self.close()
            raise

    def _result(self, job: Job, progress: Progress) -> dict[str, Any]:
        for answer in self._receive(job):
            if "result" in answer:
                return dict(answer["result"])
            if "error" in answer:
                raise _error(answer["error"], job)
            progress.update(*answer["progress"])
        raise self._death(job)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None  # noqa: S101  # start() was called
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        data = json.dumps(message).encode() + b"\n"
        with suppress(BrokenPipeError):  # it died; reading its answers finds out of what
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _receive(self, job: Job) -> Iterator[dict[str, Any]]:
        """Yield answers until the process ends, and hold it to its limits meanwhile."""
        started = checked = time.monotonic()
        samples = self._samples = Samples()
        samples.take(self.pid or 0)
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        rest = b""
        while True:
            if poll.poll(TICK * 1000):
                data = os.read(self._answers, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                yield from map(json.loads, lines)
            elif self._has_ended():  # although a child of it may still hold the pipe
                return
            now = time.monotonic()
            if job.time_limit is not None and now - started > job.time_limit:
                raise WorkerFailure(
                    f"{job.title} did not end within {job.time_limit:g} seconds and was stopped; "
                    f"{samples}, and had computed for {samples.processor:.1f} s",
                    cause=Cause.TIMED_OUT,
                    remedy=_remedy("give it a longer time limit", job.log),
                )
            if now - checked > TICK:
                checked = now
                samples.take(self.pid or 0)
                if job.memory_limit is not None:
                    self._check_memory(job, job.memory_limit)

    def _has_ended(self) -> bool:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid or 0, options) is not None

    def _check_memory(self, job: Job, limit: int) -> None:
        used = resident_memory(self.pid or 0)
        if used > limit:
            raise WorkerFailure(
                f"{job.title} used {format_bytes(used)} of memory and was stopped; "
                f"its limit is {format_bytes(limit)}",
                cause=Cause.OUT_OF_MEMORY,
                remedy=_remedy("raise the memory limit, or make the model smaller", job.log),
            )

    def _death(self, job: Job) -> WorkerFailure:
        process = self._process
        self.close()
        status = process.returncode if process else 0
        words = last_words(job.log)
        if status == -signal.SIGKILL:
            return self._kill(job)
        how = f"died from {_signal_name(-status)}" if status < 0 else f"left with status {status}"
        return WorkerFailure(
            f"{job.title} {how}{f': {words}' if words else ' and said nothing'}",
            cause=Cause.CRASHED,
            remedy=_remedy(
                "find the part of the model that does it with `trtforge bisect`", job.log
            ),
        )

    def _kill(self, job: Job) -> WorkerFailure:
        """Say who sent SIGKILL, as the samples of its memory speak for."""
        samples = self._samples
        if samples.speak_of_memory(memory_of_this_machine(), oom_kills()):
            return WorkerFailure(
                f"{job.title} was killed (SIGKILL), most likely by the kernel because the machine "
                f"ran out of memory: {samples}",
                cause=Cause.OUT_OF_MEMORY,
                remedy=_remedy("free memory or use a machine with more", job.log),
            )
        return WorkerFailure(
            f"{job.title} was killed (SIGKILL) by another process, not for memory: {samples}",
            cause=Cause.KILLED,
            remedy=_remedy("look for who ends processes here, and run it again", job.log),
        )


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process and all processes below it, in bytes."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def last_words(log: Path | None) -> str:
    """Return the last line that a crashed process printed itself, at most 300 characters."""
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        text = file.read().decode(errors="replace")
    spoken = text.partition("Fatal Python error")[0]  # what follows is faulthandler's stack
    lines = [line.strip() for line in spoken.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _end(process: subprocess.Popen[bytes], answers: int) -> None:
    """Kill the group of ``process``, wait for it, and close the pipes to it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # before the wait: until then the number is taken
    process.wait()
    os.close(answers)
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _error(data: Mapping[str, Any], job: Job) -> TrtforgeError:
    """Make the error that a job raised: one of ours again, or a failure with its text."""
    kind = getattr(errors, data["class"], None) if data["class"] else None
    if isinstance(kind, type) and issubclass(kind, TrtforgeError):
        return kind(**{name: data[name] for name in ("what", "where", "remedy", "code")})
    return WorkerFailure(
        f"{job.title} failed: {data['what']}",
        cause=Cause.OUT_OF_MEMORY if data["out_of_memory"] else Cause.RAISED,
        remedy=_remedy("", job.log),
    )


def _remedy(advice: str, log: Path | None) -> str:
    return "; ".join(filter(None, [advice, f"its log is {log}" if log else ""]))
