"""Engines that were built here, kept for the next time: bundles, found by all that decides them.

The key covers the bundle (its manifest names the hash of model and recipe), GPU, driver, CUDA and
the TensorRT libraries. A change of any is another key, so nothing stale is found; and what is found
is checked byte by byte and against this machine again, like any bundle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from trtforge.bundle.compatibility import libraries
from trtforge.bundle.manifest import Manifest
from trtforge.bundle.storage import Bundle
from trtforge.environment import Environment, Gpu
from trtforge.errors import BundleError, EnvironmentLacks
from trtforge.store import digest

WAIT = 4 * 3600.0
"""Seconds to wait for another process that builds the same engine."""


class EngineStore:
    """Engines below ``root``, one folder for each key."""

    def __init__(self, root: Path) -> None:
        self._root = root / "engines"

    def path(self, key: str) -> Path:
        """Return where the bundle of a key lies, or would lie."""
        return self._root / key

    def find(self, key: str) -> Bundle | None:
        """Return the checked bundle of a key, or None; a damaged one is removed."""
        place = self.path(key)
        if not place.is_dir():
            return None
        try:
            return Bundle(place)
        except BundleError:
            shutil.rmtree(place, ignore_errors=True)
            return None

    def drop(self, key: str) -> None:
        """Remove the bundle of a key."""
        shutil.rmtree(self.path(key), ignore_errors=True)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Let one process at a time build for a key; the system frees the lock of one that dies.

        Raises:
            EnvironmentLacks: the folder cannot be written, or another process builds for hours.
        """
        from filelock import FileLock, Timeout

        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._root / f"{key}.lock", timeout=WAIT):
                yield
        except Timeout as error:
            raise EnvironmentLacks(
                f"another process has been building this engine for {WAIT / 3600:.0f} hours",
                remedy=f"end it, and remove {self._root / key}.lock",
            ) from error
        except OSError as error:
            raise EnvironmentLacks(
                f"the cache folder {self._root} cannot be written: {error.strerror}",
                remedy="let TRTFORGE_CACHE name a folder that can",
            ) from error


def store_key(manifest: Manifest, machine: Environment, gpu: Gpu) -> str:
    """Return the hash of all that decides an engine built from a bundle on a GPU."""
    import trtforge

    facts = {
        "bundle": digest(manifest.to_json()),
        "gpu": [gpu.name, gpu.compute_capability],
        "driver": machine.driver,
        "cuda": machine.cuda,
        "platform": machine.platform,
        "libraries": [asdict(each) for each in libraries(machine)],
        "trtforge": trtforge.__version__,
    }
    return digest(json.dumps(facts, sort_keys=True).encode())
