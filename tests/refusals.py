"""Runs a command that must be refused: the documented exit code, where, what and what to do.

Never a traceback, never a changed file, never a file left over.
"""

import hashlib
from pathlib import Path

from command import trtforge
from models import CONV_RELU, parse

DONE, BAD_REQUEST, STEP_FAILED, ENVIRONMENT_LACKS = 0, 2, 3, 4
REMEDIES = ("To do:", "Did you mean", "It has:", "Try '")
CONV = parse(CONV_RELU).SerializeToString()


def contents():
    """Everything in the working folder: its names, and the hash of each file."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in Path().rglob("*")
    }


def refused(*arguments, code=BAD_REQUEST, says=(), unchanged=True):
    """Run a command that must be refused, and hold its message to ``says``."""
    before = contents()
    answer = trtforge(*arguments)
    assert "Traceback" not in answer.err, answer.err
    assert answer.code == code, answer
    for words in says:
        assert words in answer.err, answer.err
    assert any(remedy in answer.err for remedy in REMEDIES), f"what to do? {answer.err}"
    if unchanged:
        assert contents() == before
    return answer
