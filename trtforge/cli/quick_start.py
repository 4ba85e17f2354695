"""Lets a command start sooner, by settings of the interpreter that are the command's to choose."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

DEFERRED = frozenset({"sympy", "onnx_ir._symbolic_shapes"})
"""onnx-ir imports them for arithmetic with symbolic dimensions, which is rare; SymPy takes as long
to import as all other libraries of a run together."""
_ALLOCATIONS = 200_000
_NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


def quick_start() -> None:
    """Import the modules of :data:`DEFERRED` when they are first used; look for garbage less often.

    A graph of many nodes is a million objects that live as long as the command, and the collector
    would go through all of them again and again. pydantic need not look through all installed
    packages for plugins of its own, which could only change how recipes are read.
    """
    sys.meta_path.insert(0, _Deferring())
    os.environ.setdefault(_NO_PLUGINS, "__all__")
    gc.set_threshold(_ALLOCATIONS, 20, 100)


class _Deferring:
    """Finds modules as the interpreter does, and lets them load on first use."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that is to wait, None for all others."""
        if fullname not in DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
