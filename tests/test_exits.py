"""No command fails without a code and a remedy: all ways out of the program, one after the other.

A command ends by an error of ours, which always has both; by :func:`trtforge.cli.answers.end`,
which takes one; by what typer says of its arguments, by Ctrl-C, or by an exception that nobody
thought of. The sources are searched for any other way, and every command is made to fail.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trtforge_plugins
import typer
from command import Answer, trtforge

import trtforge as package
from trtforge.cli.app import app
from trtforge.errors import ExitCode, TrtforgeError, all_classes

SOURCES = [Path(package.__file__).parent, Path(trtforge_plugins.__file__).parent]
TREES = {path: ast.parse(path.read_text()) for top in SOURCES for path in top.rglob("*.py")}
DOCUMENTED = set(
    re.findall(
        r"^### `([a-z0-9-]+)`$",
        (Path(__file__).parent.parent / "docs" / "findings.md").read_text(),
        re.MULTILINE,
    )
)


# --- the sources -------------------------------------------------------------------------------


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call | ast.Raise]:
    """Yield what ends the program by ``name``: a call of it, or its bare raise."""
    for node in ast.walk(tree):
        goal = (
            node.func
            if isinstance(node, ast.Call)
            else node.exc
            if isinstance(node, ast.Raise)
            else None
        )
        if goal is not None and ast.unparse(goal) == name:
            yield node


def users(name: str) -> set[str]:
    """Return the files that end the program by ``name``, and how often."""
    found = {path: len(list(calls(tree, name))) for path, tree in TREES.items()}
    return {f"{path.parent.name}/{path.name} {count}" for path, count in found.items() if count}


def test_a_command_ends_in_one_place_only():
    assert users("typer.Exit") == {
        "cli/answers.py 2",  # end(): with 0, and with the exit code of the error that it tells
        "cli/app.py 1",  # --version, with 0
    }
    assert users("sys.exit") == {
        "cli/__init__.py 1",  # main()
    }
    assert users("os._exit") == {"trtforge/worker_process.py 1"}  # a worker whose parent is gone
    for name in ("exit", "quit", "SystemExit", "typer.Abort", "typer.BadParameter"):
        assert users(name) == set()


def every_error() -> Iterator[type[TrtforgeError]]:
    for top in (package, trtforge_plugins):
        for module in pkgutil.walk_packages(top.__path__, f"{top.__name__}."):
            if "templates" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: list[type[TrtforgeError]] = [TrtforgeError]
    for cls in found:
        found += cls.__subclasses__()
    return iter(dict.fromkeys(found))


def test_every_error_has_a_documented_code_a_remedy_and_an_exit_code():
    for cls in every_error():
        assert cls.advice, cls
        assert cls.code in DOCUMENTED, cls
        assert cls.exit_code in set(ExitCode) - {ExitCode.DONE}, cls
        own = vars(cls).get("__init__")
        if own is not None and cls is not TrtforgeError:
            assert "super().__init__(" in inspect.getsource(own), f"{cls} leaves something out"


def test_nothing_takes_the_code_or_the_remedy_away_again():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            goals = node.targets if isinstance(node, ast.Assign) else []
            for goal in goals:
                if isinstance(goal, ast.Attribute) and goal.attr in ("code", "remedy"):
                    assert not (isinstance(node.value, ast.Constant) and not node.value.value), (
                        f"{path}:{node.lineno}"
                    )


def test_codes_that_are_given_where_an_error_is_raised_are_documented():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("Error"):
                continue
            for word in node.keywords:
                if word.arg == "code" and isinstance(word.value, ast.Constant):
                    assert word.value.value in DOCUMENTED, f"{path}:{node.lineno}"


# --- the commands ------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each command with the names of the arguments and options that it must have."""

    def walk(command, path):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(path), [each.name for each in command.params if each.required]
        for name, each in (inner or {}).items():
            yield from walk(each, [*path, name])

    return walk(typer.main.get_command(app), [])


ALL = dict(commands())
HARMLESS = {"doctor", "list", "schema", "op list", "demo"}
"""Commands that need nothing and take nothing: there is nothing to get wrong but an option."""


def failed(answer: Answer, code: ExitCode) -> None:
    assert answer.code == code, answer
    assert "Traceback" not in answer.err
    assert re.search(r"^  To do: \S", answer.err, re.MULTILINE), answer.err
    word = re.search(r"^  Code: ([a-z0-9-]+) \(docs/findings.md\)$", answer.err, re.MULTILINE)
    assert word, answer.err
    assert word[1] in DOCUMENTED


def test_all_commands_are_known_here():
    assert len(ALL) >= 25
    assert set(ALL) > HARMLESS


@pytest.mark.parametrize("command", ALL)
def test_an_option_that_does_not_exist(command):
    failed(trtforge(*command.split(), "--no-such-option"), ExitCode.BAD_REQUEST)


@pytest.mark.parametrize("command", [name for name, required in ALL.items() if required])
def test_an_argument_that_is_missing(command):
    failed(trtforge(*command.split()), ExitCode.BAD_REQUEST)


@pytest.mark.parametrize("command", ["", "bundle", "export", "op", "chek", "op chek"])
def test_a_command_that_is_missing_or_unknown(command):
    failed(trtforge(*command.split()), ExitCode.BAD_REQUEST)


def with_nowhere(command: str) -> list[str]:
    """Return the command with every argument that it must have naming something that is not."""
    known = {"out": ["--out", "nowhere/out"], "against": ["--against", "nowhere"]}
    known |= {"model": ["--model", "nowhere.onnx"]} if command == "qualify" else {}
    line = command.split()
    for name in ALL[command]:
        line += known.get(name, ["nowhere"])
    return line


@pytest.mark.parametrize("command", sorted(set(ALL) - HARMLESS - {"op new"}))
def test_what_is_named_does_not_exist(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = with_nowhere(command)
    answer = trtforge(*line)
    failed(answer, ExitCode(answer.code))
    assert answer.code in (ExitCode.BAD_REQUEST, ExitCode.ENVIRONMENT_LACKS)
    assert list(tmp_path.iterdir()) == []
    if "--json" in trtforge(*command.split(), "--help").out:
        told = json.loads(trtforge(*line, "--json").out)
        assert told["exit_code"] == answer.code
        assert told["error"]["code"] in DOCUMENTED
        assert told["error"]["remedy"]


def test_an_exception_that_nobody_thought_of(monkeypatch):
    def broken(without):
        raise ZeroDivisionError("0")

    monkeypatch.setattr("trtforge.cli.look.open_host", broken)
    answer = trtforge("list", "--json")
    assert answer.json["error"]["code"] == "defect"
    assert "Traceback" in answer.err
    failed(Answer(answer.code, "", answer.err.replace("Traceback", "")), ExitCode.STEP_FAILED)


def test_ctrl_c(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trtforge.cli.app.app", interrupted)
    failed(trtforge("list"), ExitCode.STOPPED)


@pytest.mark.parametrize("cls", all_classes(), ids=lambda cls: cls.__name__)
def test_an_error_from_anywhere(cls, monkeypatch):
    def broken(without):
        raise cls("it went wrong")

    monkeypatch.setattr("trtforge.cli.look.open_host", broken)
    failed(trtforge("list"), cls.exit_code)
