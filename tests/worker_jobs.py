"""Jobs for test_worker.py: what can go right and wrong in another process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

from trtforge.context import Progress
from trtforge.errors import BuildError


def echo(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    sys.stdout.write("said to stdout\n")
    sys.stderr.write("said to stderr\n")
    return {**payload, "pid": os.getpid(), "variable": os.environ.get("SET_FOR_THE_WORKER")}


def count(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    for done in range(1, 4):
        progress.update("counting", done, 3)
        time.sleep(0.06)
    return {}


def abort(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    sys.stderr.write("terminate called without an active exception\n")
    sys.stderr.flush()
    os.abort()


def segfault(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def kill_self(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def leave(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    os._exit(7)


def hang(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    progress.update(f"{os.getpid()} {child.pid}", 1, 1)
    time.sleep(600)
    return {}


def grow(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    held = [bytearray(b"x" * 2**20) for _ in range(payload["mebibytes"])]
    time.sleep(600)
    return {"held": len(held)}


def raise_value_error(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    raise ValueError("the moon is full")


def raise_build_error(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    raise BuildError("no such layer", where="node 'conv1'", remedy="drop it")


def answer_with_a_set(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    return {"not JSON": {1, 2}}


def leave_orphan(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    os._exit(3)
