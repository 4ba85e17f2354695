"""Says what a failure of TensorRT means and what to do, by the rules of ``failure_rules``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trtforge import BuildError, Context, EnvironmentLacks, TrtforgeError
from trtforge_plugins.tensorrt.failure_rules import Rule, rules

SHOWN = 20
UNKNOWN = "build-failed"
"""Code of a failure that no rule explains."""
_ADVICE = (
    "find the smallest part of the model that fails with `trtforge bisect MODEL --build`; "
    "it writes a script to report it with"
)
# What TensorRT adds to any error on a machine without a GPU, or after another error.
_NOISE = re.compile(
    r"^.*(catchCudaError.*cudaError 35"
    r"|Assertion engine(Ptr)? != nullptr failed"
    r"|Output shape can not be computed|hasAllConstantIntValues).*\n?",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Cause:
    """What a failure means: the rule that explains it, and the text that shows it."""

    rule: Rule
    text: str


def causes(texts: Iterable[str]) -> list[Cause]:
    """Return what is known about ``texts``, the likeliest cause first, each rule once."""
    lines = [line for line in map(_meaning, texts) if line]
    found = []
    for rule in rules():
        shown = next((line for line in lines if rule.explains(line, lines)), None)
        if shown is not None:
            found.append(Cause(rule, shown))
    return found


@lru_cache(maxsize=1024)
def cause_of(text: str) -> Cause | None:
    """Return the cause of one refusal; a large model has the same words for many nodes."""
    return next(iter(causes([text])), None)


def _meaning(text: str) -> str:
    """Return ``text`` without what says nothing, unless there is nothing else."""
    return _NOISE.sub("", text).strip() or text.strip()


def failure(what: str, texts: Sequence[str], warnings: Sequence[str] = ()) -> TrtforgeError:
    """Return the error for a failed build: TensorRT's own ``texts``, cause, code and remedies.

    Args:
        what: One sentence.
        texts: Errors that TensorRT logged.
        warnings: Its warnings: some tell a lack of memory that the errors keep silent about.
    """
    found = causes(texts) or causes(warnings)
    hints = [each for each in causes(warnings) if each.rule.family == "memory"]
    first = next(iter(hints + found), None)
    if first is None:
        return BuildError(f"{what}{listed(texts)}", remedy=_ADVICE, code=UNKNOWN)
    rule = first.rule
    kind = EnvironmentLacks if rule.environment else BuildError
    cause = rule.cause.format(op="a node")
    return kind(f"{what}: {cause}{listed(texts)}", remedy=remedies(rule), code=rule.code)


def refusal(refused: Sequence[Mapping[str, Any]], title: str, ctx: Context) -> BuildError:
    """Note each refused node and return the error that lists all of them.

    Args:
        refused: Refusals of the parser (see ``adapter.Session.parse``).
        title: How the library calls itself.
        ctx: Takes the notes.
    """
    for each in refused:
        ctx.note(each["node"], each["text"])
    known = causes(each["text"] for each in refused)
    return BuildError(
        f"{title} refuses the model:{listed([sentence(each) for each in refused])}",
        remedy="; or ".join(dict.fromkeys(text for each in known for text in each.rule.remedies)),
        code=known[0].rule.code if known else "refused",
    )


def remedies(rule: Rule) -> str:
    """Return the remedies of ``rule`` as one text."""
    return "; or ".join(rule.remedies)


def listed(texts: Sequence[str]) -> str:
    """Return ``texts`` as indented lines after a colon, at most 20 of them."""
    lines = [f"\n  {text}" for text in texts[:SHOWN]]
    if len(texts) > SHOWN:
        lines.append(f"\n  and {len(texts) - SHOWN} more; the log has all of them")
    return "".join(lines)


def sentence(refused: Mapping[str, Any]) -> str:
    """Return one line for a refusal of the parser (see ``adapter.Session.parse``)."""
    operator = f" ({refused['op']})" if refused["op"] else ""
    named = refused["node"] or refused["op"]
    place = f"node {refused['node']!r}{operator}: " if named else ""
    return f"{place}{evidence(refused)}"


def evidence(refused: Mapping[str, Any]) -> str:
    """Return the parser's own words: text, code, and the function calls around the node."""
    calls = f", in {' in '.join(refused['functions'])}" if refused["functions"] else ""
    code = f" [{refused['code']}]" if refused["code"] else ""
    text = refused["text"] if refused["text"] != "false" else f"false ({refused['source']})"
    text = _NOISE.sub("", text).strip() or text
    return f"{text}{code}{calls}"
