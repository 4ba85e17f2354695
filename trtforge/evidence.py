"""Writes what a run leaves behind: the final model, ``report.json`` and ``report.html``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.artifacts import Ranges
from trtforge.environment import environment
from trtforge.errors import ExitCode, RequestError, RequirementMissed, TrtforgeError
from trtforge.options import adapter
from trtforge.report import ModelSummary, Report, Verdict, make_report, summarize_model
from trtforge.report import read_report as parse_report
from trtforge.run_folder import REPORT, RunFolder
from trtforge.verdict import missed, remedies

if TYPE_CHECKING:
    from trtforge.context import Context
    from trtforge.recipe import Recipe
    from trtforge.records import StepRecord

MODEL = "model.onnx"
PAGE = "report.html"
RANGES = "calibration.json"


class Evidence:
    """Gathers the evidence of one run.

    Args:
        folder: Where it is written.
        recipe: The resolved recipe.
        ctx: The run's context.
        records: The records of the steps, which grow while the run goes on.
    """

    def __init__(
        self, folder: RunFolder, recipe: Recipe, ctx: Context, records: list[StepRecord]
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._ctx = ctx
        self._records = records
        self._given: ModelSummary | None = None

    def imported(self) -> None:
        """Remember the model as it was given."""
        self._given = summarize_model(self._ctx.model)

    def write(self) -> tuple[Report, tuple[str, ...]]:
        """Write everything; return the report and a sentence for each missed requirement."""
        from trtforge import model_file

        model_file.save(self._ctx.model, self._folder.path / MODEL)
        self._write_ranges()
        sentences = tuple(missed(self._ctx))
        verdict = Verdict(int(ExitCode.DONE))
        if sentences:
            code, word = int(ExitCode.REQUIREMENT_MISSED), RequirementMissed.code
            verdict = Verdict(code, sentences, code=word, remedies=tuple(remedies(self._ctx)))
        report = self._report(verdict)
        self._write(report)
        return report, sentences

    def _write_ranges(self) -> None:
        """Write the ranges of a run that calibrated: a bundle takes them along."""
        ranges = self._ctx.find(Ranges)
        if ranges is None:
            self._folder.remove(RANGES)  # of an earlier run in this folder
        else:
            self._folder.write(RANGES, json.dumps(asdict(ranges), indent=2) + "\n")

    def write_failure(self, error: TrtforgeError) -> None:
        """Write the report of a run that failed."""
        self._write(self._report(Verdict(int(error.exit_code), error=str(error), code=error.code)))

    def _report(self, verdict: Verdict) -> Report:
        return make_report(
            self._ctx,
            self._records,
            recipe=self._recipe.name,
            verdict=verdict,
            environment=environment(),
            given=self._given,
        )

    def _write(self, report: Report) -> None:
        write_page(self._folder, report)
        self._folder.write(REPORT, report.to_json())


def read_report(folder: Path) -> Report:
    """Read the report of the run in ``folder``.

    Raises:
        RequestError: there is none.
    """
    try:
        return parse_report((folder / REPORT).read_bytes())
    except OSError as error:
        raise RequestError(
            f"{folder} holds no finished run: {error.strerror}",
            remedy="give the folder that `trtforge run` named, or resume the run",
        ) from error


def read_ranges(folder: Path) -> Ranges | None:
    """Read the ranges of the run in ``folder``; None: it did not calibrate.

    Raises:
        RequestError: the file is damaged.
    """
    file = folder / RANGES
    try:
        return adapter(Ranges).validate_python(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RequestError(
            f"the ranges of the run cannot be read: {str(error).splitlines()[0]}",
            where=str(file),
            remedy="run the recipe again",
        ) from error


def write_page(folder: RunFolder, report: Report) -> Path:
    """Write the page of ``report`` into ``folder`` and return its path."""
    from trtforge.report_page import render

    return folder.write(PAGE, render(report))
