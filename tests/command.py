"""Runs the real command inside this process: its arguments in, exit code and both streams out."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from trtforge.cli import main


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
    """Run ``trtforge`` with these arguments."""
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
