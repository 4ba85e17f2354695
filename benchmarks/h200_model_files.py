"""The models of ``h200_models.py``: exported, lowered to a precision, and rewritten by each tool.

    python benchmarks/h200_model_files.py NAME FOLDER

Needs no GPU. Prints a JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from architectures.architecture import Architecture
    from torch import Tensor

PRECISIONS = ("float32", "float16", "qdq")
OPS = "trtforge, custom ops"
TOOLS = ("raw", "trtforge", "onnxsim", "onnxslim", OPS)
RECIPE = Path(__file__).with_name("h200_models.yaml")
RECIPE_OF_OPS = Path(__file__).with_name("h200_models_ops.yaml")
LOWER = {
    "float16": "stages: [{name: lower, steps: [infer-shapes, cast: {to: float16, keep: [Range]}]}]",
    "qdq": "stages: [{name: lower, steps: [infer-shapes, fold-constants, drop-identity,"
    " fold-batchnorm, {load-data: {synthesize: true, count: 8}}, calibrate-max,"
    " insert-qdq: {dtype: int8}]}]",
}
"""What is done to the float32 export; every tool gets the result."""


def architecture(name: str) -> Architecture:
    """Return the network of this name."""
    import architectures

    (wanted,) = [each for each in architectures.ARCHITECTURES if each.name == name]
    return wanted


def inputs(wanted: Architecture, batch: int) -> dict[str, Tensor]:
    """Return inputs of this batch, other sizes at their largest; the same each time."""
    import torch

    torch.manual_seed(1)
    return wanted.inputs({**wanted.sizes("max"), "batch": batch})


def prepare(name: str, work: Path) -> dict[str, str]:
    """Write each tool's model of each precision; return what failed, and why.

    ``NAME.PRECISION/TOOL.onnx``, with ``failed.json`` beside them. What is there stays.
    """
    wanted, failed = architecture(name), {}
    raw = work / f"{name}.float32" / "raw.onnx"
    for precision in PRECISIONS:
        folder = work / f"{name}.{precision}"
        if (folder / "failed.json").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if not (folder / "raw.onnx").is_file() and precision == "float32":
                export(wanted, raw)
            elif not (folder / "raw.onnx").is_file():
                lower(wanted, precision, raw, folder / "raw.onnx")
        except Exception as error:  # noqa: BLE001  # that it cannot be made is the result
            failed[precision] = _words(error)
            continue
        _rewrite_all(folder)
    return failed


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def export(wanted: Architecture, path: Path) -> None:
    """Write the float32 model that torch's dynamo exporter makes of a network."""
    import torch

    feeds = inputs(wanted, 2)
    axes = {name: dict(wanted.dynamic.get(name, {})) or None for name in feeds}
    with torch.no_grad():
        program = torch.onnx.export(
            wanted.module(), (), kwargs=feeds, dynamic_shapes=axes, dynamo=True,
            input_names=list(feeds), output_names=list(wanted.outputs), verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)


def lower(wanted: Architecture, precision: str, model: Path, result: Path) -> None:
    """Write a float32 export in one of the other ``PRECISIONS``."""
    recipe = result.with_name("lower.yaml")
    recipe.write_text(LOWER[precision])
    shapes = {n: "x".join(map(str, t.shape)) for n, t in inputs(wanted, 2).items()}
    _run(recipe, model, result, shapes)


def _rewrite_all(folder: Path) -> None:
    failed = {}
    for tool in TOOLS[1:]:
        if (folder / f"{tool}.onnx").is_file():
            continue
        try:
            _rewrite(tool, folder / "raw.onnx", folder / f"{tool}.onnx")
        except Exception as error:  # noqa: BLE001  # that a tool fails is the result
            failed[tool] = _words(error)
    (folder / "failed.json").write_text(json.dumps(failed))


def _rewrite(tool: str, model: Path, result: Path) -> None:
    import onnx

    if tool == "trtforge":
        _run(RECIPE, model, result)
    elif tool == OPS:
        _run(RECIPE_OF_OPS, model.with_name("trtforge.onnx"), result)
        if not onnx.load(result, load_external_data=False).functions:
            result.unlink()
            raise LookupError("no custom op fits into it")
    elif tool == "onnxsim":
        import onnxsim

        onnx.save(onnxsim.simplify(str(model))[0], result)
    else:
        import onnxslim

        onnxslim.slim(str(model), str(result))


def _run(recipe: Path, model: Path, result: Path, shapes: Mapping[str, str] | None = None) -> None:
    import trtforge

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = trtforge.run(recipe, model, out=out, shapes=shapes, use_cache=False, compare=False)
        assert done.model is not None
        result.write_bytes(Path(done.model).read_bytes())


def main() -> None:
    """Prepare the model of the command line."""
    name, folder = sys.argv[1:]
    failed = prepare(name, Path(folder))
    made = Path(folder) / "made.json"
    if not made.is_file():  # else somewhere else, and only what was missing is added here
        tools = ("torch", "onnxscript", "onnxsim", "onnxslim", "trtforge")
        made.write_text(json.dumps({tool: version(tool) for tool in tools}))
    print(json.dumps(failed))


if __name__ == "__main__":
    main()
