"""Batches from a function of the user, written to files as they come.

So memory holds one batch, the data can be read again, and its content is part of the cache's keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtforge import DataError
from trtforge.user_code import load_function, user_code

if TYPE_CHECKING:
    from trtforge.artifacts import Array


_END = object()


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
    batches = iter(_call(loader))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    samples, number = 0, 0
    while count is None or samples < count:
        with user_code("the loader failed", f"{loader}: batch {number}"):
            batch = next(batches, _END)
        if batch is _END:
            break
        arrays = _arrays(batch, names, f"{loader}: batch {number}")
        np.savez(folder / f"{number:06}.npz", **arrays)  # type: ignore[arg-type]  # its stub
        samples += min((len(array) for array in arrays.values() if array.ndim), default=0)
        number += 1
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
    function = load_function(loader)
    with user_code("the loader cannot be started", loader):
        given = function()
    if not isinstance(given, Iterable) or isinstance(given, Mapping | str | bytes):
        raise DataError(
            f"the loader gave {type(given).__name__}, not batches one after the other",
            where=loader,
            remedy="return a list or a generator of batches",
        )
    return given
