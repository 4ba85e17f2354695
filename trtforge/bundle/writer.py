"""Writes a bundle: whole and under its name, or not at all.

Files go into a folder (or a zip file) of another name beside the target, which is renamed when all
of it has reached the disk. Engines of equal content are stored once.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from blake3 import blake3

from trtforge.artifacts import Engine, Ranges
from trtforge.bundle import signature
from trtforge.bundle.contents import Contents
from trtforge.bundle.copying import WriteBehind, copy_and_hash
from trtforge.bundle.manifest import (
    MANIFEST,
    SIGNATURE,
    BundledEngine,
    BundledModel,
    Manifest,
    StoredFile,
)
from trtforge.errors import RequestError
from trtforge.store import write_error

if TYPE_CHECKING:
    from trtforge.report import Report

CHUNK = 2**20
RANGES = "calibration/ranges.json"
Open = Callable[[str], IO[bytes]]


def write(contents: Contents, target: Path, *, key: Path | None = None) -> Manifest:
    """Write a bundle and return its manifest.

    Args:
        contents: What goes in.
        target: The bundle: a zip file if its name ends in ``.zip``, else a folder.
        key: File with the private key to sign with; None: it stays unsigned.

    Raises:
        RequestError: the target exists, cannot be written, or the key is none.
        EnvironmentLacks: the disk is full, or ``cryptography`` is missing for a signature.
    """
    if target.exists():
        raise _exists(target)
    opened = _zip_file if target.suffix == ".zip" else _folder
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(target) as new_file:
            return _Writer(new_file).write(contents, key)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _exists(target) from error  # somebody else was quicker
        raise write_error(error, target, "the bundle") from error


def _exists(target: Path) -> RequestError:
    return RequestError(
        "it exists already, and a bundle is never changed in place",
        where=str(target),
        remedy="give another path, or remove it",
    )


class _Writer:
    def __init__(self, new_file: Open) -> None:
        self._new_file = new_file
        self._files: dict[str, StoredFile] = {}

    def write(self, contents: Contents, key: Path | None) -> Manifest:
        import trtforge

        manifest = Manifest(
            trtforge=trtforge.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=self._model(contents),
            engines=tuple(
                self._engine(engine, report, part) for part, (engine, report) in _numbered(contents)
            ),
            recipe=contents.recipe,
            evidence=_evidence(contents.reports[0]),
            ranges=self._ranges(contents.ranges),
            licenses=tuple(map(self._license, contents.licenses)),
            built_on=asdict(contents.reports[0].environment),
            files=tuple(self._files.values()),
        )
        text = manifest.to_json()
        with self._new_file(MANIFEST) as file:
            file.write(text)
        if key is not None:
            with self._new_file(SIGNATURE) as file:
                file.write(signature.sign(text, key))
        return manifest

    def _add(self, source: Path, path: str) -> str:
        """Copy a file into the bundle and return its path there."""
        with source.open("rb") as content, self._new_file(path) as file:
            size, digest = copy_and_hash(content, file)
        self._files[path] = StoredFile(path, size, digest)
        return path

    def _model(self, contents: Contents) -> BundledModel:
        file = None
        if contents.with_model:
            file, *_ = [
                self._add(each, f"model/{each.name}") for each in (contents.model, *contents.data)
            ]
        known = contents.interface
        return BundledModel(contents.name, file, known.inputs, known.outputs, known.metadata)

    def _engine(self, engine: Engine, report: Report, part: int) -> BundledEngine:
        return BundledEngine(
            file=self._engine_file(engine),
            flavor=engine.flavor,
            version=engine.version,
            cuda=engine.cuda,
            platform=engine.platform,
            targets=engine.targets,
            gpu=engine.gpu,
            hardware_compatibility=engine.hardware_compatibility,
            version_compatible=engine.version_compatible,
            memory=engine.memory,
            profiles=report.chain.parts[part].profiles if report.chain else report.request.profiles,
            precision={share.dtype: share.share for share in report.precision.shares}
            if report.precision
            else {},
            part=part,
        )

    def _engine_file(self, engine: Engine) -> str:
        """Store an engine's file, unless one of the same content is there."""
        size = engine.path.stat().st_size
        same_size = [file for file in self._files.values() if file.size == size]
        digest = blake3_of(engine.path) if same_size else ""
        for file in same_size:
            if file.blake3 == digest:
                return file.path
        name = re.sub(r"[^\w.+-]+", "-", engine.path.stem).strip("-.") or "model"
        where = "-".join([name, *engine.targets[:8]])
        path = f"engines/{where}.engine"
        number = 1
        while path in self._files:
            number += 1
            path = f"engines/{where}-{number}.engine"
        return self._add(engine.path, path)

    def _ranges(self, ranges: Ranges | None) -> str | None:
        if ranges is None:
            return None
        data = (json.dumps(asdict(ranges), indent=2) + "\n").encode()
        with self._new_file(RANGES) as file:
            file.write(data)
        self._files[RANGES] = StoredFile(RANGES, len(data), blake3(data).hexdigest())
        return RANGES

    def _license(self, source: Path) -> str:
        if not source.is_file():
            raise RequestError(f"the license file {source} is not there")
        name = re.sub(r"[^\w.+-]+", "-", source.name).strip("-.") or "LICENSE"
        return self._add(source, f"licenses/{name}")


@contextmanager
def _folder(target: Path) -> Iterator[Open]:
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")

    def new_file(path: str) -> IO[bytes]:
        place = scratch / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place.open("x+b")

    try:
        scratch.mkdir()
        yield new_file
        for place in [*scratch.rglob("*"), scratch]:
            _flush(place)
        scratch.rename(target)  # fails if somebody made one meanwhile that is not empty
        _flush(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _zip_file(target: Path) -> Iterator[Open]:
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with (
            closing(WriteBehind(scratch)) as file,
            zipfile.ZipFile(cast("IO[bytes]", file), "w", zipfile.ZIP_STORED) as archive,
        ):

            def new_file(path: str) -> IO[bytes]:
                entry = zipfile.ZipInfo(path, date_time=datetime.now(UTC).timetuple()[:6])
                entry.external_attr = 0o100644 << 16
                return archive.open(entry, "w", force_zip64=True)

            yield new_file
        _flush(scratch)
        os.link(scratch, target)  # unlike a rename, it replaces nothing
        _flush(target.parent)
    finally:
        with suppress(OSError):  # the bundle is there, or another error says why not
            scratch.unlink()


def _flush(place: Path) -> None:
    """Let a file or folder reach the disk: after a crash there is all of it, or the old state."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _numbered(contents: Contents) -> Iterator[tuple[int, tuple[Engine, Report]]]:
    """Yield the engines with their place in the chain: several of one run make one model."""
    for report in contents.reports:
        for part, engine in enumerate(report.engines):
            yield part, (engine, report)


def blake3_of(path: Path) -> str:
    """Return the BLAKE3 hash of a file's content in hexadecimal, as ``b3sum`` shows it."""
    content = blake3()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            content.update(piece)
    return content.hexdigest()


def _evidence(report: Report) -> dict[str, Any]:
    data = json.loads(report.to_json())
    return {key: data[key] for key in ("verdict", "comparison", "precision", "request", "figures")}
