"""Where a node comes from: the torch module and the line of Python, as the exporters leave them.

``torch.onnx.export(dynamo=True)`` writes them into the nodes' metadata
(https://docs.pytorch.org/docs/stable/onnx_export.html); passes of trtforge carry it along. The
TorchScript exporter puts the module's path into the node's name: ``/encoder/layers.0/MatMul``.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
STACK = "pkg.torch.onnx.stack_trace"
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")
_FRAME = re.compile(r'File "([^"\n]+)", line (\d{1,9})')
_LIBRARY = re.compile(r"[/\\]site-packages[/\\]|[/\\]dist-packages[/\\]|[/\\]lib[/\\]python3")
_MAX_TEXT = 2**16


def module_of(node: ir.Node) -> str:
    """Return the path of the torch module behind ``node``, or ""."""
    scopes = _QUOTED.findall(node.metadata_props.get(SCOPES, "")[:_MAX_TEXT])
    if scopes:  # the last one is the operator itself, the first one the whole model
        return scopes[-2] if len(scopes) > 1 else ""
    name = node.name or ""
    return ".".join(_distinct(name.strip("/").split("/")[:-1])) if name.startswith("/") else ""


def _distinct(scopes: list[str]) -> list[str]:
    """Join ``layers``, ``layers.0`` and ``layers.0.fc`` to ``layers.0.fc``, as dynamo names it."""
    path: list[str] = []
    for scope in scopes:
        if path and (scope == path[-1] or scope.startswith(f"{path[-1]}.")):
            path[-1] = scope
        else:
            path.append(scope)
    return path


def source_of(node: ir.Node) -> str:
    """Return the innermost line outside of installed libraries, ``model.py:52``, or ""."""
    frames = _FRAME.findall(node.metadata_props.get(STACK, "")[:_MAX_TEXT])
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])]
    if not own:
        return ""
    file, line = own[-1]
    return f"{PurePosixPath(file.replace(chr(92), '/')).name}:{line}"
