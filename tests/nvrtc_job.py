"""A process that compiles each shipped op with the NVRTC that was loaded before Python's own."""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import op_cases

from trtforge.kernel_source import KernelError
from trtforge.kernels import compile_kernel
from trtforge.op_testing import shapes_of
from trtforge.targets import KNOWN


def choices():
    """Yield each op once, with its own tactic, and with the last choice of every tactic."""
    once = {op.op_type: (op, cases[0]) for op, cases in reversed(op_cases.CASES)}
    for op, case in once.values():
        dtype = "float16" if "float16" in op.dtypes else op.dtypes[0]
        yield op, dtype, dict(op.tactic(dtype, shapes_of(case)))
        if op.tactics:
            yield op, dtype, {name: last for name, (*_, last) in op.tactics.items()}


def compile_one(op, dtype, tactic):
    """Return what the compiler says against it; empty: nothing."""
    try:
        compile_kernel(op, dtype, KNOWN["sm_90"], Path(sys.argv[1]), tactic=tactic)
    except KernelError as error:
        return f"{op.name} {dtype} {tactic}: {error.what}"
    return ""


if __name__ == "__main__":
    from cupy.cuda import nvrtc

    with ProcessPoolExecutor(2) as pool:
        problems = list(pool.map(compile_one, *zip(*choices(), strict=True)))
    sys.stdout.write("NVRTC {} {}, {} kernels".format(*nvrtc.getVersion(), len(problems)))
    sys.exit("\n".join(filter(None, problems)) or 0)
