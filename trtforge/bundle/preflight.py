"""Decides before anything is loaded which engine of a bundle fits a machine, and why not.

No library of NVIDIA is imported: the machine's facts come from NVML and the package metadata, the
engines' from the manifest and the first bytes of their files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtforge.bundle.compatibility import Library, Misfit, Place, libraries, misfits, needed_memory
from trtforge.bundle.manifest import BundledEngine
from trtforge.bundle.plan_header import SIZE, PlanHeader, read_header
from trtforge.bundle.storage import Bundle
from trtforge.environment import Environment, Gpu
from trtforge.errors import RequestError


@dataclass(frozen=True)
class Fit:
    """One engine on one machine."""

    engine: int
    """Its place in the manifest's list."""
    file: str
    gpu: int | None
    """Number of the GPU that it fits best; None: there is none."""
    misfits: tuple[Misfit, ...]
    """What does not fit; empty: it may be loaded."""
    notes: tuple[str, ...]
    """What is not known, or may cost speed."""
    needs: int
    """GPU memory that TensorRT stated, bytes; 0: not known."""

    @property
    def fits(self) -> bool:
        """Whether it may be loaded."""
        return not self.misfits


@dataclass(frozen=True)
class Preflight:
    """All engines of a bundle on one machine."""

    fits: tuple[Fit, ...]
    chosen: tuple[Fit, ...]
    """The engines to load, in the order of their chain; empty: a part of the model has none."""
    can_rebuild: bool
    """Whether the bundle has the ONNX model to build from."""


def preflight(bundle: Bundle, machine: Environment) -> Preflight:
    """Return which engines of ``bundle`` fit ``machine``."""
    engines = bundle.manifest.engines
    found = []
    for index, engine in enumerate(engines):
        with bundle.head(engine.file) as file:
            header = read_header(file.read(SIZE))
        size = bundle.manifest.by_path[engine.file].size
        found.append(_best(index, engine, header, size, machine))
    fits = tuple(found)
    return Preflight(fits, _choose(fits, engines), bundle.manifest.model.file is not None)


def _choose(fits: tuple[Fit, ...], engines: tuple[BundledEngine, ...]) -> tuple[Fit, ...]:
    """Return for each part of the model the fitting engine made for the fewest GPUs."""
    chosen = []
    for part in sorted({engine.part for engine in engines}):
        able = [fit for fit in fits if fit.fits and engines[fit.engine].part == part]
        if not able:
            return ()
        chosen.append(min(able, key=lambda fit: _generality(engines[fit.engine])))
    return tuple(chosen)


def _generality(engine: BundledEngine) -> tuple[bool, bool, int]:
    """Order engines: those that were asked to serve less are faster."""
    return (
        engine.hardware_compatibility != "none",
        engine.version_compatible,
        len(engine.targets),
    )


def _best(
    index: int,
    engine: BundledEngine,
    header: PlanHeader | None,
    size: int,
    machine: Environment,
) -> Fit:
    """Judge an engine on each GPU with each library, and return the best case."""
    gpus: list[tuple[int | None, Gpu | None]] = list(enumerate(machine.gpus)) or [(None, None)]
    able: list[Library | None] = [
        each for each in libraries(machine) if each.flavor == engine.flavor
    ] or [None]
    cases = [
        (number, misfits(engine, Place(machine, gpu, library)), gpu)
        for number, gpu in gpus
        for library in able
    ]
    number, wrong, gpu = min(cases, key=lambda case: len(case[1]))
    wrong = [*wrong, *_disagreements(engine, header, size)]
    return Fit(
        engine=index,
        file=engine.file,
        gpu=number,
        misfits=tuple(wrong),
        notes=tuple(_notes(engine, header, gpu)),
        needs=needed_memory(engine),
    )


def _disagreements(engine: BundledEngine, header: PlanHeader | None, size: int) -> list[Misfit]:
    """Return where the engine file itself says something else than the manifest."""
    if header is None:
        return []
    said = []
    if header.flavor != engine.flavor:
        said.append(f"is of {header.flavor}, and the manifest says {engine.flavor}")
    elif not header.is_of(engine.version):
        said.append(f"is of version {header.version_text}, and the manifest says {engine.version}")
    if header.size is not None and header.size != size:
        said.append(f"should have {header.size} bytes and has {size}")
    return [
        Misfit("header", f"the engine file {text}", "pack the bundle again from the run", "")
        for text in said
    ]


def _notes(engine: BundledEngine, header: PlanHeader | None, gpu: Gpu | None) -> list[str]:
    notes = []
    if header is None:
        notes.append("the engine file has no header of a known form: the manifest is believed")
    if not needed_memory(engine):
        notes.append("its memory is not known")
    same_model = not engine.gpu or gpu is None or engine.gpu == gpu.name
    if engine.flavor == "tensorrt" and not same_model and gpu is not None:
        notes.append(f"it was built on {engine.gpu}; on {gpu.name} it may be slower")
    return notes


def read_machine(file: Path) -> Environment:
    """Read the machine that ``trtforge doctor --json`` described.

    Raises:
        RequestError: the file holds no such description.
    """
    from trtforge.options import adapter

    try:
        data: Any = json.loads(file.read_bytes())
        facts = data.get("environment", data) if isinstance(data, Mapping) else data
        return adapter(Environment).validate_python(facts)
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValueError as error:
        raise RequestError(
            "this describes no machine",
            where=str(file),
            remedy="make it on the machine itself: trtforge doctor --json > env.json",
        ) from error


def on_gpu(machine: Environment, number: int) -> Environment:
    """Return the machine with one of its GPUs only.

    Raises:
        RequestError: it has no GPU of this number.
    """
    if not 0 <= number < len(machine.gpus):
        raise RequestError(f"there is no GPU {number}; the machine has {len(machine.gpus)}")
    return replace(machine, gpus=(machine.gpus[number],))
