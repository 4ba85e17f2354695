"""Where quantizing steps put their nodes: ``tests/golden_quantized/<case>.txt``.

A file is: a sentence behind ``#``, ``# step: {...}`` (JSON: name and options), the model before as
ONNX text (weights without values are random), and behind ``=== after`` one line per node, then
``=== notes``. ``pytest tests/test_quantized_golden.py --update`` rewrites what is behind
``=== after``; read the difference.
"""

import json
from pathlib import Path

import models
import onnx
import onnx_ir as ir
import pytest
from trtforge_plugins.precision.insert_qdq import InsertQDQ
from trtforge_plugins.precision.placement import points_to_measure
from trtforge_plugins.precision.quantize_weights import QuantizeWeights

from trtforge import Context, Pass, Range, Ranges, Request

CASES = sorted((Path(__file__).parent / "golden_quantized").glob("*.txt"))
STEPS: dict[str, type[Pass]] = {step.name: step for step in (InsertQDQ, QuantizeWeights)}


def model_of(before: str) -> ir.Model:
    text = "\n".join(line for line in before.splitlines() if not line.startswith("#"))
    return ir.from_proto(onnx.shape_inference.infer_shapes(models.parse(text)))


def step_of(before: str) -> Pass:
    header = next(line for line in before.splitlines() if line.startswith("# step:"))
    options = json.loads(header.partition(":")[2])
    return STEPS[options.pop("name")](**options)


def render(before: str) -> str:
    ctx = Context(model_of(before), Path(), Request("m"))
    names = [str(point.tensor.name) for point in points_to_measure(ctx.model)]
    ctx.put(Ranges({name: Range(-1.0, 1.0) for name in names}, "fixed", 1, "test"))
    step_of(before).run(ctx)
    # A node of TensorRT's own has no schema, so types cannot be inferred past it.
    inferable = all(node.domain == "" for node in ctx.model.graph)
    onnx.checker.check_model(ir.to_proto(ctx.model), full_check=inferable)
    parts = [f"{before}=== after", *map(line, ctx.model.graph)]
    if ctx.notes:
        parts += ["=== notes", *(f"{note.node}: {note.text}" for note in ctx.notes)]
    return "\n".join(parts) + "\n"


def line(node: ir.Node) -> str:
    """The node as results = Operator <attributes> (inputs)."""
    attributes = ", ".join(f"{key}={node.attributes[key].value}" for key in node.attributes)
    results = ", ".join(str(value.name) for value in node.outputs)
    inputs = ", ".join(str(value.name) for value in node.inputs if value is not None)
    return f"{results} = {node.op_type}{f' <{attributes}>' if attributes else ''} ({inputs})"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_nodes_stand_where_the_golden_file_says(
    case: Path, request: pytest.FixtureRequest
) -> None:
    before = case.read_text().partition("=== after")[0]
    result = render(before)
    if request.config.getoption("--update"):
        case.write_text(result)
    assert result == case.read_text()


def test_every_step_and_type_has_a_case() -> None:
    steps = [step_of(case.read_text()) for case in CASES]
    assert {(step.name, step.dtype) for step in steps} == {
        ("insert-qdq", "int8"), ("insert-qdq", "float8e4m3fn"), ("insert-qdq", "float4e2m1"),
        ("quantize-weights", "int4"),
    }  # fmt: skip
