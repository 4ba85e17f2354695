"""``trtforge op``: list, show and check; ``op_bench`` times, ``op_source`` writes files."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from trtforge.cli import op_bench, op_source
from trtforge.cli.answers import end, not_met, open_host, say, say_json
from trtforge.cli.op_source import InputShapes, Name, Settings
from trtforge.cli.options import Json, Targets, Without

if TYPE_CHECKING:
    from trtforge.op_examples import Checked

app = typer.Typer(help="Custom ops: look at, check, time and export them.", no_args_is_help=True)


@app.command("list")
def list_(*, as_json: Json = False, without: Without = []) -> None:  # noqa: B006  # typer copies it
    """List the custom ops of all plugins."""
    from trtforge.cli import look

    look.list_("op", as_json=as_json, without=without)


@app.command()
def show(name: Name, *, as_json: Json = False, without: Without = []) -> None:  # noqa: B006  # typer copies it
    """Show inputs, types, attributes, tactics and function of an op."""
    import inspect
    import textwrap

    from trtforge.kernel_source import template_path
    from trtforge.op_examples import attribute_rows, find_op

    host = open_host(without)
    kind = find_op(host.ops, name)
    facts = {
        "name": kind.name, "plugin": str(host.owner(kind.name)),
        "about": inspect.getdoc(kind) or "",
        "inputs": _ports(kind.input_ports()), "outputs": _ports(kind.output_ports()),
        "T": list(kind.dtypes), "counted": list(kind.counted),
        "tactics": {key: list(values) for key, values in kind.tactics.items()},
        "attributes": attribute_rows(kind), "kernel": str(template_path(kind)),
        "since_opset": kind.since, "function": textwrap.dedent(kind.function).strip(),
    }  # fmt: skip
    if as_json:
        say_json(facts)
    else:
        _tell_op(facts)


def _ports(ports: Any) -> dict[str, str]:
    return {port.name: port.dtype for port in ports}


def _tell_op(facts: dict[str, Any]) -> None:
    say(f"{facts['name']}  ({facts['plugin']})\n\n{facts['about']}\n")
    for title in ("inputs", "outputs"):
        say(f"{title + ':':<12}{', '.join(f'{n}: {t}' for n, t in facts[title].items())}")
    say(f"{'T:':<12}{', '.join(facts['T'])}")
    if facts["counted"]:
        say(f"{'counted:':<12}{', '.join(facts['counted'])} (their length depends on the data)")
    for each in facts["attributes"]:
        default = "required" if each["default"] is None else repr(each["default"])
        say(f"{'attribute:':<12}{each['name']}: {each['type']} = {default}")
    for key, values in facts["tactics"].items():
        say(f"{'tactic:':<12}{key}: {', '.join(map(str, values))}")
    say(f"{'kernel:':<12}{facts['kernel']}")
    since = f", from opset {facts['since_opset']} on" if facts["since_opset"] > 1 else ""
    say(f"\nONNX function{since}:\n")
    for line in facts["function"].splitlines():
        say(f"    {line}".rstrip())


@app.command()
def check(
    name: Name,
    *,
    settings: Settings = [],  # noqa: B006  # typer copies it
    shapes: InputShapes = [],  # noqa: B006  # typer copies it
    targets: Targets = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Say whether an op is what it declares.

    Holds shapes, ONNX function and kernel to the reference. The kernel is executed on the CPU where
    a C++ compiler is, and on the GPU where one is. The exit code is 1 if the op is not what it
    declares.
    """
    from trtforge.op_examples import check_examples, examples_of, find_op
    from trtforge.op_testing import TARGETS
    from trtforge.targets import read_target

    kind = find_op(open_host(without).ops, name)
    examples = examples_of(kind, settings, shapes)
    asked = tuple(map(read_target, targets)) or TARGETS
    results = []
    for result in check_examples(examples, asked):
        results.append(result)
        if not as_json:
            _tell_check(result)
    if as_json:
        say_json({"op": kind.name, "good": _good(results), "checked": list(map(_data, results))})
    _warn(results)
    wrong = [f"{result.op.name}: {result.problem}" for result in results if result.problem]
    end(not_met(wrong, "correct the op where it differs from what it declares; docs/custom-ops.md"))


def _good(results: list[Checked]) -> bool:
    return not any(result.problem for result in results)


def _data(result: Checked) -> dict[str, Any]:
    from trtforge.op_examples import fields_of

    evidence = asdict(result.evidence) if result.evidence else None
    return {
        "attributes": dict(fields_of(result.op)), "shapes": result.shapes,
        "problem": result.problem, "evidence": evidence,
    }  # fmt: skip


def _tell_check(result: Checked) -> None:
    from trtforge.op_examples import fields_of

    named = ", ".join(f"{key}={value}" for key, value in fields_of(result.op))
    say(f"{result.op.name}({named})")
    say(f"  {'tried with':<15}{'; '.join(' '.join(map(_shape, case)) for case in result.shapes)}")
    if result.evidence is None:
        say(f"  {'WRONG':<15}{result.problem}")
        return
    found = result.evidence
    say(f"  {'ONNX function':<15}equals the reference in opsets {_join(found.opsets)}")
    for dtype in dict.fromkeys(text.split()[0] for text in found.compiled):
        on = [text.split()[1] for text in found.compiled if text.split()[0] == dtype]
        say(f"  {'compiles':<15}{dtype} for {_join(on)}")
    say(f"  {'on the CPU':<15}{_where(found.executed_with, 'NOT EXECUTED')}")
    say(f"  {'on a GPU':<15}{_where(found.kernel_ran_on, 'not run')}")
    if found.kernel_ran_on:
        said = f"{_join(found.sanitized)}: nothing found" if found.sanitized else "not run"
        say(f"  {'sanitizer':<15}{said}")


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _join(values: Any) -> str:
    return ", ".join(map(str, values))


def _where(place: str, lacking: str) -> str:
    return f"equals the reference ({place})" if place else lacking


def _warn(results: list[Checked]) -> None:
    """Say loudly what a good result does not say."""
    for found in (result.evidence for result in results):
        if found and not found.executed_with and not found.kernel_ran_on:
            sys.stderr.write(
                "trtforge: NOT EXECUTED: no kernel ran, so nothing is known of what it computes\n"
                "  To do: install g++ or clang++, or name one in CXX; or use a machine with a GPU\n"
            )
            return


app.command()(op_bench.bench)
app.command()(op_source.new)
app.command()(op_source.export)
