"""``trtforge doctor``: what this machine has, what is missing, and the exact remedy."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.answers import end, not_met, say, say_json
from trtforge.cli.options import Json
from trtforge.errors import EnvironmentLacks, ExitCode, TrtforgeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtforge.doctor.requirements import Answer
    from trtforge.doctor.symptom import Symptom
    from trtforge.environment import Environment


def doctor(
    *,
    require: Annotated[
        list[str],
        typer.Option(
            "--require", metavar="DEMANDS", help="Demands, e.g. 'tensorrt>=10.7,sm_86'; repeatable."
        ),
    ] = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Treat a missing GPU as a fault.")] = False,
) -> None:
    """Say what this machine has and what it lacks.

    Looks at driver, GPUs, CUDA, TensorRT, packages and limits; each fault has its remedy. The exit
    code is 4 if there is a fault, and 1 if a demand is not met.
    """
    from trtforge.doctor.checkup import checkup
    from trtforge.doctor.facts import read_facts
    from trtforge.doctor.requirements import hold_against

    facts = read_facts()
    answers = [answer for text in require for answer in hold_against(text, facts)]
    findings = checkup(facts, need_gpu=gpu)
    fault = _fault(findings, answers)
    code = ExitCode.DONE if fault is None else fault.exit_code
    if as_json:
        data = {**asdict(facts), "findings": findings, "required": answers, "exit_code": int(code)}
        say_json({key: _plain(value) for key, value in data.items()})
    else:
        _tell(facts.environment, findings, answers)
    end(fault)


def _fault(findings: Sequence[Symptom], answers: Sequence[Answer]) -> TrtforgeError | None:
    from trtforge.doctor.symptom import Level

    faults = [finding for finding in findings if finding.level is Level.FAULT]
    if faults:
        what = ", ".join(finding.code for finding in faults)
        remedy = "; or ".join(finding.remedy for finding in faults if finding.remedy)
        return EnvironmentLacks(f"this environment has faults: {what}", remedy=remedy)
    return not_met(
        [f"{each.entry}: here {each.found}" for each in answers if not each.met],
        "use a machine that has it, or install it; docs/doctor.md has the words of --require",
    )


def _plain(value: object) -> object:
    return [asdict(each) for each in value] if isinstance(value, list) else value


def _tell(machine: Environment, findings: Sequence[Symptom], answers: Sequence[Answer]) -> None:
    say(f"Python {machine.python}, {machine.system}, {machine.cores} cores")
    for package, version in machine.packages.items():
        say(f"  {package} {version}")
    for finding in findings:
        say(f"{finding.level.value:>5}  {finding.text}  [{finding.code}]")
        if finding.remedy:
            say(f"       To do: {finding.remedy}")
    for answer in answers:
        say(f"{'met' if answer.met else 'unmet':>5}  {answer.entry}: here {answer.found}")
