"""What an architecture of the benchmark is: a module, its inputs and the ranges of its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Exporter = Literal["dynamo", "torchscript"]
"""``torch.onnx.export`` with ``dynamo=True`` (torch.export) or ``dynamo=False`` (TorchScript)."""
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)

Sizes = Mapping[str, int]
"""A value for each free size of an architecture: ``{"batch": 2, "length": 16}``."""


@dataclass(frozen=True)
class Range:
    """The smallest, usual and largest value of a free size.

    A model is exported at the usual sizes; torch.export takes 0 and 1 for constants, so a usual
    size is at least 2. Outputs are compared at the smallest and at the largest.
    """

    min: int
    opt: int
    max: int


BATCH = Range(1, 2, 4)
"""What ``batch`` ranges over unless an architecture says otherwise."""


@dataclass(frozen=True)
class Architecture:
    """A published network: its layers and depth as published, its width reduced.

    The module's weights and its inputs are drawn from a seed that the harness sets, so ``make``
    and ``inputs`` just draw.
    """

    name: str
    """Lower case with hyphens; the name of its files: ``resnet-18``."""
    family: str
    """What the table groups it by: ``classification``, ``detection``, ``language``, …"""
    make: Callable[[], nn.Module]
    """Return the module; its ``forward`` has a parameter for each name that ``inputs`` gives."""
    inputs: Callable[[Sizes], dict[str, Tensor]]
    """Return inputs of these sizes, by the names of ``forward``'s parameters and in their order."""
    dynamic: Mapping[str, Mapping[int, str]]
    """Input to its dynamic axes and their names. Equal names are equal sizes. A name that is no
    key of ``ranges`` is a size that follows from others: ``past_and_length``."""
    outputs: tuple[str, ...]
    """Names of the outputs, in the order in which ``forward`` returns them; all are tensors."""
    ranges: Mapping[str, Range] = field(default_factory=lambda: {"batch": BATCH})
    """The free sizes, and what each ranges over."""
    left_out: Mapping[Exporter, str] = field(default_factory=dict)
    """Exporters that cannot export it, each with the exporter's words."""
    opset: int | None = None
    """Operator set to export for; none: the exporter's own choice."""
    tolerance: float = 1e-4
    """Largest difference of an output, relative to its largest value. It is only larger than this
    where float32 rounding alone makes such differences (torch in float32 beside float64)."""

    def sizes(self, which: Literal["min", "opt", "max"]) -> dict[str, int]:
        """Return the smallest, usual or largest sizes."""
        return {name: getattr(each, which) for name, each in self.ranges.items()}

    def module(self) -> nn.Module:
        """Return the module, ready for inference; the same weights each time."""
        torch.manual_seed(0)
        module = self.make().eval()
        with torch.no_grad():
            _seem_trained(module, self.feeds("max"))
        return module

    def feeds(self, which: Literal["min", "opt", "max"]) -> dict[str, Tensor]:
        """Return inputs of the smallest, usual or largest sizes; the same each time."""
        torch.manual_seed(1)
        return self.inputs(self.sizes(which))


def _seem_trained(module: nn.Module, feeds: Mapping[str, Tensor]) -> None:
    """Give normalizations weights and statistics as training leaves them.

    With the initial ones (0 and 1) a normalization does nothing, and a deep network's outputs
    hardly depend on its inputs.
    """
    norms = [each for each in module.modules() if "Norm" in type(each).__name__]
    for norm in norms:
        if isinstance(getattr(norm, "weight", None), Tensor):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        if isinstance(getattr(norm, "bias", None), Tensor):
            nn.init.normal_(norm.bias, std=0.1)
    counting = [each for each in norms if getattr(each, "running_mean", None) is not None]
    for norm in counting:
        norm.train().momentum = 1.0
    if counting:
        module(**feeds)
    for norm in counting:
        norm.eval().momentum = 0.1
