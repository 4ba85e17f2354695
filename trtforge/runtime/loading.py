"""Loads a bundle: the engine that fits this machine, one built here, or ONNX Runtime."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trtforge.bundle.preflight import Fit, Preflight, on_gpu, preflight
from trtforge.bundle.storage import Bundle
from trtforge.cache import default_root
from trtforge.environment import Environment, Gpu, environment
from trtforge.errors import EnvironmentLacks, RequestError, TrtforgeError, did_you_mean
from trtforge.host import Host
from trtforge.runtime.chain import Chain
from trtforge.runtime.engine_store import EngineStore, store_key
from trtforge.runtime.onnx_session import OnnxSession
from trtforge.runtime.rebuild import find_builder, rebuild
from trtforge.runtime.runner import LoadedModel
from trtforge.runtime.session import EngineFile
from trtforge.steps import Backend

if TYPE_CHECKING:
    from trtforge.runner import Observer
    from trtforge.runtime.session import InferenceSession


@dataclass(frozen=True)
class LoadOptions:
    """How to load a bundle."""

    key: Path | None = None
    """Public key that must have signed it. Engines that bring their own runtime
    (``version_compatible``) are loaded from such bundles only."""
    gpu: int | None = None
    """Number of the GPU, as ``nvidia-smi`` counts; None: the one that an engine fits best."""
    build: bool = True
    """Whether to build where no engine fits."""
    allow_onnxruntime: bool = False
    """Whether ONNX Runtime may run the ONNX model where no engine can run; a warning and the
    model's notes say so."""
    cuda_graph: bool = True
    """Whether runs of unchanged shapes are recorded once and replayed."""


def load(
    bundle: str | Path,
    *,
    options: LoadOptions | None = None,
    host: Host | None = None,
    observer: Observer | None = None,
    **more: Any,
) -> LoadedModel:
    """Return the model of a bundle, ready to run on this machine.

    The engine that fits is taken. Where none does, one is built from the bundle's ONNX model and
    recipe, once for each machine: it is kept in trtforge's cache folder. Nothing that does not fit
    is loaded.

    Args:
        bundle: A folder or a zip file.
        options: How to load; fields of :class:`LoadOptions` may be given by name instead, for
            example ``load("b.zip", allow_onnxruntime=True)``.
        host: The plugins; None: all that are installed.
        observer: Is told of the progress of a build; None: nobody.
        **more: Fields of :class:`LoadOptions`.

    Raises:
        BundleError: the bundle is damaged, or not signed by ``key``.
        RequestError: there is no such bundle, GPU or option.
        EnvironmentLacks: this machine can neither run nor build an engine.
        StepError: TensorRT failed.
    """
    known = LoadOptions.__dataclass_fields__
    for name in more:
        if name not in known:
            raise RequestError(f"load() has no option {name!r}. {did_you_mean(name, known)}")
    options = replace(options or LoadOptions(), **more)
    opened = Bundle(Path(bundle), key=options.key)
    machine = environment()
    if options.gpu is not None:
        machine = on_gpu(machine, options.gpu)
    loader = _Loader(opened, machine, host or Host(), options)
    try:
        return loader.engines(observer)
    except TrtforgeError as error:
        if not options.allow_onnxruntime or isinstance(error, RequestError):
            raise
        return loader.onnxruntime(error)


