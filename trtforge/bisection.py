"""Finds the smallest part of a model whose build still fails in the same way."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from trtforge import model_file
from trtforge.context import Context, Progress, Request, Silent
from trtforge.delta import Part, smallest
from trtforge.errors import EnvironmentLacks, RequestError, TrtforgeError
from trtforge.graph import label
from trtforge.steps import Backend
from trtforge.store import atomic_file, write_error
from trtforge.subgraph import Cutter

VERDICTS = "verdicts.json"
REDUCED = "reduced.onnx"
SCRIPT = "reproduce.py"


@dataclass(frozen=True)
class Reduced:
    """The smallest part that fails."""

    code: str
    """Of the failure."""
    error: str
    """The failure of the part, in the words of the backend."""
    nodes: tuple[str, ...]
    """Names of the part's nodes."""
    of: int
    """Nodes of the whole model."""
    builds: int
    """How many parts were built to find it; the ones known from an earlier run are not counted."""
    model: Path
    script: Path | None
    """Shows the failure with nothing but the backend's library and onnx."""


@dataclass(frozen=True)
class Search:
    """How to look for it."""

    out: Path
    """Folder for the part, the script, and the verdicts, from which a stopped search goes on."""
    workers: int = 2
    """How many parts are built at the same time, each in a process of its own."""
    progress: Progress = field(default_factory=Silent)
    """Is told of every build."""


@dataclass
class _Judge:
    """Says of parts whether their build fails as the whole does; remembers its verdicts."""

    cutter: Cutter
    backend: Backend
    request: Request
    code: str
    search: Search
    verdicts: dict[str, bool] = field(default_factory=dict)
    builds: int = 0
    _own: threading.local = field(default_factory=threading.local)

    def first(self, parts: Sequence[Part]) -> int | None:
        """Return the index of the first part that fails so."""
        with ThreadPoolExecutor(self.search.workers) as pool:
            for start in range(0, len(parts), self.search.workers):
                batch = parts[start : start + self.search.workers]
                for offset, fails in enumerate(pool.map(self._fails, batch)):
                    if fails:
                        return start + offset
        return None

    def _fails(self, part: Part) -> bool:
        key = hashlib.sha256(json.dumps(part).encode()).hexdigest()[:32]
        if key not in self.verdicts:
            self.verdicts[key] = self._build(part) == self.code
            self.builds += 1
            self._remember()
            self.search.progress.update(f"bisect: {len(part)} nodes", self.builds, 0)
        return self.verdicts[key]

    def _build(self, part: Part) -> str:
        cut = self.cutter.cut(part)
        if cut is None:
            return ""
        error = failure_of(self._backend(), *cut, self.request)
        return "" if error is None else error.code

    def _backend(self) -> Backend:
        """Return this thread's own backend: with a process that only it talks to."""
        if not hasattr(self._own, "backend"):
            self._own.backend = replace(self.backend)
        backend: Backend = self._own.backend
        return backend

    def _remember(self) -> None:
        with atomic_file(self.search.out / VERDICTS) as file:
            file.write(json.dumps({"code": self.code, "verdicts": self.verdicts}).encode())


def failure_of(
    backend: Backend, model: ir.Model, profile: Mapping[str, object], request: Request
) -> TrtforgeError | None:
    """Build ``model`` and return how it failed, or None when there is an engine."""
    with TemporaryDirectory(prefix="trtforge-bisect-") as folder:
        profiles = (profile,) if profile else ()
        asked = replace(request, profiles=profiles)  # type: ignore[arg-type]  # values are ranges
        try:
            backend.build(model, Context(model, Path(folder), asked))
        except TrtforgeError as error:
            return error
    return None


def reduce_build(model: ir.Model, backend: Backend, request: Request, search: Search) -> Reduced:
    """Reduce ``model`` to the smallest part that fails, and write it and a script.

    Args:
        model: Stays as it is.
        backend: The step that fails on it, with its options (a time limit among them).
        request: Targets and shapes.
        search: Where the result goes, and how to look for it.

    Raises:
        RequestError: the model builds, or does not for a reason outside of the model; or the
            result cannot be written.
    """
    if search.out.exists() and not search.out.is_dir():
        raise RequestError(
            f"--out {search.out} is a file, not a folder", remedy="give another folder"
        )
    if model.functions:
        model = InlinePass()(model.clone()).model
    profile = request.profiles[0] if request.profiles else {}
    whole = failure_of(backend, model, profile, request)
    if whole is None:
        raise RequestError(
            f"{request.source} builds, so there is no failure to reduce",
            remedy="give the shapes, targets and options with which it fails",
        )
    if isinstance(whole, EnvironmentLacks) or whole.code == "bad-request":
        raise whole
    cutter = Cutter(model, profile)
    try:
        search.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, search.out, "the output folder") from error
    judge = _Judge(cutter, backend, request, whole.code, search)
    judge.verdicts.update(_remembered(search.out / VERDICTS, whole.code))
    names = [label(node) for node in model.graph]
    everything = tuple(range(cutter.size))
    part = smallest(everything, judge.first, _guesses(whole.what, names))
    return _written(judge, part, names, whole, model)


def _guesses(text: str, names: Sequence[str]) -> Iterator[Part]:
    """Yield parts that the words of a failure point to: named nodes, and ranges of a fused one."""
    said = set(re.findall(r"[\w./:-]+", text))
    named = [number for number, name in enumerate(names) if name in said]
    yield from ((number,) for number in named[:16])
    if len(named) > 1:
        yield tuple(range(named[0], named[-1] + 1))


def _remembered(file: Path, code: str) -> dict[str, bool]:
    """Return the verdicts of an earlier, stopped run on the same failure; damaged ones are none."""
    try:
        data = json.loads(file.read_bytes()) if file.is_file() else {}
        verdicts = data["verdicts"] if data.get("code") == code else {}
        return {str(key): value is True for key, value in verdicts.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}


def _written(
    judge: _Judge, part: Part, names: Sequence[str], whole: TrtforgeError, model: ir.Model
) -> Reduced:
    cut = judge.cutter.cut(part) if len(part) < judge.cutter.size else None
    profile = judge.request.profiles[0] if judge.request.profiles else {}
    reduced, ranges = cut or (model, dict(profile))
    again = failure_of(judge.backend, reduced, ranges, judge.request)
    out = judge.search.out
    model_file.save(reduced, out / REDUCED)
    asked = replace(judge.request, profiles=(ranges,) if ranges else ())
    text = judge.backend.reproduction(reduced, REDUCED, asked)
    script = out / SCRIPT if text else None
    if script is not None:
        with atomic_file(script) as file:
            file.write(text.encode())
    return Reduced(
        code=whole.code,
        error=(again or whole).what,
        nodes=tuple(names[number] for number in part),
        of=len(names),
        builds=judge.builds,
        model=out / REDUCED,
        script=script,
    )
