"""Reads YAML from people who may not mean well, and remembers where each value stands.

Aliases and anchors are refused (alias bombs, loops), as are duplicate keys, deep nesting and
files over 1 MiB. Nothing but mappings, lists, strings, numbers, booleans and null comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtforge.errors import RecipeError

MAX_BYTES = 2**20
MAX_DEPTH = 32
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and the line and column of each place in it."""

    source: str
    data: Any
    marks: dict[Location, tuple[int, int]]
    """Path to 1-based line and column: of the key in a mapping, of the item in a list."""

    def where(self, path: Location) -> str:
        """Return ``file:line:column`` of ``path``, or of the nearest place above it."""
        while path and path not in self.marks:
            path = path[:-1]
        line, column = self.marks.get(path, (1, 1))
        return f"{self.source}:{line}:{column}"


def read_yaml(path: Path) -> Document:
    """Read the file at ``path``.

    Raises:
        RecipeError: it cannot be read, is too large, or is no YAML of the allowed kind.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(
            "is over 1 MiB, too large for a recipe",
            where=str(path),
            remedy="a recipe is a short text; keep data in files of their own",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            "is not UTF-8 text", where=str(path), remedy="recipes are YAML text files"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """Parse ``text``; ``source`` names it in messages. Raises :class:`RecipeError`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        _refuse_dangers(YAML(typ="safe", pure=True), text, source)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, text, source) from error
    except YAMLError as error:
        raise RecipeError(f"is no YAML: {str(error).splitlines()[0]}", where=source) from error
    marks: dict[Location, tuple[int, int]] = {}
    data = None if node is None else _plain(node, (), marks, source)
    return Document(source, data, marks)


def _refuse_dangers(yaml: Any, text: str, source: str) -> None:
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in yaml.parse(text):
        where = f"{source}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise RecipeError(
                "YAML anchors and aliases (&, *) are not allowed in a recipe",
                where=where,
                remedy="write the value out; quote a text that starts with & or *",
            )
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecipeError(
                f"is nested more than {MAX_DEPTH} levels deep",
                where=where,
                remedy="a recipe needs six levels; close the brackets",
            )


def _syntax_error(error: Any, text: str, source: str) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
    problem = " ".join(str(error.problem or error.context or error).split())
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    remedy = ""
    if "\t" in line:
        remedy = "indent with spaces; YAML allows no tab there"
    return RecipeError(f"is no valid YAML: {problem}", where=where, remedy=remedy)


def _plain(node: Any, path: Location, marks: dict[Location, tuple[int, int]], source: str) -> Any:
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    here = (node.start_mark.line + 1, node.start_mark.column + 1)
    marks.setdefault(path, here)
    if isinstance(node, ScalarNode):
        return _scalar(node, f"{source}:{here[0]}:{here[1]}")
    if isinstance(node, SequenceNode):
        return [_plain(item, (*path, i), marks, source) for i, item in enumerate(node.value)]
    assert isinstance(node, MappingNode)  # noqa: S101  # YAML has no fourth kind of node
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        where = f"{source}:{at[0]}:{at[1]}"
        if not isinstance(key_node, ScalarNode):
            raise RecipeError("a key must be a plain word", where=where)
        key = key_node.value
        if key in mapping:
            first = marks[(*path, key)]
            raise RecipeError(
                f"the key {key!r} stands twice, first in line {first[0]}",
                where=where,
                remedy="keep one of the two",
            )
        marks[(*path, key)] = at
        mapping[key] = _plain(value_node, (*path, key), marks, source)
    return mapping


def _scalar(node: Any, where: str) -> str | int | float | bool | None:
    kind = node.tag.rpartition(":")[2]
    text: str = node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("true", "yes", "on")
    try:
        if kind == "int":
            return int(text.replace("_", ""), 0)
        if kind == "float":
            return float(
                text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
            )
    except ValueError:
        return text
    if kind in ("str", "timestamp", "value", "merge"):
        return text
    raise RecipeError(
        f"the YAML tag {node.tag!r} is not allowed in a recipe",
        where=where,
        remedy="leave the tag out",
    )
