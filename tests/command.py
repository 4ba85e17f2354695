"""Runs the real command: its arguments in, exit code and both streams out."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trtforge.cli import main

COMMAND = str(Path(sys.executable).with_name("trtforge"))
"""The command as a process of its own."""


@dataclass(frozen=True)
class Answer:
    """What a user sees of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as strict JSON: with nothing else in it, and without NaN."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


def trtforge(*arguments: object) -> Answer:
    """Run ``trtforge`` with these arguments inside this process."""
    out, err = io.StringIO(), io.StringIO()
    line = ["trtforge", *map(str, arguments)]
    code: object = None
    with patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Answer(code, out.getvalue(), err.getvalue())


def done(*arguments: object, code: int = 0) -> Answer:
    """Run ``trtforge`` and hold it to an exit code; there must be no traceback."""
    answer = trtforge(*arguments)
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    return answer


def on_terminal(*arguments: object, columns: int = 100) -> str:
    """Run the command on a pseudo-terminal and return what it shows, without colours."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(mine, 2**16)
        except OSError:  # how Linux ends a pseudo-terminal
            break
        if not data:
            break
        shown += data
    os.close(mine)
    assert process.wait(timeout=60) == 0
    text = shown.decode().replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
