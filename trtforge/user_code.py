"""Functions of the user that a command line names: ``package.module:function``.

A recipe may not name them (``Step.by_user``), as it may come from a stranger.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trtforge.errors import DataError

_SHOWN = 300  # characters of the message of an exception that user code raised


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names; the current folder comes first.

    Raises:
        DataError: there is no such function, or its module cannot be imported.
    """
    module, attribute = _split(name)
    with _current_folder_first(), user_code("its module cannot be imported", name):
        found = getattr(importlib.import_module(module), attribute, None)
    if not callable(found):
        raise DataError(f"module {module} has no function {attribute}", where=name)
    function: Callable[..., Any] = found
    return function


def code_digest(name: str) -> str:
    """Return a hash of the file that holds the function; what that file imports is not part of it.

    Raises:
        DataError: there is no such module.
    """
    module, _ = _split(name)
    with _current_folder_first(), user_code("its module cannot be found", name):
        spec = find_spec(module)
    if spec is None:
        raise DataError(f"there is no module {module}", where=name)
    content = Path(spec.origin).read_bytes() if spec.has_location and spec.origin else b""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@contextmanager
def user_code(what: str, where: str) -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into a DataError.

    Args:
        what: Begins the message: ``the loader failed``.
        where: The function, maybe with how far it came.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the user's code may raise anything
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        cause = f"{what}: {type(error).__name__}: {text[:_SHOWN]}"
        raise DataError(cause, where=where) from error


def _split(name: str) -> tuple[str, str]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise DataError(
            f"{name!r} does not name a function", remedy="write package.module:function"
        )
    return module, attribute


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
