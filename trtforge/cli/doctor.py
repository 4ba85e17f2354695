"""``trtforge doctor``: what this machine has, what is missing, and the exact remedy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from trtforge.cli.answers import Json, say, say_json
from trtforge.errors import ExitCode


def doctor(
    *,
    as_json: Json = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Treat a missing GPU as a fault.")] = False,
) -> None:
    """Say what this machine has and what it lacks.

    Looks at the driver, GPUs, TensorRT and its neighbours; each fault has its remedy.
    """
    from trtforge.checkup import Level, checkup
    from trtforge.environment import environment

    facts = environment()
    findings = checkup(facts, need_gpu=gpu)
    faults = [finding for finding in findings if finding.level is Level.FAULT]
    if as_json:
        say_json({"environment": asdict(facts), "findings": [asdict(f) for f in findings]})
    else:
        say(f"Python {facts.python}, {facts.system}, {facts.cores} cores")
        for package, version in facts.packages.items():
            say(f"  {package} {version}")
        for device in facts.gpus:
            say(f"  GPU {device.name}, compute capability {device.compute_capability}")
        for finding in findings:
            say(f"{finding.level.value:>5}  {finding.text}")
            if finding.remedy:
                say(f"       To do: {finding.remedy}")
    if faults:
        raise typer.Exit(ExitCode.ENVIRONMENT_LACKS)
