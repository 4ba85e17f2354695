"""The process whose kernels compute-sanitizer watches; its argument is the job's folder."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.op_attributes import read_written
from trtforge.op_testing import launch_op, make_inputs

if TYPE_CHECKING:
    from trtforge.ops import CustomOp


def run_job(folder: Path) -> None:
    """Launch what ``sanitize`` wrote into ``folder``; each array has an allocation of its own."""
    import cupy

    cupy.cuda.set_allocator(None)  # a pool would hide where an array ends
    job = json.loads((folder / "job.json").read_text())
    kind: Any = import_module(job["module"])
    for name in job["kind"].split("."):
        kind = getattr(kind, name)
    op: CustomOp = read_written(job["op"], kind)
    rng = np.random.default_rng(0)
    for inputs in job["cases"]:
        case = [
            np.load(folder / each, allow_pickle=False) if isinstance(each, str) else tuple(each)
            for each in inputs
        ]
        for dtype in job["dtypes"]:
            given = make_inputs(op, case, dtype, rng)
            for tactic in job["tactics"]:
                launch_op(op, given, dtype, tactic)


if __name__ == "__main__":
    run_job(Path(sys.argv[1]))
