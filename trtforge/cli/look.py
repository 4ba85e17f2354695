"""``trtforge list``, ``show`` and ``schema``: what is installed and what it takes."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli.answers import Json, Without, open_host, say, say_json, say_table
from trtforge.errors import RequestError, did_you_mean


def list_(
    kind: Annotated[
        str, typer.Argument(help="pass, calibrator, backend, profiler, importer, step, op, recipe.")
    ] = "",
    *,
    as_json: Json = False,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """List steps, custom ops and recipes with their plugins."""
    from rich.table import Table

    from trtforge.host import first_line, kinds

    host = open_host(without)
    by_kind = kinds(host)
    wanted = kind.removesuffix("s") if kind not in ("", "pass") else kind
    wanted = "pass" if wanted == "passe" else wanted
    if wanted and wanted != "step" and wanted not in by_kind:
        hint = did_you_mean(wanted, by_kind) or f"There are: {', '.join(by_kind)}."
        raise RequestError(f"no kind {kind!r}. {hint}")
    rows = []
    for group, names in by_kind.items():
        for name in names:
            is_step = group not in ("op", "recipe")
            if wanted not in ("", group) and not (wanted == "step" and is_step):
                continue
            owned = f"recipe {name}" if group == "recipe" else name
            about = (
                _about_recipe(host.recipes[name])
                if group == "recipe"
                else first_line(host.ops[name] if group == "op" else host.steps[name])
            )
            rows.append(
                {"kind": group, "name": name, "about": about, "plugin": host.owner(owned).name}
            )
    if as_json:
        say_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "name", "about", "plugin"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*row.values())
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
    """Show what a step does, its options with defaults, and what it needs and gives."""
    from trtforge.options import json_schema

    host = open_host(without)
    if name in host.recipes:
        say(host.recipes[name].read_text().rstrip())
        return
    cls = host.ops.get(name) or host.steps.get(name)
    if cls is None:
        known = [*host.steps, *host.ops, *host.recipes]
        hint = did_you_mean(name, known)
        raise RequestError(
            f"nothing is called {name!r}. {hint}".rstrip(), remedy="`trtforge list` shows all names"
        )
    facts = {
        "name": name,
        "plugin": str(host.owner(name)),
        "about": inspect.getdoc(cls) or "",
        "needs": [artifact.__name__ for artifact in getattr(cls, "needs", ())],
        "gives": [artifact.__name__ for artifact in getattr(cls, "gives", ())],
        "options": json_schema(cls).get("properties", {}),
    }
    if as_json:
        say_json(facts)
        return
    say(f"{name}  ({facts['plugin']})\n\n{facts['about']}\n")
    say(f"needs: {', '.join(facts['needs']) or 'nothing'}")
    say(f"gives: {', '.join(facts['gives']) or 'nothing'}")
    say("options:" if facts["options"] else "options: none")
    for option, schema in json_schema(cls).get("properties", {}).items():
        default = f" = {json.dumps(schema['default'])}" if "default" in schema else " (required)"
        say(f"  {option}: {_type(schema)}{default}")
        if schema.get("description"):
            say(f"      {' '.join(schema['description'].split())}")


def _type(schema: dict[str, object]) -> str:
    """Return a short text for a JSON Schema's type."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))  # type: ignore[call-overload]  # a JSON list
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        kinds = [_type(part) for part in schema["anyOf"]]  # type: ignore[attr-defined]  # a list
        return " | ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        items = schema.get("items")
        return f"list of {_type(items)}" if isinstance(items, dict) and items else "list"
    return str(schema.get("type", "any"))


def schema(
    *,
    without: Without = [],  # noqa: B006  # typer copies it
) -> None:
    """Print the JSON Schema of recipes, with the options of all installed plugins."""
    from trtforge.schema import recipe_schema

    say_json(recipe_schema(open_host(without)))
