"""The JSON Schema of recipes, with the options of every installed step.

Editors that speak JSON Schema (``# yaml-language-server: $schema=…``) complete and check recipes
with it.
"""

from __future__ import annotations

import inspect
from typing import Any

from trtforge.context import Requirements
from trtforge.host import Host, first_line
from trtforge.options import json_schema
from trtforge.quantities import Dims
from trtforge.steps import Step
from trtforge.targets import KNOWN

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema(host: Host) -> dict[str, Any]:
    """Return the schema of a recipe for the plugins that ``host`` has."""
    definitions: dict[str, Any] = {"shape": _shape(), "profile": _profile()}
    steps = {name: _step(cls, definitions) for name, cls in sorted(host.steps.items())}
    definitions["require"] = _lift(json_schema(Requirements), definitions)
    definitions["step"] = {
        "anyOf": [
            {"enum": sorted(name for name, cls in host.steps.items() if _all_optional(cls))},
            {
                "type": "object",
                "properties": steps,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    definitions["stage"] = {
        "type": "object",
        "required": ["name", "steps"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "repeat": {"type": "integer", "minimum": 1, "maximum": 100},
            "steps": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
        },
    }
    return {
        "$schema": DIALECT,
        "title": "trtforge recipe",
        "type": "object",
        "required": ["stages"],
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string"},
            "model": {
                "type": "string",
                "description": "A model file or folder, from the recipe's folder on.",
            },
            "shapes": {
                "anyOf": [
                    {"$ref": "#/$defs/profile"},
                    {"type": "array", "items": {"$ref": "#/$defs/profile"}},
                ]
            },
            "targets": {"type": "array", "items": {"examples": list(KNOWN)}},
            "require": {"$ref": "#/$defs/require"},
            "stages": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/stage"}},
        },
        "$defs": definitions,
    }


def _step(cls: type[Step], definitions: dict[str, Any]) -> dict[str, Any]:
    options = _lift(json_schema(cls), definitions)
    options["description"] = inspect.getdoc(cls) or first_line(cls)
    options.pop("title", None)
    return options if options.get("required") else {"anyOf": [options, {"type": "null"}]}


def _all_optional(cls: type[Step]) -> bool:
    return not json_schema(cls).get("required")


def _lift(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Move a schema's own definitions to the top, where its references point."""
    definitions.update(schema.pop("$defs", {}))
    return schema


def _shape() -> dict[str, Any]:
    return json_schema(Dims)


def _profile() -> dict[str, Any]:
    shape = {"$ref": "#/$defs/shape"}
    spread = {
        "type": "object",
        "required": ["min", "opt", "max"],
        "additionalProperties": False,
        "properties": {"min": shape, "opt": shape, "max": shape},
    }
    return {"type": "object", "additionalProperties": {"anyOf": [shape, spread]}}
