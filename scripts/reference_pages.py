"""Pages of the site that are written from the code: steps and options, recipes, Python names.

MkDocs calls ``on_files`` (``hooks`` in ``mkdocs.yml``); nothing is written beside the sources.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

import trtforge
from trtforge.cli.look import type_text
from trtforge.host import Host, first_line, kinds
from trtforge.options import json_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

SHIPPED = ("trtforge-plugins", "trtforge-ops")
"""The plugins that come with trtforge; others may be installed where the site is made."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    host = Host()
    pages = {"steps.md": steps(host), "shipped-recipes.md": recipes(host), "python.md": names()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def steps(host: Host) -> str:
    """Return the page of all steps, by kind."""
    parts = ["# Steps", "`trtforge show NAME` prints the same."]
    for kind, found in kinds(host).items():
        shipped = [name for name in found if kind != "recipe" and _shipped(host, name)]
        if not shipped:
            continue
        title = {"op": "Custom ops", "step": "Other steps"}.get(kind, f"{kind.capitalize()} steps")
        parts.append(f"## {title}")
        for name in shipped:
            parts += [f"### `{name}`", *_about(host, name)]
    return "\n\n".join(parts) + "\n"


def recipes(host: Host) -> str:
    """Return the page of the recipes that ship."""
    parts = ["# Recipes that ship"]
    for name, path in sorted(host.recipes.items()):
        if host.owner(f"recipe {name}").name in SHIPPED:
            parts += [f"## {name}", f"```yaml\n{path.read_text('utf-8').rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def names() -> str:
    """Return the page of the public Python names; mkdocstrings fills it."""
    parts = ["# Python", "Everything here is a name of `trtforge` itself: `import trtforge as tf`."]
    for name in sorted(trtforge.__all__, key=str.lower):
        home = inspect.getmodule(getattr(trtforge, name))
        if home is not None and home.__name__.startswith("trtforge."):
            parts.append(f"::: {home.__name__}.{name}")
    return "\n\n".join(parts) + "\n"


def _shipped(host: Host, name: str) -> bool:
    return host.owner(name).name in SHIPPED


def _about(host: Host, name: str) -> Iterator[str]:
    cls = host.steps.get(name) or host.ops[name]
    yield inspect.getdoc(cls) or first_line(cls)
    if name in host.steps:
        step = host.steps[name]
        lists: dict[str, Any] = {"needs": step.needs, "gives": step.gives}
        for word, artifacts in lists.items():
            if artifacts:
                yield f"{word.capitalize()}: {', '.join(each.__name__ for each in artifacts)}."
    options = json_schema(cls).get("properties", {})
    if options:
        yield "\n".join(_rows(options))


def _rows(options: dict[str, Any]) -> Iterator[str]:
    yield "| option | type | default | meaning |"
    yield "|---|---|---|---|"
    for option, schema in options.items():
        default = f"`{json.dumps(schema['default'])}`" if "default" in schema else "required"
        about = " ".join(schema.get("description", "").split())
        cells = (f"`{option}`", type_text(schema), default, about)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
