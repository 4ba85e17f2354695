"""What a matrix file says: the models, recipes and targets, and the cells they make.

::

    models:
      digits: digits.onnx
      bert:
        model: bert/model.onnx
        shapes: {ids: 1x8:8x128:32x512}
        set: {load-data.path: bert.npz}
    recipes: [fp16, int8.yaml]
    targets: [sm_86, sm_89, [sm_80, sm_90]]     # a list makes one engine for several
    files: [bert.npz]
    leave_out: [{model: bert, recipe: int8.yaml}]

Models, recipes and files lie in the folder of the matrix file or below it: a cell may run on
another machine, which gets them under the same relative paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trtforge.errors import RecipeError, RequestError
from trtforge.store import digest, file_digest
from trtforge.targets import read_target
from trtforge.yaml_text import Document, read_yaml

_HELP = "docs/matrix.md says what a matrix holds"


@dataclass(frozen=True)
class MatrixModel:
    """A model, with what only its runs need."""

    model: str
    shapes: Mapping[str, str] = field(default_factory=dict)
    set: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Options of the recipe's steps: ``step.option`` to value."""


@dataclass(frozen=True)
class MatrixFile:
    """The content of a matrix file."""

    models: Mapping[str, MatrixModel | str]
    recipes: tuple[str, ...]
    targets: tuple[str | tuple[str, ...], ...]
    files: tuple[str, ...] = ()
    """Further files that runs read: calibration data, ranges."""
    leave_out: tuple[Mapping[str, str], ...] = ()
    """Cells not to run: each entry names a model, a recipe, a target, or several of these."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    name: str
    """``model.recipe.target``, fit for a folder."""
    model: str
    """Path of the model, relative to the matrix file."""
    recipe: str
    """Path of the recipe, relative to the matrix file, or the name of one that ships."""
    targets: tuple[str, ...]
    shapes: Mapping[str, str]
    settings: tuple[str, ...]
    files: tuple[str, ...]
    """Everything it reads, relative to the matrix file."""

    def as_data(self) -> dict[str, Any]:
        """Return the cell as JSON data."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Cell:
        """Return the cell that :meth:`as_data` wrote."""
        listed = {key: tuple(data[key]) for key in ("targets", "settings", "files")}
        return cls(**{**data, **listed})


def digests(cells: Iterable[Cell], folder: Path) -> dict[str, str]:
    """Return, by each cell's name, a hash of what it asks and of its files; equal: the same run.

    A file is read once, however many cells use it.
    """
    contents: dict[str, str] = {}
    found = {}
    for cell in cells:
        for name in cell.files:
            if name not in contents:
                contents[name] = file_digest(folder / name)
        asked = [cell.as_data(), [contents[name] for name in cell.files]]
        found[cell.name] = digest(json.dumps(asked, sort_keys=True).encode())
    return found


def read_matrix(path: Path) -> tuple[Cell, ...]:
    """Return the cells of the matrix file at ``path``.

    Raises:
        RecipeError: the file says something wrong; the message has line and column.
    """
    try:
        document = read_yaml(path)
    except RecipeError as error:
        if error.remedy == RecipeError.advice:  # it speaks of recipes
            error.remedy = _HELP
        raise
    content = _bind(document)
    _check_targets(document, content)
    cells = tuple(_cells(document, content, path.parent))
    if not cells:
        raise RecipeError("leaves no cell to run", where=document.where(()), remedy=_HELP)
    return cells