class _Loader:
    def __init__(
        self, bundle: Bundle, machine: Environment, host: Host, options: LoadOptions
    ) -> None:
        self._bundle = bundle
        self._machine = machine
        self._host = host
        self._options = options

    def engines(self, observer: Observer | None) -> LoadedModel:
        """Return the model in TensorRT: in an engine of the bundle, or one built here."""
        found = preflight(self._bundle, self._machine)
        if found.chosen:
            return self._opened(self._bundle, found.chosen, ())
        why = tuple(_reasons(found))
        if not self._options.build or not self._machine.gpus:
            raise EnvironmentLacks(
                f"no engine of {self._bundle.path} fits this machine: {'; '.join(why)}",
                remedy="`trtforge bundle preflight` lists what to do; allow_onnxruntime=True "
                "(--allow-onnxruntime) runs the ONNX model instead",
            )
        return self._rebuilt(observer, why)

    def _rebuilt(self, observer: Observer | None, why: tuple[str, ...]) -> LoadedModel:
        manifest = self._bundle.manifest
        builder = find_builder(manifest, self._machine, self._host)
        store = EngineStore(default_root().absolute())
        key = store_key(manifest, self._machine, builder.gpu)
        note = f"built on this machine, since no engine of the bundle fits: {'; '.join(why)}"
        kept = self._kept(store, key)
        if kept is None:
            with store.locked(key):
                kept = self._kept(store, key)  # another process may have built it meanwhile
                if kept is None:
                    rebuild(self._bundle, builder, store.path(key), self._host, observer)
                    kept = self._kept(store, key)
        if kept is None:
            raise EnvironmentLacks("the engine that was built here does not fit this machine")
        bundle, chosen = kept
        return self._opened(bundle, chosen, (note,))

    def _kept(self, store: EngineStore, key: str) -> tuple[Bundle, tuple[Fit, ...]] | None:
        """Return an engine that was built here earlier; one that does not fit is removed."""
        bundle = store.find(key)
        if bundle is None:
            return None
        chosen = preflight(bundle, self._machine).chosen
        if not chosen:
            store.drop(key)
            return None
        return bundle, chosen

    def _opened(
        self, bundle: Bundle, chosen: tuple[Fit, ...], notes: tuple[str, ...]
    ) -> LoadedModel:
        model = self._bundle.manifest.model
        with ExitStack() as opened:
            sessions = []
            for fit in chosen:
                session = self._session(bundle, fit)
                opened.callback(session.close)
                sessions.append(session)
            names = [tensor.name for tensor in model.outputs]
            chain = Chain(sessions, names, model.metadata)
            opened.pop_all()
        said = (*notes, *(note for fit in chosen for note in fit.notes))
        return LoadedModel(chain, said)

    def _session(self, bundle: Bundle, fit: Fit) -> InferenceSession:
        entry = bundle.manifest.engines[fit.engine]
        backends = (cls for cls in self._host.steps.values() if issubclass(cls, Backend))
        backend = next((each for each in backends if entry.flavor in each.opens), None)
        if backend is None:
            raise EnvironmentLacks(
                f"no installed plugin runs engines of {entry.flavor}",
                remedy="install the plugin that built it",
            )
        engine = EngineFile(
            data=bundle.read(entry.file),
            flavor=entry.flavor,
            gpu=self._gpu(fit),
            # Such an engine brings code of its own that TensorRT would run.
            brings_runtime=entry.version_compatible,
            trusted=self._options.key is not None,
            cuda_graph=self._options.cuda_graph,
        )
        return backend.open_engine(engine)

    def _gpu(self, fit: Fit) -> Gpu:
        if fit.gpu is None:
            raise EnvironmentLacks("there is no GPU")
        return self._machine.gpus[fit.gpu]

    def onnxruntime(self, cause: TrtforgeError) -> LoadedModel:
        """Return the ONNX model in ONNX Runtime; ``cause`` is why no engine runs."""
        manifest = self._bundle.manifest
        if manifest.model.file is None:
            raise cause
        with ExitStack() as opened:
            folder = Path(opened.enter_context(TemporaryDirectory(prefix="trtforge-load-")))
            self._bundle.extract_model(folder)
            kept = opened.pop_all()  # its weights are mapped as long as it runs
            session = OnnxSession(folder / manifest.model.file, kept)
        note = f"{session.title} runs the ONNX model in place of an engine: {cause.what}"
        warnings.warn(note, stacklevel=3)
        return LoadedModel(session, (note,))


def _reasons(found: Preflight) -> list[str]:
    causes = [misfit.cause for fit in found.fits for misfit in fit.misfits]
    return list(dict.fromkeys(causes))
