"""Holds optimization profiles against the inputs that TensorRT sees in the network.

TensorRT itself takes a wrong profile silently and fails late; see the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trtforge import RequestError
from trtforge.errors import did_you_mean
from trtforge_plugins.tensorrt.order import Profile, Triple

BAD = "bad-profile"


@dataclass(frozen=True)
class NetworkInput:
    """An input of the network."""

    name: str
    dims: tuple[int, ...]
    """Dimensions; -1 is dynamic."""
    is_shape: bool = False
    """Whether its *values* decide shapes. A profile then gives its values, not its dimensions."""

    @property
    def needs_profile(self) -> bool:
        """Whether TensorRT cannot build without a range for it."""
        return self.is_shape or -1 in self.dims

    @property
    def text(self) -> str:
        """The dimensions as people write them: ``?x3x224x224``."""
        return "x".join("?" if dim == -1 else str(dim) for dim in self.dims) or "scalar"

    @property
    def example(self) -> str:
        """A range that fits it, as a recipe has it."""
        if self.is_shape:
            count = self.dims[0] if self.dims else 1
            low, usual, high = ("x".join([value] * max(count, 1)) for value in ("1", "8", "32"))
        else:
            low, usual, high = (self.text.replace("?", value) for value in ("1", "8", "32"))
        return f"{self.name}: {{min: {low}, opt: {usual}, max: {high}}}"


def check_profiles(inputs: Sequence[NetworkInput], profiles: Sequence[Profile]) -> None:
    """Refuse profiles that do not fit ``inputs``, and inputs that lack one.

    Raises:
        RequestError: an unknown input, another rank, another static dimension, a wrong number of
            values for a shape input, or no range for an input that needs one.
    """
    for _, problem in problems(inputs, profiles or ({},)):
        raise problem


def problems(
    inputs: Sequence[NetworkInput], profiles: Sequence[Profile]
) -> Iterator[tuple[str, RequestError]]:
    """Yield what is wrong with each range, and what range is missing, by the name of the input."""
    by_name = {each.name: each for each in inputs}
    for profile in profiles:
        for name, ranges in profile.items():
            if name not in by_name:
                hint = did_you_mean(name, by_name) or f"It has: {', '.join(by_name)}."
                yield (
                    name,
                    RequestError(
                        f"shapes: the model has no input {name!r}. {hint}",
                        remedy="give a range for each dynamic input, by its name",
                        code=BAD,
                    ),
                )
                continue
            try:
                _check_range(by_name[name], ranges)
            except RequestError as error:
                yield name, error
    for profile in profiles:
        lacking = [each for each in inputs if each.needs_profile and each.name not in profile]
        if lacking:
            yield lacking[0].name, _missing(lacking)


def _check_range(each: NetworkInput, ranges: Triple) -> None:
    rank = len(ranges[1])
    if each.is_shape:
        count = each.dims[0] if each.dims else 1
        if rank != count:
            raise RequestError(
                f"shapes: {each.name!r} decides shapes, so its range gives its {count} values; "
                f"found {rank}",
                remedy=f"write {each.example}",
                code=BAD,
            )
        return
    if rank != len(each.dims):
        raise RequestError(
            f"shapes: input {each.name!r} has rank {len(each.dims)} ({each.text}), "
            f"but its range has rank {rank}",
            remedy=f"write for example {each.example}",
            code=BAD,
        )
    low, _, high = ranges
    for axis, dim in enumerate(each.dims):
        if dim != -1 and not low[axis] == dim == high[axis]:
            raise RequestError(
                f"shapes: dimension {axis} of input {each.name!r} is {dim} in the model "
                f"({each.text}), but its range has {low[axis]} to {high[axis]}",
                remedy=f"write for example {each.example}",
                code=BAD,
            )


def _missing(lacking: Sequence[NetworkInput]) -> RequestError:
    names = ", ".join(
        f"{each.name!r} ({'decides shapes' if each.is_shape else each.text})" for each in lacking
    )
    return RequestError(
        f"no range is given for the dynamic input{'s' if len(lacking) > 1 else ''} {names}",
        remedy=f"add to the recipe: shapes: {{{', '.join(each.example for each in lacking)}}}",
        code="no-profile",
    )
