"""Runs one cell."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtforge.context import Progress
from trtforge.errors import TrtforgeError
from trtforge.matrix.cells import Cell


@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    exit_code: int
    seconds: float
    machine: str
    """Name of the machine that ran it."""
    error: str = ""
    attempts: int = 1


def execute(cell: Cell, inputs: Path, out: Path) -> Outcome:
    """Run ``cell``; its files lie under ``inputs``, its run folder will be ``out``.

    A failure is an outcome, not an exception.
    """
    from trtforge.api import run

    started = time.perf_counter()
    error = ""
    try:
        recipe = str(inputs / cell.recipe) if cell.recipe in cell.files else cell.recipe
        done = run(
            recipe,
            inputs / cell.model,
            out=out,
            settings=[_placed(setting, cell, inputs) for setting in cell.settings],
            shapes=dict(cell.shapes) or None,
            targets=cell.targets,
        )
        code = int(done.exit_code)
    except TrtforgeError as failure:
        code, error = int(failure.exit_code), str(failure)
    return Outcome(code, round(time.perf_counter() - started, 2), os.uname().nodename, error)


def _placed(setting: str, cell: Cell, inputs: Path) -> str:
    """Return the setting with the place of its file, where its value is one of the cell's files."""
    key, _, value = setting.partition("=")
    return f"{key}={inputs / value}" if value in cell.files else setting


def obey(order: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
    """Run the cell of an order: the job of a worker process, which stays for the next cell."""
    outcome = execute(Cell.from_data(order["cell"]), Path(order["inputs"]), Path(order["out"]))
    gc.collect()  # a build process lasts as long as the step that started it
    return vars(outcome)
