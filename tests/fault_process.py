"""Forks a job and decides over each of its changes to files, as a disk or a kernel would.

Every system call that changes a file below the watched folder stops in the kernel until this
process has ruled: it happens, fails with an error, happens by half, or its process is killed there.
That holds for threads, for libraries in C++ and for the processes that the job starts.
https://docs.kernel.org/userspace-api/seccomp_filter.html#userspace-notification
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ENOSYS
from fcntl import ioctl
from pathlib import Path
from typing import Any

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"

CALLS = {  # number on x86_64, and where the changed file stands: descriptor, or (folder, path)
    "write": (1, 0), "pwrite": (18, 0), "writev": (20, 0), "sendfile": (40, 0),
    "fsync": (74, 0), "fdatasync": (75, 0), "truncate": (76, (None, 0)), "ftruncate": (77, 0),
    "rename": (82, (None, 1)), "mkdir": (83, (None, 0)), "rmdir": (84, (None, 0)),
    "link": (86, (None, 1)), "unlink": (87, (None, 0)), "chmod": (90, (None, 0)),
    "open": (257, (0, 1)), "mkdirat": (258, (0, 1)), "unlinkat": (263, (0, 1)),
    "renameat": (264, (2, 3)), "linkat": (265, (2, 3)), "utimens": (280, (0, 1)),
    "fallocate": (285, 0), "renameat2": (316, (2, 3)), "copy_file_range": (326, 2),
}  # fmt: skip
NAMES = {number: name for name, (number, _) in CALLS.items()}
WRITES = ("write", "pwrite")
GROWS = (*WRITES, "writev", "sendfile", "copy_file_range", "fallocate", "open", "mkdir", "mkdirat",
         "link", "linkat")  # fmt: skip

# <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>
_SYS_SECCOMP, _PIDFD_GETFD = 317, 438
_SET_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_X86_64 = 0xC000003E
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NO_NEW_PRIVILEGES, _SUBREAPER = 38, 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Change:
    """A system call that is about to change a file."""

    call: str
    nth: int
    """How many of this name there were before."""
    path: Path
    process: int


@dataclass(frozen=True)
class Ruling:
    """What becomes of a change."""

    error: int = 0
    """Number of the error it fails with; 0: it happens."""
    half: bool = False
    """Of a write, the first half happens; without an error or a kill it then counts as short."""
    kill: bool = False
    """Its process gets SIGKILL."""


GO = Ruling()
Judge = Callable[[Change], Ruling]


@dataclass
class Ended:
    """How a job ended."""

    status: int
    """Exit status; negative: the signal."""
    answer: Any
    """What the job returned; None if it was killed."""
    changes: list[tuple[str, str]] = field(default_factory=list)
    """Names and paths of all changes, in order."""


class Jobs:
    """Jobs that were forked from this process; all their processes are waited for."""

    def __init__(self) -> None:
        _libc.prctl(_SUBREAPER, 1, 0, 0, 0)
        self._statuses: dict[int, int] = {}

    def start(self, job: Callable[[], Any], *, watched: bool) -> tuple[int, socket.socket]:
        """Fork ``job``; return its number and where its answer will come from."""
        ours, theirs = socket.socketpair()
        process = os.fork()
        if not process:
            ours.close()
            _run(job, theirs, watched=watched)
        theirs.close()
        return process, ours

    def run(self, job: Callable[[], Any], folder: Path, judge: Judge) -> Ended:
        """Run ``job`` with ``judge`` over its changes below ``folder``; return when all is over."""
        process, answers = self.start(job, watched=True)
        _, listeners, _, _ = socket.recv_fds(answers, 1, 1)
        if not listeners:
            self.wait()
            raise OSError(
                ENOSYS, "this kernel, or its container, lets nobody rule over system calls"
            )
        (listener,) = listeners
        changes: list[tuple[str, str]] = []
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while self.wait(os.WNOHANG):
                if any(event & select.POLLIN for _, event in poll.poll(20)):
                    _rule(listener, folder.resolve(), judge, changes)
        finally:
            os.close(listener)
        return Ended(self._statuses[process], said(answers), changes)

    def wait(self, options: int = 0) -> bool:
        """Gather processes that ended; return whether any is left."""
        while True:
            try:
                process, status = os.waitpid(-1, options)
            except ChildProcessError:
                return False
            if not process:
                return True
            self._statuses[process] = os.waitstatus_to_exitcode(status)

    def has_ended(self, process: int) -> bool:
        """Whether a process that was started here has ended."""
        self.wait(os.WNOHANG)
        return process in self._statuses


def said(answers: socket.socket) -> Any:
    """Return the answer of a job that has ended."""
    with answers, answers.makefile("rb") as stream:
        data = stream.read()
    return json.loads(data) if data else None


def _run(job: Callable[[], Any], channel: socket.socket, *, watched: bool) -> None:
    """Run the job in the forked process, which ends here."""
    status = 1
    try:
        if watched:
            listener = _install_filter()
            socket.send_fds(channel, [b"!"], [listener])
            os.close(listener)
        answer = job()
        channel.sendall(json.dumps(answer).encode())
        status = 0
    except BaseException:  # noqa: BLE001  # the process ends; its parent shows it
        channel.sendall(json.dumps({"traceback": traceback.format_exc()}).encode())
    finally:
        os._exit(status)


def _install_filter() -> int:
    """Let the calls of :data:`CALLS` wait for a ruling; return what tells of them."""
    creating = CALLS["open"][0]
    others = [number for number, _ in CALLS.values() if number != creating]
    end = 4 + len(others)  # of the list; then: allow, look at the flags (2), allow, notify

    def to(place: int, at: int) -> int:
        return place - at - 1

    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, to(end, 1), _X86_64),
        (_LOAD, 0, 0, 0),
        (_EQUAL, to(end + 1, 3), 0, creating),
        *((_EQUAL, to(end + 4, 4 + index), 0, number) for index, number in enumerate(others)),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 32),  # the third argument
        (_ANY_BIT, to(end + 4, end + 2), 0, os.O_CREAT),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    listener = _libc.syscall(_SYS_SECCOMP, _SET_FILTER, _NEW_LISTENER, header)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp gives no listener here")
    return int(listener)


def _rule(listener: int, folder: Path, judge: Judge, changes: list[tuple[str, str]]) -> None:
    notice = bytearray(80)
    try:
        ioctl(listener, _RECEIVE, notice)
    except OSError:  # its process was killed meanwhile
        return
    identity, thread, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", notice)
    value, ruling = 0, GO
    with suppress(OSError):  # the same
        name, process = NAMES[number], _process_of(thread)
        path = _path(thread, name, arguments)
        if path.is_relative_to(folder):
            nth = sum(each == name for each, _ in changes)
            changes.append((name, str(path.relative_to(folder))))
            ruling = judge(Change(name, nth, path, process))
        if ruling.half and name in WRITES:
            value = _write_half(thread, process, name, arguments)
        if ruling.kill:
            os.kill(process, signal.SIGKILL)
            return
    happens = not ruling.error and not value
    answer = struct.pack("QqiI", identity, value, 0 if value else -ruling.error,
                         _CONTINUE if happens else 0)  # fmt: skip
    with suppress(OSError):
        ioctl(listener, _SEND, answer)


def _process_of(thread: int) -> int:
    for line in Path(f"/proc/{thread}/status").read_text().splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise OSError(ENOSYS, "a thread without a process")


def _path(thread: int, name: str, arguments: list[int]) -> Path:
    """Return the file that a call is about to change."""
    place = CALLS[name][1]
    process = Path(f"/proc/{thread}")
    if isinstance(place, int):
        return Path((process / "fd" / str(arguments[place])).readlink())
    folder, text = place
    base = process / "cwd"
    if folder is not None and ctypes.c_int(arguments[folder]).value >= 0:  # else AT_FDCWD
        base = process / "fd" / str(arguments[folder])
    if not arguments[text]:  # utimensat on a descriptor
        return base.readlink()
    relative = os.fsdecode(_memory(thread, arguments[text], 4096).partition(b"\0")[0])
    return Path(os.path.normpath(base.readlink() / relative))


def _memory(thread: int, address: int, count: int) -> bytes:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(count)  # fewer where the process has no more there


def _write_half(thread: int, process: int, name: str, arguments: list[int]) -> int:
    """Write the first half of a write in its process's stead; return the number of bytes."""
    data = _memory(thread, arguments[1], arguments[2] // 2)
    handle = os.pidfd_open(process)
    ours = _libc.syscall(_PIDFD_GETFD, handle, int(arguments[0]), 0)
    os.close(handle)
    if ours < 0:
        raise OSError(ctypes.get_errno(), "the descriptor cannot be had")
    try:
        return os.pwrite(ours, data, arguments[3]) if name == "pwrite" else os.write(ours, data)
    finally:
        os.close(ours)
