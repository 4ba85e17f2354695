"""Builds the engines of a bundle anew on this machine, from its ONNX model and its recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trtforge import recipe_document
from trtforge.bundle.compatibility import Library, Place, libraries, misfits
from trtforge.bundle.contents import of_runs
from trtforge.bundle.manifest import BundledEngine, Manifest
from trtforge.bundle.storage import Bundle
from trtforge.bundle.writer import write
from trtforge.environment import Environment, Gpu
from trtforge.errors import EnvironmentLacks
from trtforge.host import Host
from trtforge.session import RunOptions, Session
from trtforge.steps import Backend

if TYPE_CHECKING:
    from trtforge.runner import Observer


@dataclass(frozen=True)
class Builder:
    """What builds: a backend of this host, with a library that runs on the GPU."""

    backend: type[Backend]
    library: Library
    gpu: Gpu

    @property
    def sm(self) -> str:
        """The GPU's compute capability as recipes write it: ``sm_86``."""
        return f"sm_{self.gpu.compute_capability.replace('.', '')}"

    def misfits(self, machine: Environment) -> list[str]:
        """Return why an engine that was built here would not run here."""
        fresh = BundledEngine(
            file="",
            flavor=self.library.flavor,
            version=self.library.version,
            cuda=self.library.cuda,
            platform=machine.platform,
            targets=(self.sm,),
        )
        return [each.cause for each in misfits(fresh, Place(machine, self.gpu, self.library))]

    def document(self, manifest: Manifest) -> dict[str, Any]:
        """Return the tail of the bundle's recipe: the building steps, for this GPU and library."""
        name = self.backend.name
        tail = recipe_document.only(manifest.recipe, {name})
        given = [step[name] or {} for stage in tail["stages"] for step in stage["steps"]]
        steps = [{name: {**self._safe(each), "flavor": self.library.flavor}} for each in given]
        return {
            "shapes": tail.get("shapes", []),
            "targets": [self.sm],
            "stages": [
                {"name": "build", "steps": steps or [{name: {"flavor": self.library.flavor}}]}
            ],
        }

    def _safe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options without files: the bundle may come from a stranger."""
        files = {each.name for each in fields(self.backend) if "Path" in str(each.type)}
        return {name: value for name, value in options.items() if name not in files}


def find_builder(manifest: Manifest, machine: Environment, host: Host) -> Builder:
    """Return what can build an engine that runs on a GPU of this machine.

    Raises:
        EnvironmentLacks: no installed library both builds and runs there; the message says why.
    """
    backends = [cls for cls in host.steps.values() if issubclass(cls, Backend)]
    reasons = []
    for gpu in machine.gpus:
        for library in _preferred(manifest, machine):
            able = next((each for each in backends if library.flavor in each.opens), None)
            if able is None:
                continue
            builder = Builder(able, library, gpu)
            wrong = builder.misfits(machine)
            if not wrong:
                return builder
            reasons += [f"{library.flavor} {library.version}: {cause}" for cause in wrong]
    raise EnvironmentLacks(
        "no installed TensorRT builds an engine that runs here: "
        f"{'; '.join(reasons) or 'none is installed, or there is no GPU'}"
    )


def _preferred(manifest: Manifest, machine: Environment) -> list[Library]:
    """Return the installed libraries, those that the bundle's engines came from first."""
    flavors = [engine.flavor for engine in manifest.engines]
    return sorted(libraries(machine), key=lambda each: each.flavor not in flavors)


def rebuild(
    bundle: Bundle, builder: Builder, target: Path, host: Host, observer: Observer | None
) -> None:
    """Build the engine of ``bundle`` and write it as a bundle to ``target``: whole, or not at all.

    Raises:
        EnvironmentLacks: the bundle has no ONNX model.
        StepError: TensorRT failed.
    """
    manifest = bundle.manifest
    if manifest.model.file is None:
        raise EnvironmentLacks(
            "no engine of the bundle fits this machine, and it has no ONNX model to rebuild from",
            remedy="ask its author for one with the model, or with an engine for this machine",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".rebuild-", dir=target.parent) as scratch:
        folder = Path(scratch)
        bundle.extract_model(folder)
        recipe = folder / "recipe.json"
        recipe.write_text(json.dumps(builder.document(manifest)), encoding="utf-8")
        options = RunOptions(out=folder / "run", compare=False, use_cache=False)
        model = folder / manifest.model.file
        run = Session.open(recipe, model, options, host, observer).run()
        contents = replace(of_runs([run.folder]), name=manifest.model.name, with_model=False)
        write(contents, target)
