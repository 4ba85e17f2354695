"""Where an interrupted calibration goes on: the tallies so far, in the run folder."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from trtforge import Context
    from trtforge.artifacts import Array
    from trtforge_plugins.precision.tally import Tally

SECONDS = 30.0
"""Time between two savings; a calibration that is shorter leaves nothing behind."""
_FORMAT = "1"


class CalibrationState:
    """A file of arrays (never a pickle), replaced in one go, that knows what it belongs to.

    Args:
        ctx: Its run folder holds the file.
        key: Gives a hash of the model and the data; called only where there is a file, or one
            is to be written.
    """

    def __init__(self, ctx: Context, key: Callable[[], str]) -> None:
        self._path = ctx.workdir / "calibration-state.npz"
        self._ctx = ctx
        self._make_key = key
        self._known_key: str | None = None
        self._saved = time.monotonic()

    def load(self, tallies: Mapping[str, Tally]) -> int:
        """Restore ``tallies`` and return how many batches they hold; 0: start anew.

        A file that is damaged, or belongs to another model or other data, counts as none.
        """
        if not self._path.is_file():
            return 0
        try:
            with np.load(self._path, allow_pickle=False) as stored:
                state = dict(stored)
            if str(state.pop("key")) != self._key:
                return 0
            done = int(state.pop("done"))
            parts = {name: _part(state, name) for name in tallies}
            for name, tally in tallies.items():
                tally.restore(parts[name])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return 0
        self._ctx.note("data", f"calibration goes on after {done} batches of an interrupted run")
        return done

    def save(self, tallies: Mapping[str, Tally], done: int) -> None:
        """Write the file, unless the last time was a moment ago."""
        if time.monotonic() - self._saved < SECONDS:
            return
        arrays: dict[str, Array] = {"key": np.array(self._key), "done": np.array(done)}
        for name, tally in tallies.items():
            arrays |= {f"{name}\n{part}": array for part, array in tally.state().items()}
        _write(self._ctx.path(self._path.name), arrays)
        self._saved = time.monotonic()

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    @property
    def _key(self) -> str:
        if self._known_key is None:
            self._known_key = f"{_FORMAT} {self._make_key()}"
        return self._known_key


def _part(state: Mapping[str, Array], name: str) -> dict[str, Array]:
    start = f"{name}\n"
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write under another name first, so that the file is always whole; a full disk is no harm."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's own stub is too narrow
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
