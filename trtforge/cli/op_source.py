"""``trtforge op new`` and ``op export``: custom ops as source code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.answers import counter, open_host, say, say_json
from trtforge.cli.options import Json, Targets, Without
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from trtforge.plugin_export import Exported

Name = Annotated[str, typer.Argument(help="A custom op: trtforge::RMSNorm, or only RMSNorm.")]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="ATTRIBUTE=VALUE", help="Set an attribute; repeatable."),
]
InputShapes = Annotated[
    list[str],
    typer.Option(
        "--shape", metavar="INPUT=SHAPE", help="Shape of an input, e.g. x=4x64; repeatable."
    ),
]


def export(
    name: Name,
    *,
    cpp: Annotated[
        bool, typer.Option("--cpp", help="As the C++ source of a TensorRT plugin.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The new folder.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Take attributes and ranks from the nodes of this model.",
        ),
    ] = None,
    settings: Settings = [],  # noqa: B006  # typer copies it
    shapes: InputShapes = [],  # noqa: B006  # typer copies it
    dtypes: Annotated[
        list[str],
        typer.Option("--dtype", metavar="TYPE", help="A type that T may be; repeatable. All else."),
    ] = [],  # noqa: B006  # typer copies it
    targets: Targets = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Write an op as a TensorRT plugin in C++, without Python.

    Its kernels lie in it, for each target. The library serves trtexec, Triton and C++ programs,
    also for engines that `trtforge run` built with the plugin in Python.
    """
    from trtforge.cache import default_root
    from trtforge.host_launch import KERNELS
    from trtforge.model_file import load
    from trtforge.op_examples import find_op
    from trtforge.plugin_export import export_plugin
    from trtforge.plugin_variants import variants_asked_for, variants_in
    from trtforge.targets import KNOWN, read_target

    if not cpp:
        raise RequestError("say what the op is to be exported as", remedy="add --cpp")
    if model is not None and (settings or shapes):
        raise RequestError(
            "--model says attributes and ranks", remedy="leave --set and --shape out"
        )
    ops = open_host(without).ops
    kind = find_op(ops, name)
    variants = (
        variants_in(load(model), kind, ops, dtypes)
        if model is not None
        else variants_asked_for(kind, settings, shapes, dtypes)
    )
    asked = tuple(map(read_target, targets)) or tuple(KNOWN.values())
    with counter("kernels", as_json=as_json) as count:
        exported = export_plugin(variants, asked, out, default_root() / KERNELS, count)
    if as_json:
        say_json(_exported_data(exported))
    else:
        _tell_export(exported)


def _exported_data(exported: Exported) -> dict[str, Any]:
    from trtforge.op_examples import fields_of

    variants = [
        {
            "attributes": dict(fields_of(rules.variant.op)), "types": rules.variant.dtypes,
            "ranks": rules.variant.ranks, "tactics": [dict(each) for each in rules.tactics],
        }
        for rules in exported.rules
    ]  # fmt: skip
    return {
        "folder": str(exported.folder), "variants": variants,
        "targets": sorted({code.sm for code in exported.codes}), "code_bytes": exported.code_bytes,
    }  # fmt: skip


def _tell_export(exported: Exported) -> None:
    from trtforge.op_examples import fields_of
    from trtforge.quantities import format_bytes

    for rules in exported.rules:
        variant = rules.variant
        named = ", ".join(f"{key}={value}" for key, value in fields_of(variant.op))
        ranks = "; ".join(" ".join(map(str, each)) for each in variant.ranks)
        say(f"{variant.op.name}({named}) for {', '.join(variant.dtypes)}; input ranks {ranks}")
    cubins = [code for code in exported.codes if not code.ptx]
    targets = ", ".join(f"sm_{sm}" for sm in sorted({code.sm for code in cubins}))
    say(
        f"{exported.folder}: {len(cubins)} CUBINs ({format_bytes(exported.code_bytes)} with PTX) "
        f"for {targets}, PTX for later GPUs"
    )
    say(f"  To do: cmake -S {exported.folder} -B build && cmake --build build")


def new(
    name: Annotated[str, typer.Argument(help="domain::OpType, for example acme::Swish.")],
    *,
    pointwise: Annotated[
        bool, typer.Option("--pointwise", help="Only an expression, no kernel of its own.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="The new folder.")
    ] = None,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Write the package of a new op, to be changed.

    It has a declaration, a kernel, a test that passes, and the entry point by which trtforge finds
    the op once the package is installed.
    """
    from trtforge.op_scaffold import write_package

    folder = write_package(name, out, pointwise=pointwise, taken=open_host(without).ops)
    written = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    if as_json:
        say_json({"op": name, "folder": str(folder), "files": written})
        return
    for path in written:
        say(path)
    say(f"  To do: pip install -e {folder} && pytest {folder} && trtforge op check {name}")
