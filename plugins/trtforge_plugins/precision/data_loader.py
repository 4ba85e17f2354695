"""Batches from a function of the user, written to files as they come.

So memory holds one batch, the data can be read again, and its content is part of the cache's keys.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtforge import DataError

if TYPE_CHECKING:
    from trtforge.artifacts import Array


def write_batches(loader: str, names: Sequence[str], folder: Path, count: int | None) -> Path:
    """Write what ``loader`` gives to ``folder``, one .npz a batch, and return the folder.

    Args:
        loader: ``package.module:function``; the current folder is searched first.
        names: The model's inputs.
        folder: Made anew.
        count: Samples after which no further batch is asked for.

    Raises:
        DataError: there is no such function, it fails, or it gives something else than batches.
    """
    batches = _call(loader)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    samples, number = 0, 0
    try:
        for number, batch in enumerate(batches):
            arrays = _arrays(batch, names, f"{loader}: batch {number}")
            np.savez(folder / f"{number:06}.npz", **arrays)  # type: ignore[arg-type]  # its stub
            samples += min((len(array) for array in arrays.values() if array.ndim), default=0)
            if count is not None and samples >= count:
                break
    except DataError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise _failure("the loader failed", f"{loader}: after batch {number}", error) from error
    if not samples:
        raise DataError("the loader gave no sample", where=loader)
    return folder


def _arrays(batch: object, names: Sequence[str], where: str) -> dict[str, Array]:
    if not isinstance(batch, Mapping):
        if len(names) != 1:
            raise DataError(
                f"it is {type(batch).__name__}; the model has the inputs {', '.join(names)}",
                where=where,
                remedy="let the loader give mappings of input names to arrays",
            )
        batch = {names[0]: batch}
    arrays = {str(name): np.asarray(value) for name, value in batch.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise DataError(f"{name!r} holds Python objects, not numbers", where=where)
    return arrays


def _call(loader: str) -> Iterable[object]:
    module, _, name = loader.partition(":")
    if not module or not name:
        raise DataError(
            f"{loader!r} does not name a function", remedy="write package.module:function"
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name, None)
        given = function() if callable(function) else None
    except Exception as error:  # the user's code may raise anything
        raise _failure("the loader cannot be started", loader, error) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(function):
        raise DataError(f"module {module} has no function {name}", where=loader)
    if not isinstance(given, Iterable) or isinstance(given, Mapping | str | bytes):
        raise DataError(
            f"the loader gave {type(given).__name__}, not batches one after the other",
            where=loader,
            remedy="return a list or a generator of batches",
        )
    return given


def _failure(what: str, where: str, error: Exception) -> DataError:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return DataError(f"{what}: {type(error).__name__}: {text[:300]}", where=where)
