"""A warm process that runs jobs in forks of itself, with a fault in each.

    python tests/fault_jobs.py

Orders come as JSON lines on standard input, an answer to each leaves on standard output. What
takes long to import is imported once, here, without starting a thread; so a job costs what it does.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from command import trtforge
from fault_process import GO, GROWS, Change, Jobs, Judge, Ruling, said

from trtforge.store import write_tensor

SHARED_WAIT = 3.0
"""Seconds for which a stopped run waits for the other, which may itself wait for a lock of it."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when."""

    kind: str = "none"
    """none, kill, tear, boundary, full, error, read-only, skew, or shared."""
    call: str = ""
    """Name of the system call that is the moment."""
    nth: int = 0
    """How many of that name come before it."""
    seconds: float = 0.0
    """By which the clock is wrong."""


@dataclass(frozen=True)
class Order:
    """One command in a folder of its own."""

    folder: str
    line: list[str]
    """Arguments of ``trtforge``; ``load BUNDLE`` stands for :func:`trtforge.load`, and ``store``
    for writing one weight."""
    fault: Fault = field(default_factory=Fault)
    other: list[str] = field(default_factory=list)
    """The command that a shared cache is shared with."""


def main() -> None:
    """Obey until standard input ends."""
    import trtforge_plugins

    import trtforge as package

    for each in (package, trtforge_plugins):
        for module in pkgutil.walk_packages(each.__path__, f"{each.__name__}."):
            if module.name not in ("trtforge.worker_process", "trtforge.__main__"):
                with suppress(ImportError):
                    importlib.import_module(module.name)
    for name in ("onnxruntime", "onnx_graphsurgeon", "onnx.reference", "jinja2.ext"):
        importlib.import_module(name)
    jobs = Jobs()
    for line in sys.stdin:
        data = json.loads(line)
        order = Order(**{**data, "fault": Fault(**data["fault"])})
        sys.stdout.write(json.dumps(obey(order, jobs)) + "\n")
        sys.stdout.flush()


def obey(order: Order, jobs: Jobs) -> dict[str, Any]:
    """Run the order's command with its fault; return how it ended, and what the other said."""
    second = _Second(order, jobs)
    try:
        ended = jobs.run(
            lambda: job(order.line, order.folder, order.fault),
            Path(order.folder),
            _judge(order.fault, second),
        )
    except OSError as error:
        return {"refused": error.strerror, "answer": None}
    return {**asdict(ended), "other": second.answer()}


class _Second:
    """The other command on a shared cache; it begins when the first one is stopped."""

    def __init__(self, order: Order, jobs: Jobs) -> None:
        self._order, self._jobs = order, jobs
        self._started: tuple[int, Any] | None = None

    def run(self) -> None:
        self._started = self._jobs.start(
            lambda: job(self._order.other, self._order.folder, Fault()), watched=False
        )
        end = time.monotonic() + SHARED_WAIT
        while not self._jobs.has_ended(self._started[0]) and time.monotonic() < end:
            time.sleep(0.01)

    def answer(self) -> Any:
        return said(self._started[1]) if self._started else None


def _judge(fault: Fault, second: _Second) -> Judge:
    """Return what rules over the changes of a job with this fault."""
    came: list[bool] = []

    def judge(change: Change) -> Ruling:
        now = (change.call, change.nth) == (fault.call, fault.nth)
        if now:
            came.append(True)
        match fault.kind:
            case "kill" if now:
                return Ruling(kill=True)
            case "tear" if now:
                return Ruling(half=True, kill=True)
            case "full" if came and change.call in GROWS:
                return Ruling(errno.ENOSPC, half=now)
            case "error" if now:
                return Ruling(errno.EIO)
            case "read-only" if "cache" in change.path.parts:
                return Ruling(errno.EROFS)
            case "shared" if now:
                second.run()
        return GO

    return judge


def job(line: list[str], folder: str, fault: Fault) -> dict[str, Any]:
    """Run a command in ``folder``, in this forked process; return code and words."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    os.chdir(folder)
    os.environ["TRTFORGE_CACHE"] = str(Path(folder) / "cache")
    tempfile.tempdir = str(Path(folder) / "tmp")
    os.environ["TMPDIR"] = tempfile.tempdir
    if fault.kind == "boundary":
        _kill_at_boundary(fault.nth)
    if fault.kind == "skew":
        _skew(fault.seconds)
    if line[0] == "load":
        return load(line[1])
    if line[0] == "store":
        return store(Path(folder) / "weight")
    answer = trtforge(*line)
    return {"code": answer.code, "out": answer.out[-4000:], "err": answer.err[-4000:]}


def store(place: Path) -> dict[str, Any]:
    """Write a small weight; return what the system says where it cannot be."""
    try:
        with place.open("wb") as file:
            write_tensor(ir.tensor(np.arange(100, dtype=np.int32)), file)
    except OSError as error:
        return {"code": 0, "out": "", "err": error.strerror}
    return {"code": 0, "out": "", "err": ""}


def load(bundle: str) -> dict[str, Any]:
    """Load a bundle on a machine with a GPU of its own; return the hash of the engine it opens."""
    from bundles import machine
    from trtforge_plugins.tensorrt.backend import TensorRT

    import trtforge as package
    from trtforge.environment import environment
    from trtforge.errors import TrtforgeError
    from trtforge.runtime import loading

    opened: list[str] = []

    class Session:
        title, inputs, outputs = "a stand-in", (), ()

        def close(self) -> None:
            """Nothing was opened."""

    def open_engine(file: Any) -> Session:
        opened.append(hashlib.sha256(file.data).hexdigest())
        return Session()

    packages = environment().packages
    loading.environment = lambda: machine("8.6", packages=packages)
    loading.Chain = lambda *_: Session()  # type: ignore[misc,assignment]  # of stand-ins
    TensorRT.open_engine = open_engine  # type: ignore[method-assign,assignment]
    try:
        package.load(bundle)
    except TrtforgeError as error:
        return {"code": int(error.exit_code), "out": "", "err": str(error)}
    return {"code": 0, "out": opened[0], "err": ""}


def _kill_at_boundary(nth: int) -> None:
    """Kill this process before (even ``nth``) or after (odd) its step number ``nth // 2``."""
    from trtforge.host import Host

    run_step, seen = Host.run_step, [0]

    def counted(self: Host, step: Any, ctx: Any) -> int:
        number = seen[0]
        seen[0] += 1
        if nth == 2 * number:
            os.kill(os.getpid(), signal.SIGKILL)
        changes = run_step(self, step, ctx)
        if nth == 2 * number + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return changes

    Host.run_step = counted  # type: ignore[method-assign]


def _skew(seconds: float) -> None:
    """Let the clock be wrong from now on; files keep the kernel's times."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)


if __name__ == "__main__":
    main()
