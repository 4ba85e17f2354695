"""The folder of one run: who owns it, what lies where."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trtforge.errors import RequestError
from trtforge.store import atomic_file, write_error

MARKER = "run.json"
REPORT = "report.json"
LOCK = ".lock"
_UNFINISHED = re.compile(r"\..+[.-][a-z0-9_]{8}")
"""Names of temporary files and folders: they are renamed, or removed, when they are whole."""


class RunFolder:
    """A folder that one run at a time may write.

    Args:
        path: The folder; made by :meth:`claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []
        self._is_fresh = False

    @property
    def is_run(self) -> bool:
        """Whether a run has written here before."""
        return (self.path / MARKER).is_file()

    @contextmanager
    def claim(self, source: str, recipe: str, *, resume: bool) -> Iterator[RunFolder]:
        """Make the folder for a run of ``recipe`` on ``source``; hold it until the block ends.

        Raises:
            RequestError: it cannot be written, holds something else or another run, or is in use.
            EnvironmentLacks: the disk is full.
        """
        self._is_fresh = not resume
        try:
            self._refuse_foreign(resume=resume)
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise write_error(error, self.path, "the output folder") from error
        try:
            self._lock(lock)
            if resume:
                self._refuse_other(source, recipe)
            self._clear()
            self.write(MARKER, json.dumps({"source": source, "recipe": recipe}))
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
        if not resume and self.path.is_dir() and not all(map(_is_left, self.path.iterdir())):
            what = "holds a run" if self.is_run else "is not empty"
            raise RequestError(
                f"the output folder {self.path} {what}",
                remedy=("continue it with --resume, or " if self.is_run else "")
                + "give another folder with --out",
            )

    def _refuse_other(self, source: str, recipe: str) -> None:
        """Refuse to put the results of one run among those of another."""
        try:
            earlier = json.loads((self.path / MARKER).read_bytes())
            model, name = str(earlier["source"]), str(earlier["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"--resume: the file {self.path / MARKER} is damaged",
                remedy="start anew in another folder with --out; finished steps are in the cache",
            ) from error
        if (Path(model).name, name) != (Path(source).name, recipe):
            raise RequestError(
                f"--resume: {self.path} holds a run of {name!r} on {model}, not of "
                f"{recipe!r} on {source}",
                remedy="give the same recipe and model, or another folder with --out",
            )

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"another run is writing to {self.path}",
                remedy="wait for it, or give another --out",
            ) from error

    def _clear(self) -> None:
        """Remove what a run that was killed had not finished to write."""
        for entry in self.path.iterdir():
            if entry.name != LOCK and _is_left(entry):
                self.remove(entry.name)

    def discard(self) -> None:
        """Leave the place as it was found: for a run that never began. A resumed one stays."""
        if not self._is_fresh:
            return
        for entry in self.path.iterdir():
            with suppress(OSError):  # the error that ended it is what counts
                _remove(entry)
        for folder in self._made:
            with suppress(OSError):  # another run may have put something there
                folder.rmdir()

    def copy_logs(self, place: Path) -> bool:
        """Copy what steps wrote into ``logs/``, one file after the other, to ``place``.

        Returns:
            Whether there was anything; where there was not, nothing is written.

        Raises:
            EnvironmentLacks: it cannot be written there.
        """
        logs = sorted((self.path / "logs").glob("*.log"))
        if not logs:
            return False
        try:
            with atomic_file(place) as file:
                for log in logs:
                    with log.open("rb") as source:
                        shutil.copyfileobj(source, file)
        except OSError as error:
            raise write_error(error, place, "the log") from error
        return True

    def remove(self, name: str) -> None:
        """Remove a file or folder of the run, if it is there."""
        try:
            _remove(self.path / name)
        except OSError as error:
            raise write_error(error, self.path / name) from error

    def write(self, name: str, content: str) -> Path:
        """Write a text file of the run atomically and return its path."""
        path = self.path / name
        try:
            with atomic_file(path) as file:
                file.write(content.encode())
        except OSError as error:
            raise write_error(error, path) from error
        return path


def _is_left(entry: Path) -> bool:
    """Whether this is the lock, or has the name of something that was not finished."""
    return entry.name == LOCK or _UNFINISHED.fullmatch(entry.name) is not None


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


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