def _bind(document: Document) -> MatrixFile:
    from pydantic import TypeAdapter, ValidationError, with_config

    if not isinstance(document.data, dict):
        keys = ", ".join(each.name for each in fields(MatrixFile))
        raise RecipeError(
            f"a matrix is a mapping with the keys {keys}", where=document.where(()), remedy=_HELP
        )
    strict = with_config({"extra": "forbid"})
    try:
        return TypeAdapter(strict(MatrixFile)).validate_python(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(part for part in first["loc"] if not _is_branch(part))
        raise RecipeError(
            f"{'.'.join(map(str, place)) or 'the file'}: {first['msg']}",
            where=document.where(place),
            remedy=_HELP,
        ) from error


def _is_branch(part: str | int) -> bool:
    """Whether a part of an error's place names a member of a union and no key."""
    return isinstance(part, str) and part in (
        "MatrixModel",
        "str",
        "int",
        "float",
        "bool",
        "tuple[str, ...]",
    )


def _check_targets(document: Document, content: MatrixFile) -> None:
    for index, entry in enumerate(content.targets):
        for text in (entry,) if isinstance(entry, str) else entry:
            try:
                read_target(text)
            except RequestError as error:
                raise RecipeError(
                    error.what, where=document.where(("targets", index)), remedy=error.remedy
                ) from error


def _cells(document: Document, content: MatrixFile, folder: Path) -> Iterator[Cell]:
    used = [False] * len(content.leave_out)
    for name, given in content.models.items():
        model = MatrixModel(given) if isinstance(given, str) else given
        where = ("models", name)
        files = (
            *_model_files(document, folder, model.model, where),
            *_listed(document, content, folder),
        )
        for recipe in content.recipes:
            read = _recipe_files(document, folder, recipe)
            for entry in content.targets:
                targets = (entry,) if isinstance(entry, str) else entry
                title = {"model": name, "recipe": recipe, "target": "+".join(targets)}
                left = [_matches(each, title) for each in content.leave_out]
                used = [was or now for was, now in zip(used, left, strict=True)]
                if any(left):
                    continue
                parts = (name, Path(recipe).stem, title["target"])
                yield Cell(
                    name=".".join(map(_plain, parts)),
                    model=model.model,
                    recipe=recipe,
                    targets=targets,
                    shapes=dict(model.shapes),
                    settings=tuple(f"{key}={_text(value)}" for key, value in model.set.items()),
                    files=tuple(dict.fromkeys((*files, *read))),
                )
    for index, was in enumerate(used):
        if not was:
            raise RecipeError(
                "leave_out names no cell", where=document.where(("leave_out", index)), remedy=_HELP
            )


def _matches(wanted: Mapping[str, str], title: Mapping[str, str]) -> bool:
    return bool(wanted) and all(title.get(key) == value for key, value in wanted.items())


def _plain(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_+" else "_" for sign in text)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _model_files(
    document: Document, folder: Path, model: str, where: tuple[str, ...]
) -> Iterator[str]:
    """Yield the model's file and those of its weights, or all files of its folder."""
    from trtforge import model_file

    place = _inside(document, folder, model, where)
    if place.is_dir():
        found = sorted(each for each in place.rglob("*") if each.is_file())
    elif place.suffix == ".onnx":
        found = [place, *model_file.data_files(model_file.load(place))]
    else:
        found = [place]
    for each in found:
        yield each.resolve().relative_to(folder.resolve()).as_posix()


def _listed(document: Document, content: MatrixFile, folder: Path) -> Iterator[str]:
    for index, name in enumerate(content.files):
        _inside(document, folder, name, ("files", index))
        yield name


def _recipe_files(document: Document, folder: Path, recipe: str) -> tuple[str, ...]:
    """Return the recipe's file; none where it is the name of a recipe that ships."""
    if Path(recipe).suffix not in (".yaml", ".yml"):
        return ()
    index = document.data["recipes"].index(recipe)
    _inside(document, folder, recipe, ("recipes", index))
    return (recipe,)


def _inside(document: Document, folder: Path, name: str, where: tuple[str | int, ...]) -> Path:
    place = folder / name
    if not place.resolve().is_relative_to(folder.resolve()):
        raise RecipeError(
            f"{name} lies outside the folder of the matrix file",
            where=document.where(where),
            remedy="put models, recipes and data beside the matrix file, or below it",
        )
    if not place.exists():
        raise RecipeError(
            f"there is no {name}", where=document.where(where), remedy="check the path"
        )
    return place
