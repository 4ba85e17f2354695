"""Writes models into a Triton model repository: whole, or not at all."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from trtforge.errors import RequestError
from trtforge.store import write_error
from trtforge.triton.chain import chained
from trtforge.triton.config import CONFIG
from trtforge.triton.serving import Served, Wishes, serve
from trtforge.triton.source import open_source

VERSION = "1"


def export(
    sources: Sequence[Path],
    repository: Path,
    *,
    name: str = "",
    wishes: Wishes | None = None,
    key: Path | None = None,
) -> tuple[Served, ...]:
    """Add a model to a repository, or a chain of several, and return what was written.

    Args:
        sources: A bundle or run folder; several make a chain, served as an ensemble, and so do
            the parts of a run that split its model.
        repository: The model repository; it is made if it is not there.
        name: Of the model; empty: that of the first source.
        wishes: How to serve it.
        key: Public key that must have signed the bundles.

    Raises:
        RequestError: a source is wrong, cannot be served, or the model is there already.
        EnvironmentLacks: the disk is full.
    """
    opened = [open_source(path, key=key) for path in sources]
    parts = [source for each in opened for source in each.sources]
    name = _plain(name or parts[0].name)
    names = [name] if len(parts) == 1 else [f"{name}-{part}" for part in range(len(parts))]
    wishes = wishes or Wishes()
    served = [serve(each, called, wishes) for each, called in zip(parts, names, strict=True)]
    if len(served) > 1:
        outputs = opened[-1].outputs
        served.append(Served(chained(name, [each.config for each in served], outputs), {}))
    try:
        _write(served, repository)
    except OSError as error:
        raise write_error(error, repository, "the model repository") from error
    return tuple(served)


def _plain(name: str) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip("-.")
    return plain or "model"


def _write(served: Sequence[Served], repository: Path) -> None:
    """Write the models beside the repository and rename them into it, an ensemble last."""
    for each in served:
        if (repository / each.config.name).exists():
            raise RequestError(
                f"the repository has a model {each.config.name!r} already",
                where=str(repository),
                remedy="give another --name, or remove that model",
            )
    repository.mkdir(parents=True, exist_ok=True)
    scratch = repository.with_name(f".{repository.name}.{secrets.token_hex(4)}")
    done: list[Path] = []
    try:
        for each in served:
            _write_model(each, scratch / each.config.name)
        for each in served:
            place = repository / each.config.name
            (scratch / each.config.name).rename(place)
            done.append(place)
    except BaseException:
        for place in done:
            shutil.rmtree(place, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_model(served: Served, folder: Path) -> None:
    version = folder / VERSION
    version.mkdir(parents=True)  # an ensemble has an empty one
    for path, copy in served.files.items():
        place = version / path
        place.parent.mkdir(exist_ok=True)
        copy(place)
    (folder / CONFIG).write_text(served.config.text(), encoding="utf-8")
