"""``trtforge bundle``: pack, inspect, preflight and load bundles."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.answers import end, not_met, say, say_json
from trtforge.cli.options import Json
from trtforge.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtforge.bundle.manifest import BundledEngine
    from trtforge.bundle.preflight import Fit, Preflight
    from trtforge.bundle.storage import Bundle

app = typer.Typer(help="Bundles: the engines of one model for many machines.", no_args_is_help=True)
Which = Annotated[Path, typer.Argument(help="A bundle: a folder or a zip file.")]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="FILE", help="Public key (PEM, ed25519) that must have signed the bundle."
    ),
]


@app.command()
def pack(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs on one model.")],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="PATH", help="The bundle: a folder, or a file ending in .zip."
        ),
    ],
    onnx: Annotated[bool, typer.Option(help="Take the ONNX model along, to rebuild from.")] = True,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="FILE", help="Private key (PEM, ed25519) to sign with."),
    ] = None,
    licenses: Annotated[
        list[Path],
        typer.Option("--license", metavar="FILE", help="License file of the model; repeatable."),
    ] = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
) -> None:
    """Pack the engines of runs, for example on several kinds of GPU, into one bundle."""
    from trtforge.bundle.contents import of_runs
    from trtforge.bundle.writer import write

    manifest = write(of_runs(runs, licenses=licenses, with_model=onnx), out, key=sign)
    if as_json:
        say_json({"bundle": str(out), "manifest": json.loads(manifest.to_json())})
    else:
        say(f"{out}: {_count(len(manifest.engines), 'engine')}, {_size(manifest.stored_bytes)}")


@app.command()
def inspect(bundle: Which, *, key: Key = None, as_json: Json = False) -> None:
    """Check every byte of a bundle and say what is in it."""
    opened = _open(bundle, key)
    if as_json:
        manifest = json.loads(opened.manifest.to_json())
        say_json({"bundle": str(bundle), "signed_by": opened.signed_by, "manifest": manifest})
        return
    _tell(opened)


@app.command("preflight")
def preflight_(
    bundle: Which,
    *,
    env: Annotated[
        Path | None,
        typer.Option(
            "--env",
            metavar="FILE",
            help="Another machine: what `trtforge doctor --json` printed there.",
        ),
    ] = None,
    gpu: Annotated[
        int | None, typer.Option("--gpu", metavar="NUMBER", help="Number of the GPU to use.")
    ] = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Say which engine of a bundle fits this machine, and why the others do not.

    Loads no engine. The exit code is 1 if none fits.
    """
    from trtforge.bundle.preflight import on_gpu, preflight, read_machine
    from trtforge.environment import environment

    opened = _open(bundle, key)
    machine = read_machine(env) if env else environment()
    if gpu is not None:
        machine = on_gpu(machine, gpu)
    result = preflight(opened, machine)
    if as_json:
        say_json(_data(result, opened))
    else:
        _tell_preflight(result, opened)
    rebuild = ("`trtforge bundle load` builds an engine here",) if result.can_rebuild else ()
    pack = "build on this machine, or for its GPU, and pack that too (`trtforge bundle pack`)"
    end(not_met([] if result.chosen else [_verdict(result)], *rebuild, pack))


