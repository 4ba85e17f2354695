"""The compiled kernels of a plugin as the fields that TensorRT keeps in the engine, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from trtforge import BuildError, Tactic

FACTS = "facts"


@dataclass(frozen=True)
class Carried:
    """What a plugin carries beside its op."""

    dtype: str = ""
    """The type that stands for T."""
    entry: str = ""
    """Name of the kernel in the code."""
    tactics: tuple[Tactic, ...] = ()
    """TensorRT's tactic n is the n-th, counted from 1."""
    cubins: Mapping[tuple[int, int], bytes] = field(default_factory=dict)
    """By compute capability and tactic."""
    ptx: Mapping[int, bytes] = field(default_factory=dict)
    """By tactic, for GPUs that no CUBIN is for."""
    ptx_sm: int = 0
    """The compute capability from which on the PTX runs."""
    tuned: Mapping[str, int] = field(default_factory=dict)
    """The tactic that `trtforge op bench` found fastest, by compute capability and class of sizes:
    ``"86 8192x4096 4096"``."""


def write_fields(carried: Carried) -> dict[str, bytes]:
    """Return name and content of each field."""
    facts = {
        "dtype": carried.dtype, "entry": carried.entry, "ptx_sm": carried.ptx_sm,
        "tactics": [dict(tactic) for tactic in carried.tactics], "tuned": dict(carried.tuned),
    }  # fmt: skip
    return {
        FACTS: json.dumps(facts, sort_keys=True).encode(),
        **{f"cubin-{sm}-{number}": code for (sm, number), code in carried.cubins.items()},
        **{f"ptx-{number}": code for number, code in carried.ptx.items()},
    }


def read_fields(fields: Mapping[str, bytes]) -> Carried:
    """Return what :func:`write_fields` wrote.

    Raises:
        BuildError: the fields are damaged.
    """
    try:
        facts = json.loads(fields[FACTS])
        cubins, ptx = {}, {}
        for name, code in fields.items():
            kind, *numbers = name.split("-")
            if kind == "cubin":
                cubins[int(numbers[0]), int(numbers[1])] = code
            elif kind == "ptx":
                ptx[int(numbers[0])] = code
        tactics = tuple({str(k): int(v) for k, v in each.items()} for each in facts["tactics"])
        tuned = {str(name): int(number) for name, number in facts.get("tuned", {}).items()}
        return Carried(
            facts["dtype"], facts["entry"], tactics, cubins, ptx, int(facts["ptx_sm"]), tuned
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise BuildError(f"the fields of a plugin in the engine are damaged: {error}") from error
