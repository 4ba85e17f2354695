"""Runs a recipe in the Python environment that somebody names, and reads what came of it.

A TensorRT environment is a Python environment with trtforge and one TensorRT. Each run is a process
of that environment's own interpreter, so that no library of the two ever meets.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trtforge.errors import EnvironmentLacks, ExitCode, RequestError, StepError, TrtforgeError
from trtforge.evidence import read_report
from trtforge.report import Report
from trtforge.run_folder import REPORT

_LIBRARIES = ("tensorrt", "tensorrt-rtx")
_COMMAND = "from trtforge.cli import main; main()"


@dataclass(frozen=True)
class Request:
    """What both environments are asked for."""

    recipe: str
    model: str
    settings: Sequence[str] = ()
    shapes: Mapping[str, str] = field(default_factory=dict)
    targets: Sequence[str] = ()

    def arguments(self, out: Path) -> list[str]:
        """Return the words of ``trtforge run``; nothing comes from a cache, so all is measured."""
        words = ["run", self.recipe, "--model", self.model, "--out", str(out)]
        words += ["--json", "--no-cache"]
        for option, values in (
            ("--set", self.settings),
            ("--shape", [f"{name}={shape}" for name, shape in self.shapes.items()]),
            ("--target", self.targets),
        ):
            words += [word for value in values for word in (option, value)]
        return words


@dataclass(frozen=True)
class Side:
    """One environment, and the run in it."""

    environment: str
    """The interpreter, or the folder of an earlier run."""
    folder: Path
    report: Report

    @property
    def built(self) -> bool:
        """Whether the run came to its end with an engine."""
        return bool(self.report.engines) and not self.report.verdict.error

    @property
    def tensorrt(self) -> str:
        """The library that built, with its version; else those that are installed."""
        engines = {f"{engine.flavor} {engine.version}" for engine in self.report.engines}
        if engines:
            return ", ".join(sorted(engines))
        packages = self.report.environment.packages
        found = [f"{name} {version}" for name, version in packages.items() if name in _LIBRARIES]
        return ", ".join(found) or "unknown"


def open_side(place: Path, request: Request, out: Path) -> Side:
    """Return what ``place`` makes of ``request``.

    Args:
        place: A Python interpreter, a virtual environment, or the folder of an earlier run, of
            which only the report is read.
        request: The recipe, the model and the options.
        out: The run folder, where something is run.

    Raises:
        RequestError: ``place`` is nothing of the kind, or the request is wrong.
        EnvironmentLacks: the environment has no trtforge, or lacks what the recipe needs.
        StepError: the run left no report.
    """
    if (place / REPORT).is_file():
        return Side(str(place), place, read_report(place))
    python = _interpreter(place)
    _run(python, request, out)
    return Side(str(python), out, read_report(out))


def _interpreter(place: Path) -> Path:
    # Not resolved: the link of a virtual environment is what makes Python find it.
    for candidate in (place, place / "bin" / "python"):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise RequestError(
        f"{place} is no Python interpreter, no virtual environment and no finished run",
        remedy="give ENV/bin/python, the folder ENV, or the folder that `trtforge run` made",
    )


def _run(python: Path, request: Request, out: Path) -> None:
    command = [str(python), "-c", _COMMAND, *request.arguments(out)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise EnvironmentLacks(
            f"it cannot be started: {error.strerror}", where=str(python)
        ) from error
    words = done.stderr.strip() or done.stdout.strip()
    if "No module named 'trtforge" in words:
        raise EnvironmentLacks(
            "trtforge is not installed in this environment",
            where=str(python),
            remedy=f"{python} -m pip install trtforge",
        )
    kinds = {ExitCode.BAD_REQUEST: RequestError, ExitCode.ENVIRONMENT_LACKS: EnvironmentLacks}
    kind = next((cls for code, cls in kinds.items() if done.returncode == code), None)
    if kind is not None:
        raise _error(kind, done.stdout, words, python)
    if not (out / REPORT).is_file():
        last = words.splitlines()[-1] if words else "it said nothing"
        raise StepError(
            f"the run left no report (exit code {done.returncode}): {last}", where=str(python)
        )


def _error(kind: type[TrtforgeError], answer: str, words: str, python: Path) -> TrtforgeError:
    """Return the error that the run in the environment told with ``--json``."""
    try:
        told = json.loads(answer)["error"]
        where = ": ".join(filter(None, (str(python), told["where"])))
        return kind(told["what"], where=where, remedy=told["remedy"])
    except (ValueError, KeyError, TypeError):  # another trtforge, which tells it otherwise
        return kind(words, where=str(python))
