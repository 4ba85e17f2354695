"""Ops whose rules fail while TensorRT builds, for test_plugins.py; the worker imports them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtforge_ops import RMSNorm

IN_WORKER = Path(sys.argv[0]).name == "worker_process.py"


def _fail(*_: Any) -> Any:
    raise ZeroDivisionError("a rule of mine")


@dataclass(frozen=True)
class Broken(RMSNorm):
    """Fails in one of its rules, in the process that builds only."""

    name = "test::Broken"

    broken: str = "shapes"

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if IN_WORKER and name == object.__getattribute__(self, "broken"):
            return _fail
        return found
