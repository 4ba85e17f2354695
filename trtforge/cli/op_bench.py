"""``trtforge op bench``: time the tactics of a custom op and keep the fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.answers import counter, open_host, say, say_json
from trtforge.cli.op_source import InputShapes, Name, Settings
from trtforge.cli.options import Json, Without

if TYPE_CHECKING:
    from trtforge.op_bench import Benchmark


def bench(
    name: Name,
    *,
    settings: Settings = [],  # noqa: B006  # typer copies it
    shapes: InputShapes = [],  # noqa: B006  # typer copies it
    dtypes: Annotated[
        list[str],
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="A type of T; repeatable. float16, or the op's first, else.",
        ),
    ] = [],  # noqa: B006  # typer copies it
    save: Annotated[
        bool, typer.Option(help="Keep the fastest tactic for later builds and launches.")
    ] = True,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Time the tactics of an op on the GPU; keep the fastest.

    Reports the time, the bytes per second and their share of the measured copy bandwidth. Without
    --shape, the op's own examples are timed that are of a size worth it.
    """
    from trtforge.cuda_timer import CudaTimer
    from trtforge.op_bench import bench_op, keep
    from trtforge.op_examples import examples_of, find_op
    from trtforge.plugin_variants import checked_types
    from trtforge.tuning import Tuning

    kind = find_op(open_host(without).ops, name)
    examples = examples_of(kind, settings, shapes, timed=True)
    usual = ["float16"] if "float16" in kind.dtypes else [kind.dtypes[0]]
    types = checked_types(kind, dtypes or usual)
    timer = CudaTimer()
    results = []
    for example in examples:
        checks = [each for each in kind.examples() if each.op == example.op and not each.timed]
        for dtype in types:
            with counter("tactics", as_json=as_json) as count:
                result = bench_op(example, dtype, timer, checks=checks, progress=count)
            if save:
                keep(result, Tuning())
            results.append(result)
            if not as_json:
                _tell(result)
    if as_json:
        say_json([_data(result) for result in results])


def _tell(result: Benchmark) -> None:
    from trtforge.op_examples import fields_of
    from trtforge.quantities import percent

    named = ", ".join(f"{key}={value}" for key, value in fields_of(result.op))
    sizes = " ".join(f"[{','.join(map(str, shape))}]" for shape in result.shapes)
    say(f"{result.op.name}({named}) {result.dtype} {sizes} on {result.device.name}")
    speed = f"{result.bandwidth / 1e9:.0f} GB/s, {percent(result.share)} of copying"
    say(f"  fastest  {result.best.milliseconds:.4f} ms  {speed}  {_text(result.best.tactic)}")
    say(f"  default  {result.default_milliseconds:.4f} ms  {_text(result.default)}")
    for timing in result.timings:
        if timing.problem:
            say(f"  LEFT OUT {_text(timing.tactic)}: {timing.problem}")


def _text(tactic: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in tactic.items())


def _data(result: Benchmark) -> dict[str, Any]:
    from dataclasses import asdict

    from trtforge.op_examples import fields_of

    return {
        "op": result.op.name, "attributes": dict(fields_of(result.op)), "dtype": result.dtype,
        "shapes": result.shapes, "device": asdict(result.device), "bytes": result.size,
        "copy_bandwidth": result.copy_bandwidth, "milliseconds": result.best.milliseconds,
        "tactic": dict(result.best.tactic), "bandwidth": result.bandwidth, "share": result.share,
        "default_tactic": dict(result.default),
        "default_milliseconds": result.default_milliseconds,
        "tactics": [asdict(timing) for timing in result.timings],
    }  # fmt: skip
