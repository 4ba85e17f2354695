"""How well a model does its task on the data: by labels, or by a function of the user.

The function is called with an iterable of ``(inputs, outputs, labels)``, one entry a batch:
mappings of names to arrays, and the labels of the batch or None. It returns a number; larger is
better.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from trtforge.errors import DataError
from trtforge.user_code import load_function, user_code

if TYPE_CHECKING:
    from trtforge.artifacts import Array, Batches

    Arrays = Mapping[str, Array]


class TaskAccuracy(ABC):
    """Looks at what one model answers, batch by batch, in the order of the data."""

    @abstractmethod
    def add(self, inputs: Arrays, outputs: Arrays) -> None:
        """Take one batch."""

    @abstractmethod
    def value(self) -> float | None:
        """Return the accuracy so far; None: there is nothing to take it from."""

    @final
    def watch(self, feeds: Iterable[Arrays], outputs: Iterable[Arrays]) -> Iterator[Arrays]:
        """Yield ``outputs`` and look at them as they pass by."""
        for inputs, found in zip(feeds, outputs, strict=True):
            self.add(inputs, found)
            yield found


def task_accuracy(batches: Batches) -> TaskAccuracy:
    """Return what measures the task accuracy of one model on ``batches``.

    Raises:
        DataError: the user's metric cannot be loaded.
    """
    if batches.metric is None:
        return LargestScore(batches.labels)
    load_function(batches.metric.function)  # a wrong name is told before the models run
    return UserMetric(batches.metric.function, batches.labels)


@dataclass
class LargestScore(TaskAccuracy):
    """The share of samples whose largest score, in the first output, is at the label."""

    labels: Array | None
    right: int = 0
    seen: int = 0
    holds: bool = field(init=False)

    def __post_init__(self) -> None:
        self.holds = self.labels is not None

    def add(self, inputs: Arrays, outputs: Arrays) -> None:
        """Count the right answers of one batch."""
        del inputs
        scores = next(iter(outputs.values()))
        if self.labels is None or not self.holds:
            return
        labels = self.labels[self.seen : self.seen + len(scores)]
        self.holds = scores.ndim == 2 and len(labels) == len(scores) and labels.ndim == 1
        if self.holds:
            self.right += int(np.count_nonzero(scores.argmax(axis=1) == labels))
            self.seen += len(scores)

    def value(self) -> float | None:
        """Return the share; None where the first output has no row of scores for each label."""
        return self.right / self.seen if self.holds and self.seen else None


@dataclass
class UserMetric(TaskAccuracy):
    """What a function of the user returns; the outputs of all batches are held until then."""

    function: str
    labels: Array | None
    seen: int = 0
    kept: list[tuple[Arrays, Arrays, Array | None]] = field(default_factory=list)

    def add(self, inputs: Arrays, outputs: Arrays) -> None:
        """Keep one batch."""
        count = max((len(array) if array.ndim else 1 for array in inputs.values()), default=1)
        labels = None if self.labels is None else self.labels[self.seen : self.seen + count]
        self.seen += count
        self.kept.append((inputs, outputs, labels))

    def value(self) -> float:
        """Return the function's number.

        Raises:
            DataError: the function fails, or returns no number.
        """
        function = load_function(self.function)
        with user_code("the metric failed", self.function):
            found = function(iter(self.kept))
        try:
            number = float(found)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the metric returned {type(found).__name__}, no number", where=self.function
            ) from error
        if not math.isfinite(number):
            raise DataError(f"the metric returned {number}", where=self.function)
        return number
