"""Everything that is known of a machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from trtforge.doctor.installation import Installation, read_installation
from trtforge.doctor.limits import Limits, read_limits
from trtforge.environment import Environment, environment


@dataclass(frozen=True)
class Facts:
    """A machine, its packages and its limits."""

    environment: Environment
    installation: Installation = field(default_factory=Installation)
    limits: Limits = field(default_factory=Limits)


def read_facts() -> Facts:
    """Read the facts of this machine."""
    return Facts(environment(), read_installation(), read_limits())
