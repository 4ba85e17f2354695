"""``trtforge op``: what it says of custom ops, to people and to programs."""

import pytest
import trtforge_ops
from command import trtforge

from trtforge import CustomOp, host_kernels, op_testing
from trtforge.kernel_source import template_path
from trtforge.op_examples import examples_of
from trtforge.op_testing import shapes_of
from trtforge.ops import launches

DONE, REQUIREMENT_MISSED, BAD_REQUEST, ENVIRONMENT_LACKS = 0, 1, 2, 4


def test_list_names_every_op():
    rows = trtforge("op", "list", "--json").json
    assert {kind.name for kind in trtforge_ops.OPS} <= {row["name"] for row in rows}
    assert {row["kind"] for row in rows} == {"op"}


def test_show_says_all_of_an_op_by_its_short_name():
    facts = trtforge("op", "show", "RMSNorm", "--json").json
    assert facts["name"] == "trtforge::RMSNorm"
    assert facts["inputs"] == {"x": "T", "weight": "T"}
    assert facts["attributes"] == [{"name": "epsilon", "type": "float", "default": 1e-6}]
    text = trtforge("op", "show", "trtforge::Unique").out
    assert "counted:    values, first, counts" in text
    assert "values, first, inverse, counts = Unique (x)" in text


def test_check_holds_an_op_to_its_declaration():
    answer = trtforge("op", "check", "BiasGelu", "--target", "sm_86")
    assert answer.code == DONE, answer.err
    assert "trtforge::BiasGelu(approximate=tanh)" in answer.out
    assert "compiles       bfloat16 for sm_86" in answer.out
    assert "on the CPU     equals the reference" in answer.out
    assert "WRONG" not in answer.out


def test_check_tells_programs_what_was_done():
    answer = trtforge(
        "op", "check", "trtforge::RMSNorm", "--set", "epsilon=1e-3", "--shape", "x=2x3x4",
        "--shape", "weight=4", "--target", "sm_75", "--json",
    )  # fmt: skip
    assert answer.code == DONE, answer.err
    (checked,) = answer.json["checked"]
    assert checked["attributes"] == {"epsilon": 1e-3}
    assert checked["shapes"] == [[[2, 3, 4], [4]]]
    assert checked["evidence"]["compiled"] == ["float32 sm_75", "float16 sm_75"]
    assert checked["evidence"]["executed_with"] == host_kernels.host_compiler()


def test_an_op_that_is_not_what_it_declares_is_exit_code_1(monkeypatch):
    right = trtforge_ops.RMSNorm.reference
    monkeypatch.setattr(
        trtforge_ops.RMSNorm, "reference", lambda op, x, w: (right(op, x, w)[0] * x.dtype.type(2),)
    )
    answer = trtforge("op", "check", "RMSNorm", "--json")
    assert answer.code == REQUIREMENT_MISSED
    assert not answer.json["good"]
    assert "differs from the reference" in answer.json["checked"][0]["problem"]
    assert "WRONG" in trtforge("op", "check", "RMSNorm").out


def test_a_kernel_that_does_not_compile_is_shown_with_its_line(monkeypatch, tmp_path):
    broken = tmp_path / "rms_norm.cu.jinja"
    text = template_path(trtforge_ops.RMSNorm).read_text()
    broken.write_text(text.replace("float squares = 0;", "float squares = nothing;"))
    monkeypatch.setattr("trtforge.kernel_source.template_path", lambda _: broken)
    answer = trtforge("op", "check", "RMSNorm")
    assert answer.code == REQUIREMENT_MISSED
    assert 'identifier "nothing" is undefined' in answer.out


def test_it_is_said_loudly_that_no_kernel_ran(monkeypatch):
    monkeypatch.setattr(op_testing, "host_compiler", lambda: "")
    monkeypatch.setattr(op_testing, "gpu_name", lambda: "")
    answer = trtforge("op", "check", "RMSNorm", "--target", "sm_86")
    assert answer.code == DONE
    assert "NOT EXECUTED" in answer.out
    assert "NOT EXECUTED: no kernel ran" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RMSnorm"], "Did you mean 'RMSNorm'?"),
        (["RMSNorm", "--set", "epsilom=1"], "Did you mean 'epsilon'?"),
        (["RMSNorm", "--set", "epsilon=small"], "epsilon"),
        (["RMSNorm", "--set", "epsilon"], "gives no value"),
        (["RMSNorm", "--shape", "x=2x3"], "--shape is missing for weight"),
        (["RMSNorm", "--shape", "y=2x3"], "has no input 'y'"),
        (["RMSNorm", "--shape", "x=2y3", "--shape", "weight=3"], "2y3"),
        (["RMSNorm", "--target", "sm_1"], "unknown target"),
    ],
)
def test_wrong_requests(arguments, said):
    answer = trtforge("op", "check", *arguments)
    assert answer.code == BAD_REQUEST
    assert said in answer.err


def test_shapes_that_the_rule_does_not_take_are_no_traceback():
    answer = trtforge("op", "check", "MaskedSoftmax", "--shape", "x=2", "--shape", "mask=2")
    assert answer.code == REQUIREMENT_MISSED
    assert "ValueError" in answer.out


@pytest.mark.parametrize("kind", trtforge_ops.OPS, ids=lambda kind: kind.__name__)
def test_every_shipped_op_has_examples_to_check_and_to_time(kind):
    """That they hold is tested by `trtforge op check` and, on more shapes, test_shipped_ops.py."""
    for timed in (False, True):
        for example in examples_of(kind, timed=timed):
            shapes, op = shapes_of(example.inputs), example.op
            tactic = op.tactic(op.dtypes[0], shapes)
            assert all(each.grid > 0 for each in launches(op, shapes, op.shapes(*shapes), tactic))


def test_an_op_without_examples_asks_for_shapes(monkeypatch):
    monkeypatch.setattr(trtforge_ops.RMSNorm, "examples", CustomOp.examples)
    answer = trtforge("op", "check", "RMSNorm")
    assert answer.code == BAD_REQUEST
    assert "--shape x=4x64 --shape weight=4x64" in answer.err
