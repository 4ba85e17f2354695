"""Turns the options of a recipe into a step, and a step's fields into documentation and schema.

A step's dataclass is the only place where an option is declared; pydantic reads it here.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
    reader: TypeAdapter[T] = _adapter(cast("Any", cls))  # a class is hashable; mypy doubts it
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
    if not fields(cast("Any", cls)):
        return cls()  # nothing to read, and making a reader takes milliseconds
    try:
        return adapter(cls).validate_python(dict(options))
    except ValidationError as error:
        raise OptionErrors([_problem(detail, subject) for detail in error.errors()]) from error


def option_names(cls: type) -> list[str]:
    """Return the names of the options of a dataclass, in order."""
    return [field.name for field in fields(cls) if field.init]


def json_schema(cls: type) -> dict[str, Any]:
    """Return the JSON Schema of the options of ``cls``, with the texts under its fields."""
    schema = adapter(cls).json_schema(ref_template="#/$defs/{model}")
    texts = field_texts(cls)
    for name, described in schema.get("properties", {}).items():
        if name in texts:
            described["description"] = texts[name]
    return schema


def field_texts(cls: type) -> dict[str, str]:
    """Return the string literal that stands under each field of a class and its bases.

    pydantic can read them too (``use_attribute_docstrings``), but does so whenever it meets a
    class, which costs every command a tenth of a second that only documentation needs.
    """
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue  # a class without source: made at run time, or built in
        if isinstance(body, ast.ClassDef):
            texts.update(_texts_in(body))
    return texts


def _texts_in(body: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def as_data(step: object) -> dict[str, Any]:
    """Return the options of ``step`` as JSON-ready data, defaults included."""
    if not fields(cast("Any", step)):
        return {}
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
