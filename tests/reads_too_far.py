"""An op whose kernel reads one element past its input, for the tests of the sanitizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtforge import CustomOp, Launch, Shape, Tactic


@dataclass(frozen=True)
class ReadsTooFar(CustomOp):
    """``y[i] = x[i + 1]``, also for the last one."""

    name = "test::ReadsTooFar"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32",)
    kernel = "reads_too_far.cu.jinja"
    function = "y = Identity (x)"

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        return Launch(1, 64, scalars=(inputs[0][0],))

    def reference(self, *inputs: Any) -> tuple[Any, ...]:
        return (inputs[0],)
