"""Runs a matrix: what is done already is kept, the rest runs, and one report says how all went."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from trtforge.errors import ExitCode, RequestError
from trtforge.evidence import read_report
from trtforge.matrix.cells import Cell, digests
from trtforge.matrix.execute import Outcome
from trtforge.store import atomic_file, write_error

MARKER, REPORT = "cell.json", "matrix.json"


class Runner(Protocol):
    """Where cells run."""

    def outcomes(
        self, cells: Sequence[Cell], inputs: Path, out: Path
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Yield each cell with its outcome when it ends; its run folder is ``out / cell.name``."""


@dataclass(frozen=True)
class Row:
    """A cell in the report."""

    cell: str
    model: str
    recipe: str
    targets: tuple[str, ...]
    outcome: Outcome
    earlier: bool
    """Whether it was done by an earlier command."""
    engine_size: int | None = None
    activation: int | None = None
    """Activation memory that TensorRT reports; bytes."""
    layers: int | None = None
    cosine: float | None = None
    """Smallest of any output."""
    missed: tuple[str, ...] = ()


def run_matrix(
    cells: Sequence[Cell],
    inputs: Path,
    out: Path,
    runner: Runner,
    tell: Callable[[Row, int, int], None] = lambda _row, _done, _all: None,
) -> tuple[Row, ...]:
    """Run the cells and write ``matrix.json`` into ``out``, anew after each.

    A cell whose request and files are the same as in an earlier command in ``out``, and which ended
    with 0 or 1 there, is not run again.

    Args:
        cells: What to run.
        inputs: Folder of the matrix file.
        out: Folder for a run folder of each cell.
        runner: Where they run.
        tell: Is called with each row, how many are done, and how many there are.

    Raises:
        RequestError: ``out`` holds something else or cannot be written, or a file cannot be read.
        EnvironmentLacks: the disk is full.
    """
    try:
        return _run(cells, inputs, out, runner, tell)
    except OSError as error:  # of the matrix itself; what a cell met is its outcome
        raise write_error(error, Path(error.filename or out), "the matrix") from error


def _run(
    cells: Sequence[Cell],
    inputs: Path,
    out: Path,
    runner: Runner,
    tell: Callable[[Row, int, int], None],
) -> tuple[Row, ...]:
    _claim(out)
    hashes = digests(cells, inputs)
    rows: dict[str, Row] = {}
    for cell in cells:
        known = _earlier(out / cell.name, hashes[cell.name])
        if known:
            rows[cell.name] = _row(cell, known, out, earlier=True)
            tell(rows[cell.name], len(rows), len(cells))
        else:
            shutil.rmtree(out / cell.name, ignore_errors=True)
    todo = _largest_first([cell for cell in cells if cell.name not in rows], inputs)
    for cell, outcome in runner.outcomes(todo, inputs, out) if todo else ():
        _remember(out / cell.name, hashes[cell.name], outcome)
        rows[cell.name] = _row(cell, outcome, out, earlier=False)
        _write(out, [rows[each.name] for each in cells if each.name in rows])
        tell(rows[cell.name], len(rows), len(cells))
    found = tuple(rows[cell.name] for cell in cells)
    _write(out, found)
    return found


def _largest_first(cells: Sequence[Cell], inputs: Path) -> list[Cell]:
    """Return the cells by the size of their files: a long one that starts last is waited for."""
    sizes = {name: (inputs / name).stat().st_size for cell in cells for name in cell.files}
    return sorted(cells, key=lambda cell: -sum(sizes[name] for name in cell.files))


def worst(rows: Sequence[Row]) -> ExitCode:
    """Return the exit code of the whole: the largest of any cell."""
    return ExitCode(max((row.outcome.exit_code for row in rows), default=0))


def _claim(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT).is_file():
        raise RequestError(
            f"the output folder {out} holds something else",
            remedy="give another folder with --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    if not (out / REPORT).is_file():
        _write(out, ())


def _earlier(folder: Path, digest: str) -> Outcome | None:
    try:
        known = json.loads((folder / MARKER).read_bytes())
        outcome = Outcome(**known["outcome"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole
        return None
    good = outcome.exit_code in (ExitCode.DONE, ExitCode.REQUIREMENT_MISSED)
    return outcome if good and known.get("digest") == digest else None


def _remember(folder: Path, digest: str, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / MARKER) as file:
        file.write(json.dumps({"digest": digest, "outcome": vars(outcome)}).encode())


def _row(cell: Cell, outcome: Outcome, out: Path, *, earlier: bool) -> Row:
    plain = Row(cell.name, cell.model, cell.recipe, cell.targets, outcome, earlier)
    try:
        report = read_report(out / cell.name)
    except RequestError:
        return plain
    engine = report.engines[0] if report.engines else None
    outputs = report.comparison.outputs if report.comparison else ()
    return Row(
        **{name: getattr(plain, name) for name in ("cell", "model", "recipe", "targets")},
        outcome=outcome,
        earlier=earlier,
        engine_size=engine.size if engine else None,
        activation=engine.memory.activation if engine else None,
        layers=report.layers.total if report.layers else None,
        cosine=min((each.cosine for each in outputs if not each.problem), default=None),
        missed=report.verdict.missed,
    )


def _write(out: Path, rows: Sequence[Row]) -> None:
    from trtforge.report import finite

    data = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [finite(asdict(row)) for row in rows],
    }
    with atomic_file(out / REPORT) as file:
        file.write(json.dumps(data, indent=1, allow_nan=False).encode())
