"""``trtforge run --matrix``: many runs, here or on a Ray cluster."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.cli.answers import end, say, say_json, say_table
from trtforge.errors import ExitCode, RequestError, RequirementMissed, TrtforgeError
from trtforge.quantities import format_bytes

if TYPE_CHECKING:
    from trtforge.matrix.runs import Row, Runner


def run_file(
    file: Path,
    out: Path | None,
    on: str,
    jobs: int,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the matrix in ``file``; the exit code is the largest of any cell.

    Raises:
        RequestError: the file is wrong, or there is no place ``on``.
        EnvironmentLacks: there is no Ray cluster.
    """
    from trtforge.matrix.cells import read_matrix
    from trtforge.matrix.runs import run_matrix, worst

    cells = read_matrix(file)
    place = out or Path("runs") / file.stem

    def tell(row: Row, done: int, total: int) -> None:
        if not (as_json or quiet):
            sys.stderr.write(f"{done}/{total}  {_line(row)}\n")

    rows = run_matrix(cells, file.parent, place, _runner(on, jobs), tell)
    if as_json:
        say_json({"out": str(place), "rows": [asdict(row) for row in rows]})
    else:
        _tell(rows, place)
    end(_worst(rows, worst(rows), place))


def _worst(rows: tuple[Row, ...], code: ExitCode, out: Path) -> TrtforgeError | None:
    if code == ExitCode.DONE:
        return None
    kind = RequirementMissed if code == ExitCode.REQUIREMENT_MISSED else TrtforgeError
    cells = [row.cell for row in rows if row.outcome.exit_code]
    error = kind(
        f"{len(cells)} of {len(rows)} cells did not end with 0: {', '.join(cells)}",
        remedy=f"mend what is said of each, also in {out / 'matrix.json'}; the same command runs "
        "again only what is not done",
    )
    error.exit_code = code
    return error


def _runner(on: str, jobs: int) -> Runner:
    if on == "here":
        from trtforge.matrix.local import LocalProcesses

        return LocalProcesses(jobs)
    if on == "ray" or on.startswith("ray://"):
        from trtforge.matrix.on_ray import RayCluster

        return RayCluster("auto" if on == "ray" else on)
    raise RequestError(f"--on {on}: no such place", remedy="give here, ray or ray://HOST:PORT")


def _line(row: Row) -> str:
    if row.earlier:
        return f"{row.cell}: done before"
    outcome = row.outcome
    words = outcome.error.splitlines()[0] if outcome.error else f"exit code {outcome.exit_code}"
    return f"{row.cell}: {words}, {outcome.seconds:.1f} s"


def _tell(rows: tuple[Row, ...], out: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("cell", "exit", "cosine", "layers", "activations", "engine", "seconds"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(
            row.cell,
            str(row.outcome.exit_code),
            "" if row.cosine is None else f"{row.cosine:.6f}",
            "" if row.layers is None else str(row.layers),
            "" if row.activation is None else format_bytes(row.activation),
            "" if row.engine_size is None else format_bytes(row.engine_size),
            f"{row.outcome.seconds:.1f}",
        )
    say_table(table)
    for row in rows:
        if row.outcome.error:
            say(f"{row.cell}: {row.outcome.error}")
        for sentence in row.missed:
            say(f"{row.cell}: not met: {sentence}")
    say(f"Report     {out / 'matrix.json'}")
