"""``trtforge list``, ``show`` and ``schema``: what is installed and what it takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.answers import open_host, say, say_json, say_table
from trtforge.cli.options import Json, Without
from trtforge.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from trtforge.host import Host

Kind = Annotated[
    str,
    typer.Argument(
        help="pass, surgeon, calibrator, backend, profiler, importer, step (all), op or recipe."
    ),
]


def list_(
    kind: Kind = "",
    *,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """List steps, custom ops and recipes by plugin."""
    from trtforge.host import kinds

    host = open_host(without)
    by_kind = kinds(host)
    rows = [_row(host, each, name) for each in _meant(kind, by_kind) for name in by_kind[each]]
    if as_json:
        say_json(rows)
        return
    for plugin in sorted({row["plugin"] for row in rows}):
        say(f"{plugin}:")
        _say_rows([row for row in rows if row["plugin"] == plugin])


def _meant(kind: str, known: Iterable[str]) -> list[str]:
    """Return the kinds that ``kind`` means: itself, singular or plural; all steps; everything."""
    kinds = list(known)
    steps = [each for each in kinds if each not in ("op", "recipe")]
    meanings = {**{each: [each] for each in kinds}, "step": steps}
    plurals = {f"{name}es" if name.endswith("s") else f"{name}s": name for name in meanings}
    name = plurals.get(kind, kind)
    if name and name not in meanings:
        hint = did_you_mean(name, meanings) or f"There are: {', '.join(meanings)}."
        raise RequestError(
            f"there is no kind {kind!r}. {hint}", remedy="`trtforge list` shows everything"
        )
    return meanings[name] if name else kinds


def _row(host: Host, kind: str, name: str) -> dict[str, str]:
    from trtforge.host import first_line

    if kind == "recipe":
        about, plugin = _about_recipe(host.recipes[name]), host.owner(f"recipe {name}")
    else:
        about = first_line(host.ops[name] if kind == "op" else host.steps[name])
        plugin = host.owner(name)
    return {"kind": kind, "name": name, "about": about, "plugin": plugin.name}


def _say_rows(rows: list[dict[str, str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("kind", "name", "about"):
        table.add_column(no_wrap=column != "about")
    for row in rows:
        table.add_row(f"  {row['kind']}", row["name"], row["about"])
    say_table(table)


def _about_recipe(path: Path) -> str:
    from trtforge.yaml_text import read_yaml

    data = read_yaml(path).data
    return str(data.get("description", "")).strip() if isinstance(data, dict) else ""


def show(
    name: Annotated[str, typer.Argument(help="A step, a custom op or a recipe.")],
    *,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Show a step, custom op or recipe with its options."""
    host = open_host(without)
    if name in host.recipes:
        facts = _recipe_facts(host, name)
    elif name in host.steps or name in host.ops:
        facts = _facts(host, name)
    else:
        hint = did_you_mean(name, [*host.steps, *host.ops, *host.recipes])
        raise RequestError(
            f"nothing is called {name!r}. {hint}".rstrip(), remedy="`trtforge list` shows all names"
        )
    if as_json:
        say_json(facts)
    elif "recipe" in facts:
        say(facts["recipe"].rstrip())
    else:
        _tell(facts)


def _recipe_facts(host: Host, name: str) -> dict[str, Any]:
    path = host.recipes[name]
    owner = str(host.owner(f"recipe {name}"))
    about = _about_recipe(path)
    return {"name": name, "plugin": owner, "about": about, "recipe": path.read_text("utf-8")}


def _facts(host: Host, name: str) -> dict[str, Any]:
    """Return what is known of a step or custom op."""
    from trtforge.options import json_schema

    cls = host.steps.get(name) or host.ops[name]
    facts = {"name": name, "plugin": str(host.owner(name)), "about": inspect.getdoc(cls) or ""}
    if name in host.ops:
        op = host.ops[name]
        lists = {"inputs": op.inputs, "outputs": op.outputs, "types": op.dtypes}
    else:
        step = host.steps[name]
        lists = {
            "needs": tuple(artifact.__name__ for artifact in step.needs),
            "gives": tuple(artifact.__name__ for artifact in step.gives),
        }
    return {**facts, **lists, "options": json_schema(cls).get("properties", {})}


def _tell(facts: dict[str, Any]) -> None:
    say(f"{facts['name']}  ({facts['plugin']})\n\n{facts['about']}\n")
    for key, value in facts.items():
        if isinstance(value, tuple):
            say(f"{key}: {', '.join(value) or 'nothing'}")
    say("options:" if facts["options"] else "options: none")
    for option, schema in facts["options"].items():
        default = f" = {json.dumps(schema['default'])}" if "default" in schema else " (required)"
        say(f"  {option}: {type_text(schema)}{default}")
        if schema.get("description"):
            say(f"      {' '.join(schema['description'].split())}")


def type_text(schema: dict[str, Any]) -> str:
    """Return a short text for a JSON Schema's type."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(type_text(part) for part in schema["anyOf"]))
    if schema.get("type") == "array":
        items = schema.get("items")
        return f"list of {type_text(items)}" if isinstance(items, dict) and items else "list"
    return str(schema.get("type", "any"))


def schema(
    *,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from trtforge.schema import recipe_schema

    say_json(recipe_schema(open_host(without)))
