"""Small bundles and machines for tests: engine files with the headers of real ones."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
from blake3 import blake3

from trtforge import Context, Engine, Memory, Request, model_file
from trtforge.bundle.contents import Contents, Interface
from trtforge.bundle.manifest import MANIFEST
from trtforge.bundle.writer import write
from trtforge.environment import Environment, Gpu
from trtforge.report import Verdict, make_report

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
add_one (float[batch,4] x) => (float[batch,4] y)
<float one = {1}>
{
  y = Add(x, one)
}
"""
GIB = 2**30
RTX = "1.7.1.116"


def plan(flavor: str = "tensorrt_rtx", version: str = RTX, payload: bytes = b"kernels") -> bytes:
    """Return an engine file that no TensorRT would load, with the header of one that it would."""
    numbers = bytes(int(part) & 0xFF for part in version.split(".")[:4])
    body = payload.ljust(64, b".")
    if flavor == "tensorrt_rtx":
        return struct.pack("<4sIQQ", b"vtrt", 0, 2, 64 + len(body)) + numbers + bytes(36) + body
    return struct.pack("<IIQQ", 0x74727466, 0, 0, 0) + numbers + bytes(36) + body


def engine(
    folder: Path, name: str = "model", *, data: bytes | None = None, **facts: object
) -> Engine:
    """Write an engine file and return what a build would say of it."""
    given = Engine(
        path=folder / "engines" / f"{name}.engine",
        flavor="tensorrt_rtx",
        version=RTX,
        targets=("sm_86", "sm_89"),
        size=0,
        seconds=1.0,
        memory=Memory(activation=GIB, weights=GIB),
        cuda="13",
        platform="linux-x86_64",
    )
    made = replace(given, **facts)  # type: ignore[arg-type]  # the test's own facts
    data = plan(made.flavor, made.version) if data is None else data
    made.path.parent.mkdir(parents=True, exist_ok=True)
    made.path.write_bytes(data)
    return replace(made, size=len(data))


def contents(folder: Path, *engines: Engine, text: str = MODEL, **more: object) -> Contents:
    """Return what a run of a model in ONNX text would put into a bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), model)
    ctx = Context(model_file.load(model), folder, Request("add_one.onnx"))
    report = make_report(ctx, (), recipe="r", verdict=Verdict(0), environment=machine(), given=None)
    made = engines or (engine(folder),)
    return Contents(
        name="add_one",
        model=model,
        interface=Interface.of(ctx.model),
        reports=(replace(report, engines=made),),
        recipe={"stages": [{"name": "build", "repeat": 1, "steps": [{"tensorrt": {}}]}]},
        **more,  # type: ignore[arg-type]  # the test's own facts
    )


def packed(folder: Path, name: str = "b", **more: object) -> Path:
    """Write a bundle with one engine and return its path."""
    target = folder / name
    write(contents(folder / "run"), target, **more)  # type: ignore[arg-type]
    return target


def machine(
    *capabilities: str,
    packages: dict[str, str] | None = None,
    driver: str = "580.95.05",
    system: str = "Linux 6.8",
    processor: str = "x86_64",
    free: int = 10 * GIB,
    name: str = "NVIDIA GPU",
) -> Environment:
    """Return a machine with GPUs of these compute capabilities."""
    return Environment(
        python="3.12.3",
        system=system,
        machine=processor,
        cores=8,
        memory=64 * GIB,
        packages=packages if packages is not None else {"tensorrt-rtx-cu13-libs": RTX},
        driver=driver,
        gpus=tuple(Gpu(name, capability, 24 * GIB, free) for capability in capabilities),
        cuda="13.0",
    )


def rezipped(source: Path, target: Path, change) -> Path:
    """Write the zip file ``source`` anew; ``change(archive, files)`` adds what a test wants."""
    with zipfile.ZipFile(source) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        change(archive, files)
        for path, data in files.items():
            archive.writestr(path, data)
    target.write_bytes(buffer.getvalue())
    return target


def with_manifest(data: bytes, change) -> bytes:
    """Return a manifest after ``change`` edited it as JSON."""
    manifest = json.loads(data)
    change(manifest)
    return json.dumps(manifest).encode()


def listed(path: str, data: bytes) -> dict[str, object]:
    """Return the manifest's entry of a file."""
    return {"path": path, "size": len(data), "blake3": blake3(data).hexdigest()}


__all__ = [
    "GIB", "MANIFEST", "MODEL", "RTX", "contents", "engine", "listed", "machine", "packed",
    "plan", "rezipped", "with_manifest",
]  # fmt: skip
