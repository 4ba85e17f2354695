"""What TensorRT says is told by rules; each text seen so far leads to exactly one of them."""

import re
from pathlib import Path

import pytest
from trtforge_plugins.tensorrt.examination import CODES
from trtforge_plugins.tensorrt.failure_rules import rules
from trtforge_plugins.tensorrt.known_failures import UNKNOWN, causes, failure
from trtforge_plugins.tensorrt.lints import LINTS

from trtforge import BuildError, EnvironmentLacks
from trtforge.errors import TrtforgeError, all_classes

ROOT = Path(__file__).parent.parent
EXAMPLES = [(rule, example) for rule in rules() for example in rule.examples]


@pytest.mark.parametrize(
    ("rule", "example"), EXAMPLES, ids=[f"{r.code}-{i}" for i, (r, _) in enumerate(EXAMPLES)]
)
def test_each_text_is_explained_by_its_rule_and_by_no_other(rule, example):
    assert [cause.rule.code for cause in causes([example.text])] == [rule.code]


def test_at_least_sixty_texts_come_from_public_pages():
    sources = [(example.text, example.source) for _, example in EXAMPLES if example.source]
    assert len(set(sources)) >= 60
    assert all(re.match(r"https://github\.com/[\w.-]+/[\w.-]+/", page) for _, page in sources)


def test_codes_are_unique_and_each_rule_is_complete():
    codes = [rule.code for rule in rules()] + [lint.code for lint in LINTS] + [*CODES]
    assert len(codes) == len(set(codes))
    for rule in rules():
        assert re.fullmatch(r"[a-z0-9-]+", rule.code)
        assert rule.remedies
        assert rule.examples
        assert rule.cause.format(op="Conv")
    assert all(lint.remedies for lint in LINTS)
    assert all(todo for _, _, todo in CODES.values())


def test_kinds_of_causes_are_told_apart():
    families = {rule.family for rule in rules()}
    wanted = {"memory", "tactic", "type", "shape-tensor", "myelin", "target", "driver"}
    assert wanted <= families


NODE = (
    "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[a]}.)"
)
OUT_OF_MEMORY = "Skipping tactic 0 due to insufficient memory on requested size of 29147520"
COMPILER = "MyelinCheckException: bb.cpp:138: CHECK(op->parent() == this) failed."


@pytest.mark.parametrize(
    ("errors", "warnings", "code"),
    [
        ([NODE], [], "no-implementation"),
        ([NODE], [OUT_OF_MEMORY], "gpu-out-of-memory"),
        ([OUT_OF_MEMORY, NODE], [], "gpu-out-of-memory"),
        ([COMPILER, NODE], [], "compiler-limit"),
        (["Some tactics do not have sufficient workspace memory", NODE], [], "workspace-too-small"),
    ],
)
def test_the_same_words_with_another_cause_are_told_apart(errors, warnings, code):
    """`Could not find any implementation` alone says nothing: what else was said decides."""
    error = failure("TensorRT failed to build the engine", errors, warnings)
    assert error.code == code
    assert all(text in error.what for text in errors)


def test_what_a_machine_without_a_gpu_adds_to_every_error_is_no_cause():
    noise = (
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
        "checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient))"
    )
    text = f"Invalid Node - n\nn: ElementWiseOperation SUM must have same input types.\n{noise}"
    assert [cause.rule.code for cause in causes([text])] == ["mixed-types"]
    assert [cause.rule.code for cause in causes([noise])] == ["no-gpu"]


def test_a_lack_of_the_machine_is_another_kind_of_error():
    assert isinstance(
        failure("no", ["CUDA initialization failure with error 35"]), EnvironmentLacks
    )
    unknown = failure("no", ["something new"])
    assert (type(unknown), unknown.code) == (BuildError, UNKNOWN)
    assert "trtforge bisect" in unknown.remedy


@pytest.mark.parametrize("cls", all_classes(), ids=lambda cls: cls.__name__)
def test_every_kind_of_error_has_a_code_and_a_remedy(cls):
    error = TrtforgeError.__new__(cls)
    TrtforgeError.__init__(error, "it went wrong")
    assert re.fullmatch(r"[a-z-]+", error.code)
    assert error.remedy
    assert "To do: " in str(error)


def test_every_code_has_a_section_in_the_documentation():
    page = (ROOT / "docs" / "findings.md").read_text()
    sections = re.findall(r"^### `([a-z0-9-]+)`$", page, re.MULTILINE)
    codes = [rule.code for rule in rules()] + [lint.code for lint in LINTS] + [*CODES]
    codes += [cls.code for cls in all_classes()]
    assert sorted(sections) == sorted(codes)
