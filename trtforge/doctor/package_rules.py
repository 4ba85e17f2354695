"""Python packages: those that trtforge asks for, damaged ones, and two that exclude each other."""

from __future__ import annotations

from collections.abc import Iterator

from trtforge.doctor.facts import Facts
from trtforge.doctor.symptom import Symptom, fault, note, ok


def dependencies(facts: Facts) -> Iterator[Symptom]:
    """Judge whether trtforge has what it asks for."""
    for each in facts.installation.unmet:
        requirement = each.partition(" (")[0]
        yield fault(
            "dependency",
            f"trtforge needs {each.replace(' (', '; here: ').rstrip(')')}",
            f"pip install '{requirement}'",
        )


def damaged(facts: Facts) -> Iterator[Symptom]:
    """Judge whether the binaries of packages are those that were installed."""
    both = {"onnxruntime", "onnxruntime-gpu"} <= facts.environment.packages.keys()
    for name, files in facts.installation.damaged.items():
        if both and name.startswith("onnxruntime"):
            continue  # each replaced files of the other; `onnxruntime` says so
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        yield fault(
            "package-damaged",
            f"{name}: {files[0]}{more} is missing or has another size than was installed",
            f"pip install --force-reinstall --no-deps --no-cache-dir {_pinned(facts, name)}",
        )
    for name, versions in facts.installation.twice.items():
        yield note(
            "package-twice",
            f"{name} is installed in several folders: {', '.join(versions)}",
            f"pip uninstall -y {name}, once more, and install it again",
        )


def onnxruntime(facts: Facts) -> Iterator[Symptom]:
    """Judge ONNX and ONNX Runtime."""
    packages = facts.environment.packages
    if {"onnxruntime", "onnxruntime-gpu"} <= packages.keys():
        yield note(
            "onnxruntime-two",
            f"onnxruntime {packages['onnxruntime']} and onnxruntime-gpu "
            f"{packages['onnxruntime-gpu']} share one folder; the one installed last is in use",
            "pip install --force-reinstall --no-deps "
            f"onnxruntime-gpu=={packages['onnxruntime-gpu']}",
        )
    found = [name for name in ("onnx", "onnxruntime", "onnxruntime-gpu") if name in packages]
    if found:
        yield ok("onnx", ", ".join(f"{name} {packages[name]}" for name in found))


def cupy(facts: Facts) -> Iterator[Symptom]:
    """Judge CuPy, which compiles the kernels of custom ops."""
    packages = facts.environment.packages
    found = [name for name in packages if name.startswith("cupy-")]
    if found:
        yield ok("cupy", f"{found[0]} {packages[found[0]]}: custom kernels can compile")
    else:
        yield note(
            "cupy-missing",
            "CuPy is not installed: custom ops cannot compile their kernels",
            "pip install 'trtforge[cu13]'",
        )


def _pinned(facts: Facts, name: str) -> str:
    stated = facts.environment.packages.get(name)
    return f"{name}=={stated}" if stated else name
