"""PyTorch models, exported by torch.onnx."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

import trtforge as tf
from trtforge import model_file
from trtforge_plugins.importers.pt2_archive import refuse_code

_FACTORY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class ImportTorch(tf.Importer):
    """Export a PyTorch model: a .pt2 archive, or ``package.module:factory`` of your own code.

    The factory takes no argument and returns the module, or ``(module, example_inputs)``, or a
    dict with ``module`` and any of ``args``, ``kwargs`` and ``dynamic_shapes`` as
    ``torch.onnx.export`` takes them. The current folder is searched for the package. A ``.pt2``
    archive (``torch.export.save``) is opened only when it holds a plain model; pickled modules
    (``.pt``, ``.pth``) are refused, because opening one runs the code inside it.
    """

    name = "import-torch"
    by_user: ClassVar[tuple[str, ...]] = ("source", "trust")
    cacheable: ClassVar[bool] = False  # the factory's code is not part of the key

    opset: int | None = None
    """Version of the standard ONNX operator set to write; none: the exporter's own choice."""
    shapes: Mapping[str, tf.Dims] = field(default_factory=dict)
    """Shape of each float32 example input, for a factory that returns the module alone."""
    dynamic: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the axes that may change, per input; an empty name keeps an axis fixed."""
    trust: bool = False
    """Open a .pt2 archive without looking inside first; PyTorch may then run code from it."""

    @classmethod
    def accepts(cls, source: str) -> bool:
        """Whether ``source`` is ``module:factory`` or has an ending that PyTorch uses."""
        return bool(_FACTORY.fullmatch(source)) or Path(source).suffix in (".pt2", *_PICKLES)

    def load(self, source: str, ctx: tf.Context) -> ir.Model:
        """Return the exported model; it lies in the run folder as ``imported/model.onnx``.

        Raises:
            ModelError: ``source`` cannot be opened or exported.
            RequestError: an option does not fit ``source``.
            EnvironmentLacks: PyTorch is not installed.
        """
        factory = _FACTORY.fullmatch(source)
        if not factory:
            _refuse_file(Path(source))
        _require_torch(source)
        if factory:
            exported = self._from_factory(source, factory[1], factory[2])
        else:
            exported = self._from_archive(Path(source))
        target = ctx.path("imported", "model.onnx")
        model_file.save(exported, target)
        model_file.check(target)
        return model_file.load(target)  # mapped from the file, so that PyTorch's copy can go

    def _from_archive(self, path: Path) -> ir.Model:
        import torch

        if self.shapes or self.dynamic:
            raise tf.RequestError(
                "the shapes of a .pt2 archive were fixed by torch.export.export",
                where=str(path),
                remedy="leave shapes and dynamic away, or export again with dynamic_shapes",
            )
        if not self.trust:
            refuse_code(path)
        try:
            program = torch.export.load(path)
        except Exception as error:  # damaged archives raise many kinds
            raise _failure("cannot be opened", str(path), error) from error
        return self._export(str(path), program)

    def _from_factory(self, source: str, module: str, name: str) -> ir.Model:
        import torch

        made = _call(source, module, name)
        parts: dict[str, Any]
        if isinstance(made, dict):
            parts = dict(made)
        elif isinstance(made, tuple) and len(made) == 2:
            inputs = made[1]
            parts = {
                "module": made[0],
                "args": tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,),
            }
        else:
            parts = {"module": made}
        network = parts.pop("module", None)
        if not isinstance(network, torch.nn.Module) or set(parts) - _PARTS:
            raise tf.ModelError(
                f"the factory returned {type(made).__name__}, not what this step expects",
                where=source,
                remedy="return the torch.nn.Module, (module, example_inputs), or a dict with"
                " module, args, kwargs, dynamic_shapes",
            )
        if not parts.get("args") and not parts.get("kwargs"):
            parts["kwargs"] = self._examples(source)
        if self.dynamic:
            parts["dynamic_shapes"] = self._dynamic_shapes(source, network, parts)
        return self._export(source, network.eval(), **parts)

    def _examples(self, source: str) -> dict[str, Any]:
        import torch

        if not self.shapes:
            raise tf.RequestError(
                "the exporter needs example inputs",
                where=source,
                remedy="set the option shapes, or let the factory return (module, example_inputs)",
            )
        generator = torch.Generator().manual_seed(0)
        return {name: torch.rand(*dims, generator=generator) for name, dims in self.shapes.items()}

    def _dynamic_shapes(
        self, source: str, network: Any, parts: Mapping[str, Any]
    ) -> dict[str, dict[int, str] | None]:
        """Return ``torch.export``'s form of the option ``dynamic``, which names every input."""
        signature = inspect.signature(network.forward)
        try:
            inputs = signature.bind(*parts.get("args", ()), **parts.get("kwargs", {})).arguments
        except TypeError as error:
            raise _failure("does not take these example inputs", source, error) from error
        unknown = set(self.dynamic) - set(inputs)
        if unknown:
            raise tf.RequestError(
                f"dynamic names {', '.join(sorted(unknown))}; the inputs are {', '.join(inputs)}",
                where=source,
            )
        axes = {
            name: {axis: label for axis, label in enumerate(self.dynamic.get(name, ())) if label}
            for name in inputs
        }
        return {name: named or None for name, named in axes.items()}

    def _export(self, source: str, what: Any, **parts: Any) -> ir.Model:
        import torch

        args = parts.pop("args", ())
        try:
            with torch.no_grad():
                program = torch.onnx.export(
                    what, args, dynamo=True, opset_version=self.opset, verbose=False, **parts
                )
        except Exception as error:  # the exporter raises many kinds; all mean the same here
            raise _failure("cannot be exported to ONNX", source, error) from error
        model: ir.Model = program.model
        return model


_PARTS = {"args", "kwargs", "dynamic_shapes"}


def _refuse_file(path: Path) -> None:
    """Refuse what PyTorch would not help with, before anybody installs it."""
    if path.suffix in _PICKLES:
        raise tf.ModelError(
            "a pickled PyTorch file runs code when it is opened, so it is not opened here",
            where=str(path),
            remedy="save it with torch.export.save as .pt2, or name a factory that builds the"
            " module and loads the weights: package.module:factory",
        )
    if not path.is_file():
        raise tf.ModelError("there is no such file", where=str(path), remedy="check the path")


def _require_torch(source: str) -> None:
    for package in ("torch", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise tf.EnvironmentLacks(
                f"PyTorch models need {package}: {error}",
                where=source,
                remedy="pip install 'trtforge[torch]'",
            ) from error


def _call(source: str, module: str, name: str) -> object:
    """Import the user's module, with the current folder searched first, and call the factory."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's module may raise anything
        failure = _failure(f"module {module} cannot be imported", source, error)
        failure.remedy = "start in the folder that holds it, or put that folder into PYTHONPATH"
        raise failure from error
    finally:
        sys.path.remove(str(Path.cwd()))
    factory = getattr(found, name, None)
    if not callable(factory):
        own = [key for key, value in vars(found).items() if inspect.isfunction(value)]
        raise tf.ModelError(
            f"module {module} has no function {name}",
            where=source,
            remedy=f"its functions are: {', '.join(own) or 'none'}",
        )
    try:
        return factory()
    except Exception as error:  # the user's code may raise anything
        raise _failure(f"{name}() failed", source, error) from error


def _failure(what: str, source: str, error: Exception) -> tf.ModelError:
    """Return an error with the first line of the cause, which says most."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return tf.ModelError(f"{what}: {type(error).__name__}: {text[:300]}", where=source)
