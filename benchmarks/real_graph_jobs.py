"""What the workers of ``real_graphs.py`` do: export an architecture, compare outputs, build."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trtforge import TrtforgeError
from trtforge.context import Progress

if TYPE_CHECKING:
    from architectures.architecture import Architecture, Exporter
    from torch import Tensor, nn

Which = Literal["min", "max"]
COMPARED: tuple[Which, ...] = ("min", "max")
"""The sizes at which outputs are compared; both differ from those of the export."""
TARGET = 89
ARCHITECTURES = Path(__file__).resolve().parent / "architectures"


def export(payload: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """Export the architecture ``name`` into ``folder``, with inputs and torch's outputs.

    Returns:
        ``reason``: why the exporter failed, or "".
    """
    import architectures
    import torch

    torch.set_num_threads(1)
    (wanted,) = [each for each in architectures.ARCHITECTURES if each.name == payload["name"]]
    folder = Path(payload["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    module = wanted.module()
    stamp = _stamp(module, payload["exporter"])
    if (folder / "stamp").is_file() and (folder / "stamp").read_text() == stamp:
        return {"reason": ""}
    (folder / "stamp").unlink(missing_ok=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _export(wanted, module, payload["exporter"], folder / "raw.onnx")
        except Exception as error:  # noqa: BLE001  # that the exporter fails is the result
            return {"reason": f"{type(error).__name__}: {first_line(str(error))}"}
        for which in COMPARED:
            _save_data(wanted, module, which, folder / f"{which}.npz")
    (folder / "profile.npz").unlink(missing_ok=True)
    shapes = {
        f"{n}:{w}": t.shape for w in ("min", "opt", "max") for n, t in wanted.feeds(w).items()
    }
    np.savez(folder / "profile.npz", **{key: np.array(shape) for key, shape in shapes.items()})
    (folder / "stamp").write_text(stamp)
    return {"reason": ""}


def _stamp(module: nn.Module, exporter: str) -> str:
    """Return what an export depends on: the files of the architecture, torch and the exporter."""
    import torch

    todo, texts = [type(module).__module__.partition(".")[2]], {}
    while todo:
        name = todo.pop()
        if name not in texts:
            texts[name] = (ARCHITECTURES / f"{name}.py").read_text()
            todo += re.findall(r"^from architectures\.(\w+) import", texts[name], re.MULTILINE)
    digest = sha256("".join(texts[name] for name in sorted(texts)).encode()).hexdigest()
    return f"{exporter} {torch.__version__} {digest}"


def _export(wanted: Architecture, module: nn.Module, exporter: Exporter, path: Path) -> None:
    import torch

    feeds = wanted.feeds("opt")
    names = {"input_names": list(feeds), "output_names": list(wanted.outputs)}
    common: dict[str, Any] = {**names, "opset_version": wanted.opset, "verbose": False}
    if exporter == "dynamo":
        axes = {name: dict(wanted.dynamic.get(name, {})) or None for name in feeds}
        program = torch.onnx.export(
            module, (), kwargs=feeds, dynamic_shapes=axes, dynamo=True, **common
        )
        assert program is not None
        program.save(path, external_data=False)
    else:
        axes = {**{n: dict(a) for n, a in wanted.dynamic.items()}, **_output_axes(wanted, module)}
        torch.onnx.export(
            module, tuple(feeds.values()), path, dynamic_axes=axes, dynamo=False, **common
        )


def _output_axes(wanted: Architecture, module: nn.Module) -> dict[str, dict[int, str]]:
    """Return the axes of each output that change with the sizes, named after the output."""
    shapes = [_outputs(wanted, module(**wanted.feeds(which))) for which in ("opt", *COMPARED)]
    return {
        name: {
            axis: f"{name}_{axis}"
            for axis in range(shapes[0][name].ndim)
            if len({each[name].shape[axis] for each in shapes}) > 1
        }
        for name in wanted.outputs
    }


def _outputs(wanted: Architecture, found: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    tensors = found if isinstance(found, tuple | list) else (found,)
    return dict(zip(wanted.outputs, tensors, strict=True))


def _save_data(wanted: Architecture, module: nn.Module, which: Which, path: Path) -> None:
    feeds = wanted.feeds(which)
    outputs = _outputs(wanted, module(**feeds))
    arrays = {f"in:{name}": value.numpy() for name, value in feeds.items()}
    np.savez(path, **arrays, **{f"out:{name}": value.numpy() for name, value in outputs.items()})


def measure(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return whether the model of ``tool`` in ``folder`` is built and still right, and how good.

    The raw export is held against torch's outputs, what a tool made of it against the raw export
    under ONNX Runtime.
    """
    folder, tool = Path(payload["folder"]), payload["tool"]
    row: dict[str, Any] = {"built": False, "equal": False, "reason": ""}
    try:
        differ = _difference(folder, tool, payload["tolerance"])
    except Exception as error:  # noqa: BLE001  # that a model does not run is the result
        differ = f"does not run: {first_line(str(error))}"
    row["equal"], row["reason"] = not differ, differ
    try:
        built = _build(folder, tool, progress)
    except TrtforgeError as error:
        return {**row, "reason": first_line(error.what)}
    return {**row, **built}


