"""Turns the options of a recipe into a step, and a step's fields into documentation and schema.

A step's dataclass is the only place where an option is declared; pydantic reads it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from trtforge.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")


@dataclass(frozen=True)
class OptionProblem:
    """One thing that is wrong with a mapping of options."""

    path: tuple[str | int, ...]
    """Where in the mapping, for example ``("shapes", "x", 0)``."""
    text: str


class OptionErrors(RequestError):
    """All problems of one mapping of options."""

    def __init__(self, problems: list[OptionProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.text for problem in problems))


def adapter(cls: type[T]) -> TypeAdapter[T]:
    """Return pydantic's reader of the dataclass ``cls``.

    Raises:
        RequestError: a field's type cannot be understood at run time.
    """
    reader: TypeAdapter[T] = _adapter(cls)
    return reader


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    try:
        reader = TypeAdapter(cls)
        reader.rebuild(raise_errors=True)
    except (PydanticUserError, NameError, TypeError) as error:
        raise RequestError(
            f"the options of {cls!r} cannot be read: {error}",
            remedy="import the types of its fields at run time, not under TYPE_CHECKING",
        ) from error
    return reader


def bind(cls: type[T], options: Mapping[str, Any], subject: str) -> T:
    """Make a ``cls`` from ``options``.

    Args:
        cls: A dataclass, for example a step.
        options: What the recipe says.
        subject: How messages call it: ``step 'cast'``.

    Raises:
        OptionErrors: options are unknown, missing, or have a wrong type or value.
    """
    problems = [
        OptionProblem((name,), f"{subject} has no option {name!r}.{_hint(cls, name)}")
        for name in options
        if name not in option_names(cls)
    ]
    if problems:
        raise OptionErrors(problems)
    try:
        return adapter(cls).validate_python(dict(options))
    except ValidationError as error:
        raise OptionErrors([_problem(detail, subject) for detail in error.errors()]) from error


def option_names(cls: type) -> list[str]:
    """Return the names of the options of a dataclass, in order."""
    return [field.name for field in fields(cls) if field.init]


def json_schema(cls: type) -> dict[str, Any]:
    """Return the JSON Schema of the options of ``cls``."""
    return adapter(cls).json_schema(ref_template="#/$defs/{model}")


def as_data(step: object) -> dict[str, Any]:
    """Return the options of ``step`` as JSON-ready data, defaults included."""
    data = adapter(type(step)).dump_python(step, mode="json", serialize_as_any=False)
    return dict(data)


def _hint(cls: type, name: str) -> str:
    names = option_names(cls)
    hint = did_you_mean(name.replace("-", "_"), names)
    known = f"It has: {', '.join(names)}." if names else "It has none."
    return f" {hint or known}"


def _problem(detail: ErrorDetails, subject: str) -> OptionProblem:
    path = tuple(part for part in detail["loc"] if part not in ("str", "int", "float", "bool"))
    option = ".".join(map(str, path)) or "options"
    if detail["type"] == "missing":
        return OptionProblem((), f"{subject} needs the option {option!r}")
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = detail.get("input")
    return OptionProblem(path, f"{subject}, option {option!r}: {message} (found {given!r})")
