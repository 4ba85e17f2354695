"""Will TensorRT take this model? Parses it without building, and names every refused node."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from trtforge import BuildError, RequestError, Target, TrtforgeError, model_file
from trtforge.worker import Job, Worker, WorkerFailure
from trtforge_plugins.tensorrt.diagnosis import find as find_known
from trtforge_plugins.tensorrt.diagnosis import sentence
from trtforge_plugins.tensorrt.library import find
from trtforge_plugins.tensorrt.model_checks import check_types, prepared
from trtforge_plugins.tensorrt.order import Order

TIME_LIMIT = 600.0


@dataclass(frozen=True)
class Finding:
    """One reason for which TensorRT does not take a model."""

    text: str
    """What TensorRT says."""
    remedy: str = ""
    """What to do about it, where that is known."""
    node: str = ""
    """The node's name; empty when the reason is not one node's."""
    op: str = ""
    """The node's operator."""
    code: str = ""
    """TensorRT's error code (``UNSUPPORTED_NODE``), or how the parser ended (``crashed``)."""
    functions: tuple[str, ...] = ()
    """The chain of function calls around the node, innermost first."""

    def __str__(self) -> str:
        return sentence(asdict(self))


def findings(
    model: ir.Model,
    *,
    targets: Sequence[Target] = (),
    flavor: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto",
    log: Path | None = None,
) -> list[Finding]:
    """Return every reason for which TensorRT refuses ``model``; a crash of its parser is one.

    Args:
        model: Stays as it is.
        targets: GPUs whose types the model must keep to.
        flavor: Which TensorRT is asked.
        log: Where TensorRT's own messages go.

    Raises:
        EnvironmentLacks: no TensorRT is installed, or it does not load.
    """
    try:
        ready = prepared(model)
    except (BuildError, RequestError) as error:
        return [_finding(error)]
    found = []
    try:
        check_types(ready, targets)
    except RequestError as error:
        found.append(_finding(error))
    try:
        return found + _refused(ready, flavor, log)
    except WorkerFailure as failure:
        return [*found, _finding(failure, code=failure.cause.value)]


def _refused(
    model: ir.Model, flavor: Literal["auto", "tensorrt", "tensorrt_rtx"], log: Path | None
) -> list[Finding]:
    library = find(flavor)
    with (
        tempfile.TemporaryDirectory(prefix="trtforge-") as scratch,
        Worker(imports=(library.flavor,), environment=library.variables()) as worker,
    ):
        worker.start()
        file = Path(scratch) / "model.onnx"
        model_file.save(model, file, external_over=0)
        job = Job(
            f"{__package__}.build_job:parse",
            asdict(Order(library.flavor, str(file))),
            f"the parser of {library.title}",
            log=log or Path(scratch) / "log",
            time_limit=TIME_LIMIT,
        )
        refused = worker.call(job)["refused"]
    return [
        Finding(
            text=each["text"],
            remedy="; ".join(known.remedy for known in find_known([each["text"]])),
            node=each["node"],
            op=each["op"],
            code=each["code"],
            functions=tuple(each["functions"]),
        )
        for each in refused
    ]


def _finding(error: TrtforgeError, code: str = "") -> Finding:
    return Finding(text=error.what, remedy=error.remedy, code=code)
