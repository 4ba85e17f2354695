"""The rules that say what a text of TensorRT means. They are data: ``failures/*.yaml``.

A rule has these keys:

* ``code``: stable word; users meet it in answers and in docs/findings.md.
* ``title``, ``family``: heading, and kind of cause (memory, tactic, type, shape, driver, …).
* ``pattern``: regular expression that the text matches.
* ``unless``: one that the same text must not match; ``without``: one that no text of the same
  failure may match, because it would be the better explanation.
* ``cause``: one sentence; ``{op}`` is the operator. ``remedies``: what to do, best first.
* ``undecided``: true where the text fits several causes, so that TensorRT is asked again
  (``questions.py``).
* ``environment``: true where the machine lacks something, not the model.
* ``examples``: texts that were seen, with TensorRT's version and, for public ones, the page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Example:
    """A text of TensorRT that somebody met."""

    text: str
    version: str
    """TensorRT's version; ``unknown`` where the page does not say it."""
    source: str
    """Address of the page; empty: seen while trtforge was written."""


@dataclass(frozen=True)
class Rule:
    """What a text of TensorRT means; the fields are described at the top of this file."""

    code: str
    title: str
    family: str
    pattern: re.Pattern[str]
    cause: str
    remedies: tuple[str, ...]
    examples: tuple[Example, ...]
    unless: re.Pattern[str] | None = None
    without: re.Pattern[str] | None = None
    environment: bool = False
    undecided: bool = False

    def explains(self, text: str, others: Collection[str] = ()) -> bool:
        """Whether this rule says what ``text`` means, where ``others`` were said as well."""
        if not self.pattern.search(text) or (self.unless and self.unless.search(text)):
            return False
        return not (self.without and any(map(self.without.search, others)))


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules; where several explain a failure, the first is its cause."""
    from ruamel.yaml import YAML

    reader = YAML(typ="safe", pure=True)
    folder = files("trtforge_plugins.tensorrt") / "failures"
    return tuple(
        _rule(data)
        for name in ("memory", "operators", "types", "shapes", "models", "environment")
        for data in reader.load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    )


def rule(code: str) -> Rule:
    """Return the rule with this code."""
    return next(each for each in rules() if each.code == code)


def _rule(data: Mapping[str, Any]) -> Rule:
    patterns = {
        key: re.compile(data[key]) for key in ("pattern", "unless", "without") if key in data
    }
    examples = (
        Example(each["text"], str(each["version"]), each.get("source", ""))
        for each in data["examples"]
    )
    return Rule(
        **{
            **data,
            **patterns,
            "remedies": tuple(data["remedies"]),
            "examples": tuple(examples),
        }
    )
