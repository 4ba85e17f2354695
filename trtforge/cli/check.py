"""``trtforge check``: will TensorRT take this model, and if not, what mends it?"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, open_host, say, say_json, write_file
from trtforge.cli.options import Json, Model, Shapes, Targets, Without, shape_option

if TYPE_CHECKING:
    from trtforge.diagnosis import Diagnosis, FindingGroup

SHOWN = 5
"""Nodes of a group that are named; --json and --html have all of them."""


def check(
    model: Model,
    *,
    targets: Targets = [],  # noqa: B006  # typer copies it
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the findings as a page.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Predict the engine's memory, and say what needs it.")
    ] = False,
    shapes: Shapes = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Say which nodes TensorRT refuses, why, and what mends it.

    Says also what would be left after the recipe `convert`, and gives advice on the rest. Builds
    nothing. The exit code is 1 if TensorRT does not take the model as it is.
    """
    from trtforge.api import check as diagnose

    asked = dict(shape_option(text) for text in shapes)
    diagnosis = diagnose(
        model, targets=targets, host=open_host(without), memory=memory, shapes=asked
    )
    if html is not None:
        from trtforge.check_page import render

        write_file(html, render(diagnosis))
    if as_json:
        say_json({**asdict(diagnosis), "left": diagnosis.left})
    else:
        _tell(model, diagnosis)
    end(not_met(_refusal(model, diagnosis), *_remedies(model, diagnosis)))


def _refusal(model: str, diagnosis: Diagnosis) -> list[str]:
    if diagnosis.convertible:
        return []
    codes = ", ".join(dict.fromkeys(each.code for each in diagnosis.refused))
    return [f"{model}: {diagnosis.backend} refuses it as it is: {codes}"]


def _remedies(model: str, diagnosis: Diagnosis) -> list[str]:
    """Return what mends the whole, best first."""
    if diagnosis.left == 0:
        return [_convert(model)]
    findings = "do what the findings say, best first"
    some = diagnosis.left is not None and diagnosis.left < len(diagnosis.refused)
    return [f"{_convert(model)}, then {findings}" if some else findings]


def _convert(model: str) -> str:
    return f"trtforge run convert --model {shlex.quote(model)}"


def _tell(model: str, diagnosis: Diagnosis) -> None:
    from trtforge.diagnosis import grouped

    groups = grouped(diagnosis.findings)
    if diagnosis.convertible:
        say(f"{model}: {diagnosis.backend} takes it as it is")
    else:
        after = "" if diagnosis.left is None else f", {diagnosis.left} after the recipe `convert`"
        say(f"{model}: {count(len(diagnosis.refused), 'finding')} of {diagnosis.backend}{after}")
    for group in groups:
        if group.first.level == "refused":
            _tell_group(group)
    if not diagnosis.convertible:
        _tell_after(model, diagnosis)
    advice = [group for group in groups if group.first.level != "refused"]
    if advice:
        say(f"\nAdvice, which keeps no engine from being built ({count(len(advice), 'kind')}):")
    for group in advice:
        _tell_group(group)
    _tell_memory(diagnosis)


def _tell_memory(diagnosis: Diagnosis) -> None:
    from trtforge.memory_plan import describe

    if diagnosis.memory_problem:
        say(f"\nMemory: not predicted: {diagnosis.memory_problem}")
    for at, sentence in enumerate(describe(diagnosis.memory) if diagnosis.memory else ()):
        say(f"    {sentence}" if at else f"\nMemory, {sentence}")


def _tell_after(model: str, diagnosis: Diagnosis) -> None:
    left = diagnosis.left
    if left is None:
        return
    say(f"\nAfter the recipe `convert`: {count(left, 'finding') if left else 'TensorRT takes it'}")
    if left < len(diagnosis.refused):
        say(f"    To do: {_convert(model)}")


def count(number: int, noun: str) -> str:
    """Return the number with its noun: ``1 finding``, ``2 findings``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tell_group(group: FindingGroup) -> None:
    first, many = group.first, len(group.findings) > 1
    times = f"{len(group.findings)}x " if many else ""
    named = f" {first.node!r}" if first.node and not many else ""
    place = f"{times}{first.op}{named}: " if first.op else f"{times}{named.strip()}: "
    say(f"\n{first.code}  {place if place.strip(': ') else ''}{first.cause}")
    if many and group.nodes:
        more = f" and {len(group.nodes) - SHOWN} more" if len(group.nodes) > SHOWN else ""
        say(f"    At: {', '.join(group.nodes[:SHOWN])}{more}")
    if first.evidence and first.cause not in first.evidence:
        teller = "TensorRT" if first.seen_in == "backend" else "Found"
        say(f"    {teller}: {first.evidence}")
    if group.mended:
        say(f"    The recipe `convert` mends it{'; else:' if group.further else ''}")
    for remedy in group.further:
        say(f"    To do: {remedy}")
