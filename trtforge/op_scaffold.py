"""Writes the package of a new custom op, complete and passing its own tests, to be changed."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path

from trtforge.errors import RequestError
from trtforge.store import write_error

_NAME = re.compile(r"([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)::([A-Z][A-Za-z0-9]*)")


def write_package(
    name: str, folder: Path | None = None, *, pointwise: bool = False, taken: Collection[str] = ()
) -> Path:
    """Write a package with the op ``name``, its kernel, a test, and the entry point.

    Args:
        name: ``domain::OpType``.
        folder: The new folder; None: named like the project, in the current folder.
        pointwise: Whether the op needs no kernel of its own: a :class:`~.pointwise.PointwiseOp`.
        taken: Names of ops that are installed.

    Returns:
        The folder.

    Raises:
        RequestError: the name is wrong or taken, or the folder exists.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise RequestError(
            f"{name!r} is no name for a custom op",
            remedy="write domain::OpType, for example acme::Swish; the domain in small letters",
        )
    if name in taken:
        raise RequestError(f"there is a custom op {name} already", remedy="give another name")
    domain, op_type = found.groups()
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", op_type).lower()
    package = f"{domain.replace('.', '_')}_{module}"
    names = {
        "name": name, "op_type": op_type, "module": module, "package": package,
        "project": package.replace("_", "-"), "pointwise": pointwise,
    }  # fmt: skip
    place = folder or Path(str(names["project"]))
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RequestError(
            f"{place} exists and is not empty", remedy="give a new folder with --out"
        )
    sources = {
        "pyproject.toml": "pyproject.toml", "README.md": "README.md",
        "__init__.py": f"{package}/__init__.py", "test_op.py": f"tests/test_{module}.py",
        ("pointwise.py" if pointwise else "op.py"): f"{package}/{module}.py",
    }  # fmt: skip
    if not pointwise:
        sources["kernel.cu.jinja"] = f"{package}/{module}.cu.jinja"
    texts = {target: _rendered(source, names) for source, target in sources.items()}
    try:
        _write({**texts, f"{package}/py.typed": ""}, place)
    except OSError as error:
        raise write_error(error, place, "the package") from error
    return place


def _rendered(source: str, names: dict[str, object]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        block_start_string="[%", block_end_string="%]", variable_start_string="[[",
        variable_end_string="]]", comment_start_string="[#", comment_end_string="#]",
        undefined=StrictUndefined, keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # the result is Python and CUDA
    )  # fmt: skip
    text = (files("trtforge") / "templates" / "op" / f"{source}.jinja").read_text("utf-8")
    return environment.from_string(text).render(names)


def _write(texts: dict[str, str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        made = Path(place, "package")
        for name, text in texts.items():
            target = made / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        if folder.exists():
            folder.rmdir()  # it is empty
        shutil.move(made, folder)