@app.command()
def load(
    bundle: Which,
    *,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", metavar="FILE", help="Inputs to run: .npz with all arrays."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The .npz file for the outputs."),
    ] = None,
    build: Annotated[bool, typer.Option(help="Build an engine here where none fits.")] = True,
    allow_onnxruntime: Annotated[
        bool, typer.Option("--allow-onnxruntime", help="Run the ONNX model where no engine can.")
    ] = False,
    gpu: Annotated[
        int | None, typer.Option("--gpu", metavar="NUMBER", help="Number of the GPU to use.")
    ] = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Load the engine that fits, or build one, and run it on data."""
    from trtforge.array_files import open_arrays
    from trtforge.cli.answers import watcher
    from trtforge.runtime.loading import LoadOptions
    from trtforge.runtime.loading import load as load_bundle

    if (data is None) != (out is None):
        raise RequestError("--data and --out go together", remedy="give both, or none")
    options = LoadOptions(key, gpu, build, allow_onnxruntime)
    feed = open_arrays(data).read_all() if data is not None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes below say the same
        model = load_bundle(bundle, options=options, observer=watcher(as_json=as_json))
    with model:
        outputs = model.run(feed) if feed is not None else {}
        runs_in = model.runs_in
    if out is not None:
        _write_arrays(out, outputs)
    tensors = {
        title: {tensor.name: f"{tensor.dtype} {tensor.text}" for tensor in found}
        for title, found in (("inputs", model.inputs), ("outputs", model.outputs))
    }
    if as_json:
        say_json({"bundle": str(bundle), "runs_in": runs_in, "notes": model.notes, **tensors})
        return
    say(f"{bundle} runs in {runs_in}")
    for note in model.notes:
        say(f"  Note: {note}")
    for title, shown in tensors.items():
        for name, text in shown.items():
            say(f"  {title[:-1]:<7}{name}: {text}")


def _write_arrays(out: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np

    from trtforge.store import atomic_file, write_error

    try:
        with atomic_file(out) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise write_error(error, out) from error


def _open(path: Path, key: Path | None) -> Bundle:
    from trtforge.bundle.storage import Bundle

    return Bundle(path, key=key)


def _tell(opened: Bundle) -> None:
    manifest = opened.manifest
    size = _size(manifest.stored_bytes)
    say(f"{opened.path}: model {manifest.model.name!r}, {size}, written {manifest.created}")
    for title, tensors in (("input", manifest.model.inputs), ("output", manifest.model.outputs)):
        for tensor in tensors:
            say(f"  {title:<7}{tensor.name}: {tensor.dtype} {tensor.shape}")
    for engine in manifest.engines:
        say(f"  engine {_engine(engine)}")
        say(f"         {engine.file}, {_size(manifest.by_path[engine.file].size)}")
    rebuild = "can be rebuilt" if manifest.model.file else "cannot be rebuilt: no ONNX model"
    signed = f"signed by {opened.signed_by}" if opened.signed_by else "not signed"
    say(f"  {_count(len(manifest.files), 'file')}, every hash is right; {rebuild}; {signed}")


def _engine(engine: BundledEngine) -> str:
    where = ", ".join(engine.targets) or "an unknown GPU"
    part = f", part {engine.part}" if engine.part else ""
    return f"{engine.flavor} {engine.version}{part} for {where} on {engine.platform or '?'}"


def _tell_preflight(result: Preflight, opened: Bundle) -> None:
    engines = opened.manifest.engines
    for fit in result.fits:
        mark = "fits" if fit.fits else "no"
        say(f"{mark:>5}  {_engine(engines[fit.engine])}")
        for misfit in fit.misfits:
            say(f"       {misfit.rule}: {misfit.cause}")
            say(f"         To do: {misfit.remedy}")
            if misfit.source:
                say(f"         See {misfit.source}")
        for note in fit.notes:
            say(f"       Note: {note}")
    say(_verdict(result))


def _verdict(result: Preflight) -> str:
    if result.chosen:
        return f"Load {', '.join(fit.file for fit in result.chosen)}"
    if result.can_rebuild:
        return "No engine fits; the bundle has the ONNX model and the recipe to build one from"
    return "No engine fits, and the bundle has no ONNX model to rebuild from"


def _data(result: Preflight, opened: Bundle) -> dict[str, Any]:
    def row(fit: Fit) -> dict[str, Any]:
        engine = opened.manifest.engines[fit.engine]
        return {**asdict(fit), "fits": fit.fits, "about": _engine(engine)}

    return {
        "fits": [row(fit) for fit in result.fits],
        "chosen": [fit.file for fit in result.chosen],
        "can_rebuild": result.can_rebuild,
        "verdict": _verdict(result),
    }


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    from trtforge.quantities import format_bytes

    return format_bytes(size)
