"""What the pages of a run and of a diff share: style, the one script, and how facts are written.

Everything that comes from a model is untrusted text: the templates escape all of it, and a page's
own policy runs no script but the one of this package, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from trtforge.compiled_template import compiled
from trtforge.pictures import type_class
from trtforge.quantities import format_bytes, percent
from trtforge.report_facts import UNKNOWN, digits, headline

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")


def render_page(
    template: str, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] = {}
) -> str:
    """Return a page; it loads nothing and sends nothing.

    Args:
        template: A file of ``templates/``.
        facts: What the template shows, by name.
        filters: Further ways to write facts.
    """
    from markupsafe import Markup

    style, script = (
        (_TEMPLATES / f"report.{ending}").read_text(encoding="utf-8") for ending in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = _environment()
    environment.filters.update(filters)
    return compiled(environment, _TEMPLATES / template).render(
        **facts,
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=f"sha256-{digest}",
    )


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        decibels=lambda value: f"{digits(value, 4)} dB",
        digits=digits,
        file_name=lambda source: PurePath(source).name or source,
        grouped=lambda value: f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        headline=headline,
        milliseconds=milliseconds,
        percent=percent,
        seconds=lambda value: f"{value:.1f} s" if value >= 10 else f"{value:.2f} s",
        sentence=lambda text: f"{text[:1].upper()}{text[1:]}.",
        size=lambda value: UNKNOWN if value is None else format_bytes(value),
        type_class=type_class,
    )
    return environment


def milliseconds(value: float) -> str:
    """Write a time in the unit that needs no exponent."""
    if 0 < value < 1e-3:
        return f"{value * 1e6:.3g} ns"
    if 0 < value < 1:
        return f"{value * 1e3:.3g} µs"
    return f"{value:.4g} ms" if value < 1e3 else f"{value / 1e3:.4g} s"
