"""Col2Im: overlapping blocks are added up to images, the inverse of unfolding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from trtforge import CustomOp, Example, Launch, RequestError, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Col2Im(CustomOp):
    """``x`` [N, C * block height * block width, blocks] becomes images [N, C, height, width]."""

    name = "trtforge::Col2Im"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "col2im.cu.jinja"
    since = 18
    tactics: ClassVar = {"block": (256, 128, 512)}
    function = """
        size = Constant <value_ints = [{{ height }}, {{ width }}]> ()
        block = Constant <value_ints = [{{ block_height }}, {{ block_width }}]> ()
        y = Col2Im <
            pads = [{{ pad_top }}, {{ pad_left }}, {{ pad_bottom }}, {{ pad_right }}],
            strides = [{{ stride_height }}, {{ stride_width }}],
            dilations = [{{ dilation_height }}, {{ dilation_width }}]
        > (x, size, block)
    """

    height: int = 1
    """Rows of an image."""
    width: int = 1
    """Columns of an image."""
    block_height: int = 1
    """Rows of a block."""
    block_width: int = 1
    """Columns of a block."""
    stride_height: int = 1
    """Rows from one block to the next."""
    stride_width: int = 1
    """Columns from one block to the next."""
    dilation_height: int = 1
    """Rows from one entry of a block to the next."""
    dilation_width: int = 1
    """Columns from one entry of a block to the next."""
    pad_top: int = 0
    """Rows above the image that blocks cover."""
    pad_left: int = 0
    """Columns left of the image."""
    pad_bottom: int = 0
    """Rows below the image."""
    pad_right: int = 0
    """Columns right of the image."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of the images."""
        images, rows, _ = inputs[0]
        channels = rows // (self.block_height * self.block_width)
        return ((images, channels, self.height, self.width),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """A thread per pixel adds up what covers it.

        Raises:
            RequestError: another number of blocks fits the images.
        """
        if prod(self._blocks()) != inputs[0][2]:
            raise RequestError(
                f"custom op {self.name}: {prod(self._blocks())} blocks fit an image, "
                f"not {inputs[0][2]}"
            )
        size = prod(outputs[0])
        scalars = (size, *self._blocks())
        return Launch(max(1, ceil_div(size, tactic["block"])), tactic["block"], scalars)

    def _blocks(self) -> tuple[int, int]:
        """How many blocks there are along both axes."""
        rows = self.height + self.pad_top + self.pad_bottom
        columns = self.width + self.pad_left + self.pad_right
        return (
            (rows - self.dilation_height * (self.block_height - 1) - 1) // self.stride_height + 1,
            (columns - self.dilation_width * (self.block_width - 1) - 1) // self.stride_width + 1,
        )

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Add each entry of the blocks in float64, then round."""
        (images, channels, _, _), (down, across) = self.shapes(inputs[0].shape)[0], self._blocks()
        x = inputs[0].astype(np.float64).reshape(
            images, channels, self.block_height, self.block_width, down, across
        )  # fmt: skip
        high, wide = self.height + self.pad_top, self.width + self.pad_left
        y = np.zeros((images, channels, high + self.pad_bottom, wide + self.pad_right))
        for i in range(self.block_height):
            for j in range(self.block_width):
                top, left = i * self.dilation_height, j * self.dilation_width
                y[
                    :, :,
                    top : top + down * self.stride_height : self.stride_height,
                    left : left + across * self.stride_width : self.stride_width,
                ] += x[:, :, i, j]  # fmt: skip
        return (y[:, :, self.pad_top : high, self.pad_left : wide].astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(4, 5, 2, 2), [(2, 4, 12)]),
            Example(
                cls(128, 128, 3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
                [(8, 64 * 9, 128 * 128)],
                timed=True,
            ),
        ]
