"""What must be true after a fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_cases import COMMANDS

from trtforge.bundle.storage import Bundle
from trtforge.store import file_digest


@dataclass(frozen=True)
class Right:
    """What a command does when nothing goes wrong."""

    results: dict[str, str]
    """Hash of each thing that it makes."""
    calls: dict[bool, list[str]]
    """Its changes of files, with an empty cache and with one that holds the results."""
    cache: Path
    """What it left in its cache."""
    exchanged: dict[str, str] = field(default_factory=dict)
    """As the results, but of the exchanged model; empty as long as nobody needs it."""


def results(folder: Path, name: str, answer: Any) -> dict[str, str]:
    """Return the hash of each thing that a command made."""
    if not COMMANDS[name].makes:
        return {"engine": answer["out"]}
    return {each: content(folder / each) for each in COMMANDS[name].makes}


def kept(folder: Path) -> dict[str, str]:
    """Return the hash of each file that belongs to the user."""
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in files(folder)
        if "cache" not in path.parts
    }


def files(folder: Path) -> Iterator[Path]:
    """Yield all files but those of the folder for temporary ones."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).parts[0] != "tmp":
            yield path


def check_state(folder: Path, before: dict[str, str], right: Right, *, damaged: bool) -> None:
    """Assert that nothing was lost, and that all that has a final name is whole.

    Of a ``damaged`` cache the rest is not looked at: what nobody needed is as it was.
    """
    after = kept(folder)
    assert {name: after.get(name) for name in before} == before
    known = {*right.results.values(), *right.exchanged.values()}
    for path in files(folder):
        name = path.relative_to(folder)
        if str(name) in before or any(part.startswith(".") for part in name.parts):
            continue  # the user's own, or not yet under a final name
        if damaged and name.parts[0] == "cache":
            continue
        _check_whole(path, name, known)
        blob = right.cache / Path(*name.parts[1:])
        if name.parts[:2] == ("cache", "blobs") and blob.is_file():
            assert file_digest(path) == file_digest(blob), name


def _check_whole(path: Path, name: Path, known: set[str]) -> None:
    if path.name == "manifest.json":
        Bundle(path.parent)
    elif path.suffix == ".zip":
        Bundle(path)
    elif name.parts[0] in ("out", "out2") and path.suffix in (".onnx", ".engine"):
        assert content(path) in known, name
    elif path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>"), name
    elif name.parts[:2] == ("cache", "blobs") and len(path.name) == 40:
        assert file_digest(path) == path.name, name


def content(path: Path) -> str:
    """Return the hash of a file's content; of a bundle's manifest without its time."""
    if path.is_dir() or path.suffix == ".zip":
        manifest = json.loads(Bundle(path).manifest.to_json())
        del manifest["created"]
        return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return file_digest(path)
