"""Starts the kernels that an engine carries, with CuPy, on TensorRT's stream.

Built, not executed here: no GPU that TensorRT-RTX accepts was at hand. A test records the calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trtforge import BuildError, CustomOp, EnvironmentLacks, Shape
from trtforge.op_testing import load_module
from trtforge.ops import launches
from trtforge.tuning import size_class
from trtforge_plugins.tensorrt.plugin_fields import Carried


@dataclass(frozen=True)
class Call:
    """What TensorRT hands over to one launch; addresses are of the device's memory."""

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    sources: tuple[int, ...]
    """Addresses of the inputs."""
    results: tuple[int, ...]
    """Addresses of the outputs, and of the counts of counted ones."""
    scratch: int
    """Address of the workspace."""
    stream: int
    """CUDA's stream."""


def enqueue(op: CustomOp, carried: Carried, chosen: int, call: Call) -> None:
    """Start the kernels of ``op``.

    Args:
        op: The op with its attributes.
        carried: The compiled kernels.
        chosen: TensorRT's tactic; 0: what was measured to be fastest on such a GPU at such sizes,
            else what the op prefers for these shapes, where it is carried.
        call: Shapes, addresses and stream.

    Raises:
        EnvironmentLacks: the GPU is older than every target of the engine.
    """
    import cupy

    sm = int(cupy.cuda.Device().compute_capability)
    number = chosen or _preferred(op, carried, call.inputs, sm)
    module = _module(code_for(carried, number, sm))
    before = [np.uint64(address) for address in call.sources]
    scratch = [call.scratch] if op.workspace(call.inputs, call.outputs) else []
    after = [np.uint64(address) for address in (*call.results, *scratch)]
    with cupy.cuda.ExternalStream(call.stream):
        for launch in launches(op, call.inputs, call.outputs, carried.tactics[number - 1]):
            name = f"{carried.entry}_{launch.kernel}" if launch.kernel else carried.entry
            function = module.get_function(name)
            function.max_dynamic_shared_size_bytes = launch.shared_bytes
            scalars = [np.int32(scalar) for scalar in launch.scalars]
            arguments = (*before, *scalars, *after)
            function((launch.grid,), (launch.block,), arguments, shared_mem=launch.shared_bytes)


def _preferred(op: CustomOp, carried: Carried, inputs: tuple[Shape, ...], sm: int) -> int:
    tuned = carried.tuned.get(f"{sm} {size_class(inputs)}", 0)
    if 0 < tuned <= len(carried.tactics):
        return tuned
    wanted = op.tactic(carried.dtype, inputs)
    return carried.tactics.index(wanted) + 1 if wanted in carried.tactics else 1


def code_for(carried: Carried, number: int, sm: int) -> bytes:
    """Return the code of a tactic that runs on compute capability ``sm``: a CUBIN, else PTX.

    A CUBIN also runs on later minor versions of its own major version.
    """
    fitting = [
        have for have, tactic in carried.cubins if tactic == number and have // 10 == sm // 10
        and have <= sm
    ]  # fmt: skip
    if fitting:
        return carried.cubins[max(fitting), number]
    if sm < carried.ptx_sm:
        raise EnvironmentLacks(
            f"the engine's kernels are for sm_{carried.ptx_sm} and later; this GPU is sm_{sm}",
            remedy="build the engine for this GPU's target, too",
        )
    try:
        return carried.ptx[number]
    except KeyError:
        raise BuildError(f"the engine carries no PTX of tactic {number}") from None


@lru_cache(maxsize=256)
def _module(code: bytes) -> Any:
    return load_module(code)
