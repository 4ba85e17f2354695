"""The far side of :class:`trtforge.worker.Worker`: a script that runs jobs until it is told to end.

It is started by path, with standard library imports only, so that it is up within milliseconds.
Commands come as JSON lines on standard input; answers leave as JSON lines on a pipe of their own,
because whatever a job or a library prints belongs into its log.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PROGRESS_EVERY = 0.05  # seconds; more would only slow the job


class Channel:
    """Sends answers; also the job's progress. Jobs may use it from several threads."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # noqa: FBT003  # the library's own signature
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._last = 0.0

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one answer."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]

    def update(self, label: str, done: int, total: int) -> None:
        """Report progress; reports that follow too fast on another are left out."""
        now = time.monotonic()
        if now - self._last >= PROGRESS_EVERY or done == total:
            self._last = now
            self.send({"progress": [label, done, total]})


def main() -> None:
    """Obey until the other side closes standard input."""
    channel = Channel(int(sys.argv[1]))
    end_with_parent(int(sys.argv[2]))
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    redirect(os.devnull, os.O_RDONLY, 0)
    faulthandler.enable()
    setup = json.loads(commands.readline() or "null")
    if setup is None:
        return
    sys.path[:] = setup["path"]
    for name in setup["imports"]:
        with suppress(Exception):  # the job imports it again and says what is wrong
            importlib.import_module(name)
    for command in commands:
        channel.send(answer(json.loads(command), channel))


def end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process as soon as the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def redirect(path: str, flags: int, *descriptors: int) -> None:
    """Let ``descriptors`` mean the file ``path``."""
    file = os.open(path, flags, 0o644)
    for descriptor in descriptors:
        os.dup2(file, descriptor)
    os.close(file)


def answer(command: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """Run one job; return its result, or its error as data."""
    if command["log"]:
        redirect(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1, 2)
    try:
        module, _, function = command["function"].partition(":")
        job = getattr(importlib.import_module(module), function)
        reply = {"result": job(command["payload"], channel)}
        json.dumps(reply)
    except Exception as error:  # noqa: BLE001  # it is raised again on the other side
        reply = {"error": describe(error)}
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return reply


def describe(error: Exception) -> dict[str, Any]:
    """Return ``error`` as data from which the other side makes an error of the same kind."""
    from trtforge.errors import TrtforgeError

    if isinstance(error, TrtforgeError):
        ours = (cls for cls in type(error).__mro__ if cls.__module__ == TrtforgeError.__module__)
        names = ("what", "where", "remedy", "code")
        fields = {name: getattr(error, name) for name in names}
        return {"class": next(ours).__name__, **fields}
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return {"class": "", "what": text, "out_of_memory": isinstance(error, MemoryError)}


if __name__ == "__main__":
    main()
