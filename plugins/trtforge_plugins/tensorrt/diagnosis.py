"""Says what to do about messages of TensorRT that are known; each was seen, see the tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trtforge import BuildError, EnvironmentLacks, TrtforgeError

SHOWN = 20


@dataclass(frozen=True)
class Known:
    """A message of TensorRT and its remedy."""

    pattern: str
    remedy: str
    environment: bool = False
    """Whether it is the machine that lacks something, not the model."""


KNOWN = (
    Known(
        r"Plugin not found|is not supported in TensorRT|plugin creator .* was not found",
        "TensorRT has no such operator: rewrite the node (`make-convertible`) or give it a plugin",
    ),
    Known(
        r"HW-specific datatypes", "leave the targets out that lack the type, or use another type"
    ),
    Known(
        r"FP32 GEMM is not supported",
        "leave sm_75 out of the targets, or cast the model to float16",
    ),
    Known(r"within workspace limit", "raise the option workspace, or leave it out"),
    Known(r"[Nn]on-zero zero point", "quantize symmetrically: the zero point must be 0"),
    Known(r"unsupported input type of UINT8", "quantize to int8; TensorRT takes no uint8"),
    Known(r"[Ss]cale coefficients must all be positive", "a scale is 0: calibrate on other data"),
    Known(r"must have same input types", "add casts: TensorRT keeps to the types of the model"),
    Known(
        r"sm_vers_\.size\(\) == 1",
        "TensorRT-RTX makes a refittable engine for one target only, and only on its GPU",
    ),
    Known(
        r"libnvinfer_lean",
        "drop version_compatible: this package comes without TensorRT's lean runtime",
        environment=True,
    ),
    Known(
        r"cudaError 35|CHECK\(status == CUDA_SUCCESS\)|CUDA initialization failure|Cuda Error in",
        "this needs an NVIDIA driver and a GPU; `trtforge doctor` looks for the cause",
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
    remedy = "; ".join(each.remedy for each in known)
    return kind(f"{what}{listed(texts)}", remedy=remedy)


def listed(texts: list[str]) -> str:
    """Return ``texts`` as indented lines after a colon, at most 20 of them."""
    lines = [f"\n  {text}" for text in texts[:SHOWN]]
    if len(texts) > SHOWN:
        lines.append(f"\n  and {len(texts) - SHOWN} more; the log has all of them")
    return ":" + "".join(lines) if lines else ""


def sentence(refused: Mapping[str, Any]) -> str:
    """Return one line for a refusal of the parser (see ``adapter.Session.parse``)."""
    node = f"node {refused['node']!r}" if refused["node"] else "a nameless node"
    operator = f" ({refused['op']})" if refused["op"] else ""
    calls = f" in {' in '.join(refused['functions'])}" if refused["functions"] else ""
    place = f"{node}{operator}{calls}: " if refused["node"] or refused["op"] else ""
    code = f" [{refused['code']}]" if refused["code"] else ""
    return f"{place}{refused['text']}{code}"
