"""Writes a resolved recipe as a recipe again, so that the same run can be asked for later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trtforge.errors import RequestError
from trtforge.options import as_data, bind
from trtforge.recipe import Profile, Recipe
from trtforge.steps import Step

FILE = "recipe.json"
"""Its name in a run folder. JSON is YAML, so ``trtforge run`` takes it."""


def document(recipe: Recipe) -> dict[str, Any]:
    """Return ``recipe`` as the data of a recipe file; options that are the default are left out.

    The model is not named: a recipe may not reach into the folders of another machine.
    """
    require = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in vars(recipe.require).items()
        if value is not None
    }
    return {
        "description": recipe.description,
        "shapes": [_profile(profile) for profile in recipe.profiles],
        "targets": [target.name for target in recipe.targets],
        "require": require,
        "stages": [
            {
                "name": stage.name,
                "repeat": stage.repeat,
                "steps": [_step(step) for step in stage.steps],
            }
            for stage in recipe.stages
        ],
    }


def text(recipe: Recipe) -> str:
    """Return :func:`document` as the text of a file."""
    return json.dumps(document(recipe), indent=2) + "\n"


def only(data: Mapping[str, Any], steps: set[str]) -> dict[str, Any]:
    """Return a document with nothing but the steps of these names, in their stages."""
    stages = [
        {**stage, "steps": [each for each in stage["steps"] if set(each) & steps]}
        for stage in data.get("stages", ())
    ]
    return {**data, "stages": [stage for stage in stages if stage["steps"]]}


def _step(step: Step) -> dict[str, Any]:
    options = as_data(step)
    try:
        usual = as_data(bind(type(step), {}, step.name))
    except RequestError:  # it has options without a default
        usual = {}
    return {step.name: {key: value for key, value in options.items() if usual.get(key) != value}}


def _profile(profile: Profile) -> dict[str, dict[str, str]]:
    return {
        name: {"min": str(shapes.min), "opt": str(shapes.opt), "max": str(shapes.max)}
        for name, shapes in profile.items()
    }
