"""The folder of one run: who owns it, what lies where."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trtforge.errors import RequestError
from trtforge.store import atomic_file

MARKER = "run.json"
REPORT = "report.json"


class RunFolder:
    """A folder that one run at a time may write.

    Args:
        path: The folder; made by :meth:`claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_run(self) -> bool:
        """Whether a run has written here before."""
        return (self.path / MARKER).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether that run came to its end."""
        return (self.path / REPORT).is_file()

    @contextmanager
    def claim(self, *, resume: bool) -> Iterator[RunFolder]:
        """Make the folder and hold it until the block ends.

        Raises:
            RequestError: it cannot be written, holds something else or another run, or is in use.
        """
        self._refuse_foreign(resume=resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise RequestError(
                f"the output folder {self.path} cannot be written: {error.strerror}",
                remedy="give another folder with --out",
            ) from error
        try:
            self._lock(lock)
            yield self
        finally:
            os.close(lock)

    def _refuse_foreign(self, *, resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RequestError(
                f"--out {self.path} is a file, not a folder", remedy="give another folder"
            )
        if resume and not self.is_run:
            raise RequestError(
                f"--resume: there is no run in {self.path}",
                remedy="leave --resume out to start one",
            )
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            what = "holds a run" if self.is_run else "is not empty"
            raise RequestError(
                f"the output folder {self.path} {what}",
                remedy="continue it with --resume, or give another folder with --out",
            )

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"another run is writing to {self.path}",
                remedy="wait for it, or give another --out",
            ) from error

    def write(self, name: str, content: str) -> Path:
        """Write a text file of the run atomically and return its path."""
        path = self.path / name
        with atomic_file(path) as file:
            file.write(content.encode())
        return path


def default_folder(model: str, recipe: str, *, resume: bool, below: Path | None = None) -> Path:
    """Return ``runs/MODEL-RECIPE``, numbered where it exists; the newest one to resume."""
    stem = Path(model).stem if Path(model).suffix else model.replace(":", "-").replace("/", "-")
    root = below or Path("runs")
    name = f"{stem}-{recipe}"
    taken = [root / name, *(root / f"{name}-{number}" for number in range(2, 10_000))]
    if resume:
        existing = [path for path in taken if path.is_dir()]
        return existing[-1] if existing else taken[0]
    return next(path for path in taken if not path.exists())
