"""Listens to TensorRT: keeps warnings and errors, the memory figures and the list of layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import IO

SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
_LAYERS = "Layers:"
_FIGURE = re.compile(
    r"^(Total Activation|Total Weights|Max Scratch|Total Host Persistent|Total Device Persistent)"
    r" Memory: (\d+)"
)
_FIELDS = {
    "Total Activation": "activation",
    "Total Weights": "weights",
    "Max Scratch": "scratch",
    "Total Host Persistent": "host_persistent",
    "Total Device Persistent": "device_persistent",
}


@dataclass
class Listener:
    """Receives TensorRT's messages one by one, from any thread that holds the interpreter.

    Args:
        file: Where messages are written down.
        level: The least severe kind of message that is written down.
    """

    file: IO[str]
    level: str = "INFO"
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    """Fields of :class:`trtforge.Memory`, bytes. The last figure counts where there are two."""
    layers: str | None = None
    """The message that lists the layers of the engine."""

    def __call__(self, severity: str, text: str) -> None:
        """Take one message."""
        if SEVERITIES.index(severity) <= SEVERITIES.index(self.level):
            self.file.write(f"[{severity}] {text}\n")
        if severity == "WARNING":
            self._keep(self.warnings, text)
        elif severity in ("ERROR", "INTERNAL_ERROR"):
            self._keep(self.errors, text)
        elif severity == "VERBOSE" and text.startswith(_LAYERS):
            self.layers = text
        else:
            figure = _FIGURE.match(text)
            if figure:
                self.memory[_FIELDS[figure[1]]] = int(figure[2])

    @staticmethod
    def _keep(texts: list[str], text: str) -> None:
        if text not in texts:
            texts.append(text)

    @property
    def events(self) -> list[str]:
        """Errors and warnings as lines."""
        return [
            *(f"error: {text}" for text in self.errors),
            *(f"warning: {text}" for text in self.warnings),
        ]
