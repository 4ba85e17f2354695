"""The files that outlive a build: the engine, and the timings of TensorRT's kernels."""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

from trtforge import Context, RequestError
from trtforge_plugins.tensorrt.library import Library


def engine_name(wish: str, source: str) -> str:
    """Return the name of the engine file: ``wish``, or the name of the model's ``source``.

    Raises:
        RequestError: ``wish`` is no plain name.
    """
    if wish:
        if not re.fullmatch(r"\w[\w.+-]*", wish):
            raise RequestError(f"the option file is {wish!r}; it must be a plain name")
        return wish
    stem = re.sub(r"[^\w.-]+", "-", Path(source).stem).strip("-.")
    return f"{stem or 'model'}.engine"


def timing_cache(file: Path | None, library: Library, ctx: Context) -> str | None:
    """Return where kernel timings are kept from build to build, or None.

    Raises:
        RequestError: there can be no such file.
    """
    if file is None:
        return None
    if library.flavor == "tensorrt_rtx":
        ctx.note("", f"{library.title} keeps no timings, so timing_cache is left alone")
        return None
    cache = file.absolute()
    if not cache.parent.is_dir() or cache.is_dir():
        raise RequestError(f"timing_cache: {cache} cannot be a file; is its folder there?")
    return str(cache)


def put_in_place(file: Path, place: Path) -> None:
    """Copy ``file`` to ``place``, perhaps on another disk: whole, or not at all.

    Raises:
        RequestError: ``place`` cannot be written.
    """
    scratch = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        shutil.copyfile(file, scratch)
        scratch.replace(place)
    except OSError as error:
        raise RequestError(f"{place} cannot be written: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
