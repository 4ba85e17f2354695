"""Runs cells on this machine, each in a process of its own, several at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from trtforge.errors import ExitCode
from trtforge.matrix.cells import Cell
from trtforge.matrix.execute import Outcome

ATTEMPTS = 2
"""A process that dies without an answer is tried again so often in all."""


class LocalProcesses:
    """Runs cells in processes of this machine.

    Args:
        jobs: How many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def outcomes(
        self, cells: Sequence[Cell], inputs: Path, out: Path
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Yield each cell with its outcome, when it ends; run folders lie in ``out``."""
        with ThreadPoolExecutor(self._jobs) as pool:
            waiting = {pool.submit(self._attempts, cell, inputs, out): cell for cell in cells}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()

    def _attempts(self, cell: Cell, inputs: Path, out: Path) -> Outcome:
        for attempt in range(1, ATTEMPTS + 1):
            shutil.rmtree(out / cell.name, ignore_errors=True)
            outcome = self._once(cell, inputs, out / cell.name)
            if outcome is not None:
                return replace(outcome, attempts=attempt)
        error = f"its process died {ATTEMPTS} times without an answer"
        return Outcome(int(ExitCode.STEP_FAILED), 0.0, os.uname().nodename, error, ATTEMPTS)

    def _once(self, cell: Cell, inputs: Path, out: Path) -> Outcome | None:
        order = {"cell": cell.as_data(), "inputs": str(inputs), "out": str(out)}
        command = [sys.executable, "-m", "trtforge.matrix.execute"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        with self._lock:
            self._running.add(process)
        try:
            said, _ = process.communicate(json.dumps(order) + "\n")
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0 or not said.strip():
            return None
        return Outcome(**json.loads(said.splitlines()[-1]))

    def _stop(self) -> None:
        with self._lock:
            running = list(self._running)
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
