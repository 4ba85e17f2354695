"""Every error that a user can act on: where it happened, what is wrong, what to do.

Each error class carries the exit code of the command line (see ``docs/exit-codes.md``).
Anything that is not a :class:`TrtforgeError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line returns; the contract with scripts and CI."""

    DONE = 0
    """Done as asked."""
    REQUIREMENT_MISSED = 1
    """Done, but a stated requirement (accuracy, memory, precision, coverage) was not met."""
    BAD_REQUEST = 2
    """The request is wrong: recipe, option or file."""
    STEP_FAILED = 3
    """A step or TensorRT failed."""
    ENVIRONMENT_LACKS = 4
    """The environment lacks something that the request needs."""
    STOPPED = 130
    """Ctrl-C: 128 and the number of SIGINT, as shells have it."""


class TrtforgeError(Exception):
    """An error with a place, a cause and a remedy.

    Args:
        what: One sentence that says what is wrong.
        where: The place, for example ``recipe.yaml:12:9`` or ``stage 'build', step 'tensorrt'``.
        remedy: What to do about it; empty: the ``advice`` of the class.
        code: Stable word for this kind of error; empty: that of the class. ``docs/findings.md``
            has a section on each.
    """

    exit_code = ExitCode.STEP_FAILED
    code = "failed"
    advice = "`trtforge doctor` looks for what is wrong with this installation"

    def __init__(self, what: str, *, where: str = "", remedy: str = "", code: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy or self.advice
        self.code = code or self.code
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"\n  To do: {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{remedy}"

    def at(self, where: str) -> None:
        """Put ``where`` before the place that the error already names."""
        self.where = f"{where}: {self.where}" if self.where else where


class RequirementMissed(TrtforgeError):
    """What was asked for is done, and a stated requirement is not met."""

    exit_code = ExitCode.REQUIREMENT_MISSED
    code = "requirement-missed"
    advice = "change what misses it, as the answer of the command says, or lower the requirement"


class Stopped(TrtforgeError):
    """Ctrl-C was pressed."""

    exit_code = ExitCode.STOPPED
    code = "stopped"
    advice = "give the same command again"


class Defect(TrtforgeError):
    """A defect of trtforge; nothing that a user gives should cause it."""

    code = "defect"
    advice = "report the lines above"


class RequestError(TrtforgeError):
    """The request is wrong: an option, a shape, a target, a path."""

    exit_code = ExitCode.BAD_REQUEST
    code = "bad-request"
    advice = "`trtforge COMMAND --help` says what a command takes"


class RecipeError(RequestError):
    """The recipe file is wrong; ``where`` is ``file:line:column``."""

    code = "bad-recipe"
    advice = "docs/recipe.md says what a recipe may hold, `trtforge show STEP` what a step takes"


class ModelError(RequestError):
    """The model file cannot be read, is not a model, or breaks ONNX's rules."""

    code = "bad-model"
    advice = "export the model again, and hold it against onnx.checker.check_model"


class DataError(RequestError):
    """Input data does not fit the model: names, types, shapes, NaN."""

    code = "bad-data"
    advice = "give an array for each input, with its type and shape"


class BundleError(RequestError):
    """A bundle is damaged, was tampered with, or is of a newer format; nothing of it is used."""

    code = "bad-bundle"
    advice = (
        "copy the bundle again from where it was made, and check it with `trtforge bundle inspect`"
    )


class StepError(TrtforgeError):
    """A step failed; ``where`` names the stage and the step."""

    code = "step-failed"
    advice = "give the step other options (`trtforge show STEP`), or take it out of the recipe"


class BuildError(StepError):
    """TensorRT refused a model or failed to build it."""

    code = "build-failed"
    advice = "`trtforge bisect MODEL --build` finds the smallest part of the model that fails"


class WorkerError(StepError):
    """A worker process crashed, hung or ran out of memory."""

    code = "worker-failed"
    advice = "run it again; the log in the run folder says how far it came"


class CacheError(TrtforgeError):
    """A stored result is damaged; it is recomputed, never served."""

    code = "damaged-cache"
    advice = "nothing: it is computed again"


class EnvironmentLacks(TrtforgeError):
    """A package, driver or device that the request needs is not here."""

    exit_code = ExitCode.ENVIRONMENT_LACKS
    code = "environment-lacks"
    advice = "`trtforge doctor` says what is missing and what installs it"


class PluginError(EnvironmentLacks):
    """A plugin does not load, or offers something that cannot be used."""

    code = "broken-plugin"
    advice = "update the package of the plugin, or leave it out with --without NAME"


def all_classes() -> list[type[TrtforgeError]]:
    """Return the error classes that have a code of their own."""
    found: list[type[TrtforgeError]] = [TrtforgeError]
    for cls in found:
        found += [each for each in cls.__subclasses__() if "code" in vars(each)]
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the known word nearest to ``word``, or ``""``."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""
