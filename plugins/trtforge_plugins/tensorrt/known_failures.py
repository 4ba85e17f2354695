"""Knows messages of TensorRT: what they mean, and what to do. Each was seen; see the tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trtforge import BuildError, EnvironmentLacks, TrtforgeError

SHOWN = 20


@dataclass(frozen=True)
class Known:
    """A message of TensorRT, what it means, and its remedy."""

    code: str
    """Stable word for it."""
    pattern: str
    cause: str
    """One sentence; ``{op}`` is the node's operator."""
    remedy: str
    environment: bool = False
    """Whether it is the machine that lacks something, not the model."""


KNOWN = (
    Known(
        "no-such-operator",
        r"Plugin not found|is not supported in TensorRT|plugin creator .* was not found",
        "TensorRT has no operator {op}",
        "rewrite the node (`make-convertible`) or give TensorRT a plugin for it",
    ),
    Known(
        "type-of-target",
        r"HW-specific datatypes",
        "a target lacks a type that the model uses",
        "leave the targets out that lack the type, or use another type",
    ),
    Known(
        "float32-product-on-turing",
        r"FP32 GEMM is not supported",
        "float32 matrix products do not build for sm_75",
        "leave sm_75 out of the targets, or cast the model to float16",
    ),
    Known(
        "workspace-too-small",
        r"within workspace limit",
        "no kernel gets along with the workspace",
        "raise the option workspace, or leave it out",
    ),
    Known(
        "asymmetric-quantization",
        r"[Nn]on-zero zero point",
        "TensorRT only quantizes symmetrically",
        "quantize again with zero point 0",
    ),
    Known(
        "uint8",
        r"unsupported input type of UINT8",
        "TensorRT quantizes to int8, not to uint8",
        "quantize again to int8",
    ),
    Known(
        "scale-not-positive",
        r"[Ss]cale coefficients must all be positive",
        "a quantization scale is not above zero",
        "calibrate again: the data left a tensor at zero",
    ),
    Known(
        "mixed-types",
        r"must have same input types",
        "the inputs of {op} have different types, and TensorRT inserts no casts",
        "add the casts to the model",
    ),
    Known(
        "refit-of-several-targets",
        r"sm_vers_\.size\(\) == 1",
        "TensorRT-RTX makes a refittable engine for one target only",
        "name one target, on a machine with that GPU, or drop refit",
    ),
    Known(
        "no-lean-runtime",
        r"libnvinfer_lean",
        "this package comes without TensorRT's lean runtime",
        "drop version_compatible",
        environment=True,
    ),
    Known(
        "no-gpu",
        r"cudaError 35|CHECK\(status == CUDA_SUCCESS\)|CUDA initialization failure|Cuda Error in",
        "TensorRT looked for a GPU and found none",
        "use a machine with an NVIDIA driver and a GPU; `trtforge doctor` looks for the cause",
        environment=True,
    ),
)


def find(texts: Iterable[str]) -> list[Known]:
    """Return what is known about any of ``texts``, in the order of :data:`KNOWN`."""
    lines = list(texts)
    return [known for known in KNOWN if any(re.search(known.pattern, line) for line in lines)]


def failure(what: str, texts: list[str]) -> TrtforgeError:
    """Return the error for a failed build: ``what``, TensorRT's own ``texts``, known remedies."""
    known = find(texts)
    kind = EnvironmentLacks if any(each.environment for each in known) else BuildError
    return kind(f"{what}{listed(texts)}", remedy=remedies(known))


def remedies(known: Iterable[Known]) -> str:
    """Return the remedies of all of ``known`` as one text."""
    return "; ".join(each.remedy for each in known)


def listed(texts: list[str]) -> str:
    """Return ``texts`` as indented lines after a colon, at most 20 of them."""
    lines = [f"\n  {text}" for text in texts[:SHOWN]]
    if len(texts) > SHOWN:
        lines.append(f"\n  and {len(texts) - SHOWN} more; the log has all of them")
    return ":" + "".join(lines) if lines else ""


def sentence(refused: Mapping[str, Any]) -> str:
    """Return one line for a refusal of the parser (see ``adapter.Session.parse``)."""
    operator = f" ({refused['op']})" if refused["op"] else ""
    named = refused["node"] or refused["op"]
    place = f"node {refused['node']!r}{operator}: " if named else ""
    return f"{place}{evidence(refused)}"


def evidence(refused: Mapping[str, Any]) -> str:
    """Return the parser's own words: text, code, and the function calls around the node."""
    calls = f", in {' in '.join(refused['functions'])}" if refused["functions"] else ""
    code = f" [{refused['code']}]" if refused["code"] else ""
    return f"{refused['text']}{code}{calls}"