def _difference(folder: Path, tool: str, tolerance: float) -> str:
    """Return where outputs differ, or ""."""
    model = (folder / f"{tool}.onnx").read_bytes()
    raw = (folder / "raw.onnx").read_bytes()
    for which in COMPARED:
        with np.load(folder / f"{which}.npz") as data:
            arrays = dict(data)
        feeds = {name[3:]: value for name, value in arrays.items() if name.startswith("in:")}
        found = _run(model, feeds)
        if tool == "raw":
            expected = {n[4:]: value for n, value in arrays.items() if n.startswith("out:")}
        else:
            expected = _run(raw, feeds)
        if differ := _compare(found, expected, tolerance):
            return f"{which} sizes: {differ}"
    return ""


def _run(model: bytes, feeds: Mapping[str, Any]) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    given = {name: value for name, value in feeds.items() if name in taken}
    return dict(zip(names, session.run(names, given), strict=True))


def _compare(found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> str:
    if list(found) != list(expected):
        return f"outputs {list(found)} instead of {list(expected)}"
    for name, right in expected.items():
        here = found[name]
        if here.shape != right.shape or here.dtype != right.dtype:
            return f"{name} is {here.dtype}{here.shape} instead of {right.dtype}{right.shape}"
        if not np.array_equal(np.isfinite(here), np.isfinite(right)):
            return f"{name} is finite elsewhere"
        limit = tolerance if right.dtype.kind == "f" else 0.0
        wide = np.nan_to_num(here.astype(np.float64)), np.nan_to_num(right.astype(np.float64))
        scale = np.abs(wide[1]).max(initial=0.0) or 1.0
        error = np.abs(wide[0] - wide[1]).max(initial=0.0) / scale
        if error > limit:
            return f"{name} differs by {error:.1e} of its largest value"
    return ""


def _build(folder: Path, tool: str, progress: Progress) -> dict[str, Any]:
    """Build for SM 89, with a profile of the architecture's ranges, and read the engine's facts."""
    from dataclasses import asdict

    from trtforge_plugins.engine_layers import parse_layers
    from trtforge_plugins.tensorrt import build_job
    from trtforge_plugins.tensorrt.order import BuildOrder

    engine, layers = folder / f"{tool}.engine", folder / f"{tool}.layers"
    order = BuildOrder(
        "tensorrt_rtx",
        str(folder / f"{tool}.onnx"),
        "ERROR",
        engine=str(engine),
        layers=str(layers),
        profiles=[profile(folder)],
        targets=[TARGET],
    )
    built = build_job.build(asdict(order), progress)
    if built["refused"]:
        first = built["refused"][0]
        return {"reason": first_line(f"{first['op']}: {first['text']}")}
    engine.unlink()
    return {
        "built": True,
        "layers": len(parse_layers(layers.read_text()).layers),
        "activation": built["memory"]["activation"],
        "build_seconds": round(built["seconds"], 2),
    }


def profile(folder: Path) -> dict[str, tuple[list[int], list[int], list[int]]]:
    """Return the ranges of the open dimensions, by input."""
    with np.load(folder / "profile.npz") as data:
        shapes = {key: value.tolist() for key, value in data.items()}
    inputs = {key.partition(":")[0] for key in shapes}
    whole = {n: (shapes[f"{n}:min"], shapes[f"{n}:opt"], shapes[f"{n}:max"]) for n in inputs}
    return {name: triple for name, triple in whole.items() if triple[0] != triple[2]}


def first_line(text: str) -> str:
    """Return what fits into a row."""
    return " ".join(text.split())[:300]
