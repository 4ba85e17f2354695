"""Kernels of custom ops under NVIDIA's compute-sanitizer: invalid accesses and races, on a GPU.

The sanitizer watches a process from its start, so the kernels are launched in one of their own: see
:mod:`trtforge.op_sanitizer_job`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.op_attributes import write_op

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.ops import CustomOp, Shape, Tactic

TOOLS = ("memcheck", "racecheck")
FOUND = 86
"""The exit code by which the sanitizer says that it found something."""
SHOWN = 12
"""Lines of what it says that are shown."""


def sanitizer() -> str:
    """Return the path of ``compute-sanitizer``, a part of the CUDA toolkit, or ``""``."""
    return shutil.which("compute-sanitizer") or ""


def sanitize(
    op: CustomOp,
    cases: Sequence[Sequence[Shape | Array]],
    tool: str,
    tactics: Sequence[Tactic | None] = (None,),
    dtypes: Sequence[str] = (),
) -> str:
    """Launch the kernels of ``op`` for all cases and types under a tool of the sanitizer.

    Args:
        op: The op; its class can be imported.
        cases: Shapes or arrays of its inputs.
        tool: One of ``TOOLS``.
        tactics: Tactics to launch; None: the op's own choice for each case.
        dtypes: Types to launch; empty: all of the op.

    Returns:
        What was found; empty: nothing.
    """
    with tempfile.TemporaryDirectory(prefix="trtforge-sanitizer-") as folder:
        _write_job(Path(folder), op, cases, tactics, dtypes or op.dtypes)
        done = subprocess.run(
            [
                sanitizer(), "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "5",
                sys.executable, "-m", "trtforge.op_sanitizer_job", folder,
            ],
            capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    if not done.returncode:
        return ""
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip("= ")]
    how = "found" if done.returncode == FOUND else f"ended with exit code {done.returncode}:"
    shown = told[:SHOWN] if done.returncode == FOUND else told[-SHOWN:]
    return "\n  ".join((f"compute-sanitizer {tool} {how}", *shown))


def _write_job(
    folder: Path,
    op: CustomOp,
    cases: Sequence[Sequence[Shape | Array]],
    tactics: Sequence[Tactic | None],
    dtypes: Sequence[str],
) -> None:
    named = []
    for number, case in enumerate(cases):
        inputs: list[Any] = []
        for position, given in enumerate(case):
            if isinstance(given, np.ndarray):
                name = f"{number}_{position}.npy"
                np.save(folder / name, given, allow_pickle=False)
                inputs.append(name)
            else:
                inputs.append(list(given))
        named.append(inputs)
    kind = type(op)
    job = {
        "module": kind.__module__, "kind": kind.__qualname__, "op": write_op(op), "cases": named,
        "tactics": [tactic and dict(tactic) for tactic in tactics], "dtypes": list(dtypes),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
