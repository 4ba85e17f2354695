"""Runs cells on this machine, several at a time, in processes that stay for the next cell."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, local

from trtforge.errors import ExitCode
from trtforge.matrix.cells import Cell
from trtforge.matrix.execute import Outcome
from trtforge.worker import Job, Worker, WorkerFailure

ATTEMPTS = 2
"""A cell whose process dies without an answer is tried again so often in all."""
IMPORTS = ("trtforge.matrix.execute", "trtforge.api", "trtforge.session")


class LocalProcesses:
    """Runs cells in processes of this machine, which end when this one does.

    Each process has its share of the cores: with all of them for each, a run would start as many
    threads as the machine has cores, beside those of the others.

    Args:
        jobs: How many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self.workers: tuple[Worker, ...] = ()
        self._free: SimpleQueue[int] = SimpleQueue()
        self._own = local()
        self._stopped = Event()

    def outcomes(
        self, cells: Sequence[Cell], inputs: Path, out: Path
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Yield each cell with its outcome, when it ends; run folders lie in ``out``."""
        self._stopped.clear()
        self.workers = tuple(Worker(imports=IMPORTS) for _ in cells[: self._jobs])
        for number in range(len(self.workers)):
            self._free.put(number)
        try:
            with ThreadPoolExecutor(len(self.workers), initializer=self._begin) as pool:
                waiting = {pool.submit(self._attempts, cell, inputs, out): cell for cell in cells}
                try:
                    for future in as_completed(waiting):
                        yield waiting[future], future.result()
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self._stop()
        finally:
            for worker in self.workers:
                worker.close()

    def _begin(self) -> None:
        """Give this thread a worker and a share of the cores, which what it starts inherits."""
        number, jobs = self._free.get(), len(self.workers)
        self._own.worker = self.workers[number]
        if hasattr(os, "sched_setaffinity"):  # Linux has it
            cores = sorted(os.sched_getaffinity(0))
            share = cores[number * len(cores) // jobs : (number + 1) * len(cores) // jobs]
            if share:  # there are as many cores as workers
                os.sched_setaffinity(0, share)

    def _attempts(self, cell: Cell, inputs: Path, out: Path) -> Outcome:
        worker: Worker = self._own.worker
        order = {"cell": cell.as_data(), "inputs": str(inputs), "out": str(out / cell.name)}
        job = Job("trtforge.matrix.execute:obey", order, f"the run of {cell.name}")
        error = ""
        for attempt in range(1, ATTEMPTS + 1):
            shutil.rmtree(out / cell.name, ignore_errors=True)
            try:
                return replace(Outcome(**worker.call(job)), attempts=attempt)
            except WorkerFailure as failure:
                error = f"{failure.what} (tried {attempt} times)"
                if self._stopped.is_set():
                    break
        return Outcome(int(ExitCode.STEP_FAILED), 0.0, os.uname().nodename, error, ATTEMPTS)

    def _stop(self) -> None:
        """End what still runs: the threads that wait for it go on, and find that it is over."""
        self._stopped.set()
        for worker in self.workers:
            if worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
