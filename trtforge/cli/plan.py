"""``trtforge run --dry-run``: what a run would do."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from trtforge.cli.answers import say, say_json, say_table

if TYPE_CHECKING:
    from rich.table import Table

    from trtforge.host import Host
    from trtforge.runner import PlannedStep
    from trtforge.session import RunOptions


def tell_plan(
    recipe: str, model: str | None, options: RunOptions, host: Host, *, as_json: bool
) -> None:
    """Check everything and show the plan; nothing is run."""
    from trtforge.api import plan
    from trtforge.options import as_data

    resolved, planned = plan(recipe, model, options=options, host=host)
    if not as_json:
        say_table(_plan_table(planned))
        say("Nothing was run.")
        return
    rows = [
        {
            "stage": item.stage,
            "step": item.step.name,
            "options": as_data(item.step),
            "needs": [kind.__name__ for kind in item.step.needs],
            "gives": [kind.__name__ for kind in item.step.gives],
            "cached": item.cached,
        }
        for item in planned
    ]
    targets = [target.name for target in resolved.targets]
    say_json({"recipe": resolved.name, "targets": targets, "plan": rows})


def _plan_table(planned: list[PlannedStep]) -> Table:
    """Return the plan: each step with those of its options that differ from the defaults."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("stage", "step", "options", "gives", "cached"):
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "step"))
    for item in planned:
        options = {field.name: getattr(item.step, field.name) for field in fields(item.step)}
        usual = {field.name: _default(field) for field in fields(item.step)}
        chosen = [f"{key}={value}" for key, value in options.items() if value != usual[key]]
        gives = ", ".join(kind.__name__ for kind in item.step.gives)
        cached = "yes" if item.cached else "no"
        table.add_row(item.stage, item.step.name, ", ".join(chosen), gives, cached)
    return table


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
