"""Collects what is wrong with a recipe, so that all of it is shown at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from trtforge.errors import RecipeError, RequestError, did_you_mean
from trtforge.options import OptionErrors, bind
from trtforge.yaml_text import Document, Location


class Problems:
    """The problems of one document.

    Args:
        document: Where they are; it gives their line and column.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: list[RecipeError] = []

    def raise_all(self) -> None:
        """Raise what was found: one error, or all of them as a list."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            listing = "\n".join(f"- {problem}" for problem in self.found)
            raise RecipeError(
                f"{len(self.found)} things are wrong:\n{listing}", where=self.document.source
            )

    def report(self, path: Location, what: str, remedy: str = "") -> None:
        """Remember a problem at ``path``."""
        self.found.append(RecipeError(what, where=self.document.where(path), remedy=remedy))

    def attempt(self, path: Location, read: Callable[[Any], Any], value: Any) -> Any:
        """Return what ``read`` makes of ``value``; None, and a problem, when it refuses."""
        try:
            return read(value)
        except RequestError as error:
            self.report(path, error.what, error.remedy)
            return None

    def refuse_unknown(
        self, data: Mapping[str, Any], known: Iterable[str], path: Location, subject: str
    ) -> None:
        """Remember a problem for each key of ``data`` that is not ``known``."""
        known = list(known)
        for key in data:
            if key not in known:
                hint = did_you_mean(key, known) or f"It has: {', '.join(known)}."
                self.report((*path, key), f"{subject} has no key {key!r}. {hint}")

    def bind(
        self,
        cls: type[Any],
        options: dict[str, Any],
        subject: str,
        path: Location,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """Return ``cls`` with ``options``; ``settings``: texts of those from --set."""
        try:
            return bind(cls, options, subject)
        except OptionErrors as errors:
            for problem in errors.problems:
                setting = settings.get(str(problem.path[0])) if problem.path else None
                where = self.document.where((*path, *problem.path))
                where = where if setting is None else f"--set {setting}"
                remedy = (
                    f"`trtforge show {cls.name}` explains the options"
                    if hasattr(cls, "name")
                    else ""
                )
                self.found.append(RecipeError(problem.text, where=where, remedy=remedy))
        except RequestError as error:
            self.report(path, f"{subject}: {error.what}", error.remedy)
        return None
