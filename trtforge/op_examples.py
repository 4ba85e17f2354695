"""What a command on a custom op works with: the op by its name, its attributes, its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING

from trtforge.errors import EnvironmentLacks, RequestError, TrtforgeError, did_you_mean
from trtforge.op_attributes import type_name
from trtforge.op_testing import TARGETS as CHECKED_TARGETS
from trtforge.op_testing import OpEvidence, check_op, shapes_of
from trtforge.ops import Example
from trtforge.options import bind
from trtforge.quantities import Dims

if TYPE_CHECKING:
    from trtforge.ops import CustomOp, Shape
    from trtforge.targets import Target


@dataclass(frozen=True)
class Checked:
    """What became of an op with one set of attributes."""

    op: CustomOp
    shapes: tuple[tuple[Shape, ...], ...]
    """For each example the shapes of its inputs."""
    evidence: OpEvidence | None = None
    problem: str = ""
    """Why it is not what it declares; empty: it is."""


def find_op(ops: Mapping[str, type[CustomOp]], name: str) -> type[CustomOp]:
    """Return the op called ``name``: ``trtforge::RMSNorm``, or ``RMSNorm`` if only one is.

    Raises:
        RequestError: none is, or several are.
    """
    found = [full for full in ops if name in (full, full.partition("::")[2])]
    if len(found) == 1:
        return ops[found[0]]
    if found:
        raise RequestError(
            f"several custom ops are called {name!r}", remedy=f"use one of {', '.join(found)}"
        )
    short = {full.partition("::")[2]: full for full in ops}
    hint = did_you_mean(name, [*ops, *short])
    raise RequestError(
        f"there is no custom op {name!r}. {hint}".rstrip(),
        remedy="`trtforge op list` shows all of them",
    )


def read_op(kind: type[CustomOp], settings: Sequence[str]) -> CustomOp:
    """Return an op with attributes given as ``epsilon=1e-5``.

    Raises:
        RequestError: an attribute is unknown, missing or wrong.
    """
    given: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--set {text} gives no value", remedy="write ATTRIBUTE=VALUE")
        given[name.strip()] = value.strip()
    return bind(kind, given, f"custom op {kind.name}")


def read_shapes(kind: type[CustomOp], shapes: Sequence[str]) -> tuple[Shape, ...]:
    """Return the shapes of the inputs, given as ``x=4x64`` or ``scale=`` (no dimensions).

    Raises:
        RequestError: an input is unknown or missing, or a shape is wrong.
    """
    names = [port.name for port in kind.input_ports()]
    given: dict[str, Shape] = {}
    for text in shapes:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in names:
            hint = did_you_mean(name, names) or f"It has: {', '.join(names)}."
            raise RequestError(f"custom op {kind.name} has no input {name!r}. {hint}")
        given[name] = tuple(Dims(value)) if value else ()
    missing = [name for name in names if name not in given]
    if missing:
        raise RequestError(
            f"custom op {kind.name}: --shape is missing for {', '.join(missing)}",
            remedy=f"give a shape for each input: {' '.join(f'--shape {n}=4x64' for n in names)}",
        )
    return tuple(given[name] for name in names)


def examples_of(
    kind: type[CustomOp],
    settings: Sequence[str] = (),
    shapes: Sequence[str] = (),
    *,
    timed: bool = False,
) -> list[Example]:
    """Return what is asked for, or the op's own examples where nothing is.

    Args:
        kind: The op.
        settings: Attributes as ``name=value``.
        shapes: Shapes as ``input=4x64``.
        timed: Whether examples of a size worth timing are wanted, or the others.

    Raises:
        RequestError: what is asked for is wrong, or the op has no such examples.
    """
    if shapes:
        return [Example(read_op(kind, settings), read_shapes(kind, shapes))]
    own = [example for example in kind.examples() if example.timed == timed]
    if settings:
        op = read_op(kind, settings)
        own = [replace(example, op=op) for example in own]
    if not own:
        sort = "examples worth timing" if timed else "examples"
        names = " ".join(f"--shape {port.name}=4x64" for port in kind.input_ports())
        raise RequestError(
            f"custom op {kind.name} declares no {sort} of its inputs",
            remedy=f"give shapes ({names}), or write {kind.__name__}.examples()",
        )
    return own


def check_examples(
    examples: Sequence[Example], targets: Sequence[Target] = CHECKED_TARGETS
) -> Iterator[Checked]:
    """Hold ops to their declarations, one set of attributes after the other.

    Raises:
        EnvironmentLacks: CuPy, NVRTC or CUDA's headers are not here.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(repr(fields_of(example.op)), []).append(example)
    for group in groups.values():
        op, shapes = group[0].op, tuple(shapes_of(each.inputs) for each in group)
        try:
            cases, atol = [each.inputs for each in group], max(each.atol for each in group)
            evidence = check_op(op, cases, targets=targets, atol=atol)
        except EnvironmentLacks:
            raise
        except Exception as error:  # noqa: BLE001  # the rules of an op may raise anything
            told = isinstance(error, AssertionError | TrtforgeError)
            name = "" if told else f"{type(error).__name__}: "
            yield Checked(op, shapes, problem=f"{name}{error}")
        else:
            yield Checked(op, shapes, evidence)


def fields_of(op: CustomOp) -> list[tuple[str, object]]:
    """Return the attributes of ``op`` with their values."""
    return [(field.name, getattr(op, field.name)) for field in fields(op)]


def attribute_rows(kind: type[CustomOp]) -> list[dict[str, object]]:
    """Return name, type and default of each attribute of an op."""
    return [
        {
            "name": field.name, "type": type_name(field),
            "default": None if field.default is MISSING else field.default,
        }
        for field in fields(kind)
    ]  # fmt: skip
