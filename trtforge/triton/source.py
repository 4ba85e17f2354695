"""What is to be served, from a bundle or the folder of a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trtforge import frozen_inputs, io_adapter, model_file
from trtforge.bundle.contents import Contents, Interface, of_runs
from trtforge.bundle.manifest import TensorEntry
from trtforge.bundle.storage import Bundle
from trtforge.chain import ChainPart
from trtforge.chain_runner import PARTS
from trtforge.errors import RequestError
from trtforge.evidence import MODEL, read_report
from trtforge.quantities import ShapeRange
from trtforge.run_folder import REPORT

Profile = Mapping[str, ShapeRange]


@dataclass(frozen=True)
class Plan:
    """An engine, and how to copy its file."""

    flavor: str
    version: str
    targets: tuple[str, ...]
    hardware_compatibility: str
    version_compatible: bool
    profiles: tuple[Profile, ...]
    part: int
    copy: Callable[[Path], object]
    """Writes the file to a path."""

    @property
    def generality(self) -> tuple[bool, bool, int]:
        """Orders engines: those that were asked to serve less are faster."""
        compatible = self.hardware_compatibility != "none"
        return compatible, self.version_compatible, len(self.targets)


@dataclass(frozen=True)
class Source:
    """A model with its engines."""

    name: str
    where: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    plans: tuple[Plan, ...]
    profiles: tuple[Profile, ...]
    """What the recipe asked for."""
    changed: tuple[str, ...]
    """Inputs and outputs that have another type, or are not there any more, since the model was
    given."""
    onnx: Mapping[str, Callable[[Path], object]]
    """Files of the ONNX model by name, and what copies each; empty: it was left out."""


@dataclass(frozen=True)
class Opened:
    """One model, or the parts of one that was split, in their order."""

    sources: tuple[Source, ...]
    outputs: tuple[str, ...] | None = None
    """What the parts together give; None where nothing was split."""


def open_source(path: Path, *, key: Path | None = None) -> Opened:
    """Read a bundle, or the folder of a finished run.

    Raises:
        RequestError: it is neither, or damaged.
    """
    if not (path / REPORT).is_file():
        return Opened((_of_bundle(Bundle(path, key=key)),))
    report = read_report(path)
    if report.chain is None:
        return Opened((_of_run(path, of_runs([path])),))
    name = Path(report.request.source).stem
    parts = tuple(_of_part(path / PARTS, part, name) for part in report.chain.parts)
    return Opened(parts, report.chain.outputs)


def _of_run(path: Path, contents: Contents) -> Source:
    profiles = tuple(map(_profile, contents.reports[0].request.profiles))
    plans = tuple(
        Plan(
            engine.flavor,
            engine.version,
            engine.targets,
            engine.hardware_compatibility,
            engine.version_compatible,
            profiles,
            part,
            _copier(engine.path),
        )
        for part, (engine, _) in enumerate(contents.engines)
    )
    return Source(
        name=contents.name,
        where=str(path),
        inputs=contents.interface.inputs,
        outputs=contents.interface.outputs,
        plans=plans,
        profiles=profiles,
        changed=_changed(contents.interface.metadata),
        onnx={file.name: _copier(file) for file in (contents.model, *contents.data)},
    )


def _of_part(folder: Path, part: ChainPart, name: str) -> Source:
    """Read a part of a split model, whose files lie in ``folder``."""
    file = folder / part.model.name
    model = model_file.load(file)
    interface = Interface.of(model)
    profiles = tuple(map(_profile, part.profiles))
    engine = part.engine
    plans = () if engine is None else (
        Plan(
            engine.flavor,
            engine.version,
            engine.targets,
            engine.hardware_compatibility,
            engine.version_compatible,
            profiles,
            0,
            _copier(folder / engine.path.name),
        ),
    )  # fmt: skip
    return Source(
        name=name,
        where=str(file),
        inputs=interface.inputs,
        outputs=interface.outputs,
        plans=plans,
        profiles=profiles,
        changed=_changed(interface.metadata),
        onnx={
            MODEL: _copier(file),
            **{data.name: _copier(data) for data in model_file.data_files(model)},
        },
    )


def _of_bundle(bundle: Bundle) -> Source:
    manifest = bundle.manifest
    plans = tuple(
        Plan(
            engine.flavor,
            engine.version,
            engine.targets,
            engine.hardware_compatibility,
            engine.version_compatible,
            tuple(map(_profile, engine.profiles)),
            engine.part,
            _extractor(bundle, engine.file),
        )
        for engine in manifest.engines
    )
    folder = "model/"
    onnx = [name for name in manifest.by_path if name.startswith(folder)]
    return Source(
        name=manifest.model.name,
        where=str(bundle.path),
        inputs=manifest.model.inputs,
        outputs=manifest.model.outputs,
        plans=plans,
        profiles=plans[0].profiles if plans else (),
        changed=_changed(manifest.model.metadata),
        onnx={name.removeprefix(folder): _extractor(bundle, name) for name in onnx},
    )


def _changed(metadata: Mapping[str, str]) -> tuple[str, ...]:
    return (*io_adapter.read(metadata), *frozen_inputs.read(metadata))


def _profile(shapes: Mapping[str, str]) -> Profile:
    try:
        return {name: ShapeRange.read(shape) for name, shape in shapes.items()}
    except RequestError as error:
        raise RequestError(f"a profile of the engine is damaged: {error.what}") from error


def _copier(file: Path) -> Callable[[Path], object]:
    return lambda target: shutil.copyfile(file, target)


def _extractor(bundle: Bundle, name: str) -> Callable[[Path], object]:
    return lambda target: bundle.extract(name, target)
