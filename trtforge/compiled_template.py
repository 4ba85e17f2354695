"""Jinja templates, compiled once: Python keeps their code as it keeps that of modules."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType

    from jinja2 import Environment, Template


def compiled(environment: Environment, path: Path) -> Template:
    """Return the template in the file ``path``.

    The code that Jinja makes of it lies in ``__pycache__`` beside it, under the rules for modules:
    none is written where Python may not, and a changed file is compiled again.

    Args:
        environment: Its settings for compiling must be the same in each call for one file.
        path: A template of this package.
    """
    code = _TemplateLoader(environment, path).get_code(path.stem)
    assert code is not None  # noqa: S101  # a loader of source files always gives code
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


class _TemplateLoader(SourceFileLoader):
    def __init__(self, environment: Environment, path: Path) -> None:
        super().__init__(path.stem, str(path))
        self._environment = environment

    def source_to_code(  # type: ignore[override]  # the stubs have two signatures for it
        self, data: bytes, path: str, **_options: object
    ) -> CodeType:
        """Compile the template's text."""
        return self._environment.compile(bytes(data).decode("utf-8"), filename=path)

    def path_stats(self, path: Any) -> Mapping[str, Any]:
        """Return what kept code must agree with; another version of Jinja makes other code."""
        from jinja2 import __version__

        stats = dict(super().path_stats(path))
        stats["mtime"] = int(stats["mtime"]) ^ zlib.crc32(__version__.encode())
        return stats
