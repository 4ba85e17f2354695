"""The table of GPUs: peak rates and memory bandwidth, each with the page that it was read from."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from trtforge import RequestError
from trtforge.analysis import Ceilings, Device
from trtforge.errors import did_you_mean

USUAL = "L4"
"""Predicted for where neither an option, an engine nor a target names a GPU."""


@lru_cache(maxsize=1)
def devices() -> dict[str, Device]:
    """Return the GPUs of ``devices.json`` by name."""
    text = (files("trtforge_plugins") / "analysis" / "devices.json").read_text(encoding="utf-8")
    entries = [_device(entry) for entry in json.loads(text)["devices"]]
    return {entry.name: entry for entry in entries}


def _device(entry: dict[str, Any]) -> Device:
    pages = dict.fromkeys(source["url"] for source in entry["sources"])
    measured = Ceilings(**entry["measured"]) if "measured" in entry else None
    return Device(**{**entry, "sources": tuple(pages), "measured": measured})


def find_device(name: str, targets: tuple[str, ...] = ()) -> Device:
    """Return the GPU called ``name``, or the first of the table that fits one of ``targets``.

    Args:
        name: Without regard to case; the start of a name is enough. Empty: by ``targets``.
        targets: Compute capabilities, ``("sm_89",)``.

    Raises:
        RequestError: the table has no such GPU.
    """
    table = devices()
    if not name:
        fitting = (each for sm in targets for each in table.values() if f"sm_{each.sm}" == sm)
        return next(fitting, table[USUAL])
    wanted = name.casefold()
    exact = [each for each in table.values() if each.name.casefold() == wanted]
    found = exact or [each for each in table.values() if each.name.casefold().startswith(wanted)]
    if not found:
        hint = did_you_mean(name, table)
        raise RequestError(
            f"there is no device {name!r} in the table. {hint}".rstrip(),
            remedy=f"use one of {', '.join(table)}",
        )
    return found[0]


def as_measured(device: Device) -> Device | None:
    """Return ``device`` with the ceilings that one of its kind reached, if one was measured.

    A type that was not measured keeps its published rate.
    """
    found = device.measured
    if found is None:
        return None
    return replace(device, bandwidth=found.bandwidth, rates={**device.rates, **found.rates})


def rate(device: Device, dtype: str) -> float | None:
    """Return the operations per second of ``dtype`` on ``device``; None: not published.

    float32 may run as TF32, TensorRT's default, so the faster of the two is the bound. A quantized
    type without a rate of its own is computed in a wider one.
    """
    names = {"float32": ("tf32", "float32"), "int4": ("float16",)}.get(dtype, (dtype,))
    known = [device.rates[name] for name in names if name in device.rates]
    return max(known) * 1e12 if known else None
