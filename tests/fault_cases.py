"""The commands that faults come over, the faults, and how a seed draws one."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from trtforge import demo

RUN = ["run", "quantize.yaml", "--model", "m.onnx", "--out", "out"]
MATRIX = """
models: {one: m.onnx, two: two.onnx}
recipes: [clean.yaml]
targets: [sm_86]
"""
RECIPES = {
    "quantize": "[fold-constants, load-data: {path: data.npz}, calibrate-max, insert-qdq, verify]",
    "clean": "[fold-constants, drop-dead-code, {cast: {to: float16}}, verify]",
    "build": "[fold-constants, {cast: {to: float16}}, tensorrt]",
}
STEPS = {"run": 6, "build": 5}
"""How many steps each takes, the import and the comparison included."""
KINDS = ("kill", "tear", "boundary", "full", "error", "read-only", "skew", "shared", "corrupt",
         "exchange")  # fmt: skip
TIMED = ("kill", "tear", "full", "error", "shared")
"""Kinds whose moment is a change of a file."""


@dataclass(frozen=True)
class Command:
    """A command, and what it makes."""

    line: list[str]
    makes: tuple[str, ...]
    """Files and bundles, or nothing: then its answer is the result."""
    weight: int
    kinds: tuple[str, ...]
    other: list[str] = field(default_factory=list)
    """What runs at the same time on the same cache."""

    def share(self, count: int) -> int:
        """Return how many of ``count`` faults this command gets."""
        return round(count * self.weight / sum(each.weight for each in COMMANDS.values()))


def _renamed(line: list[str], old: str, new: str) -> list[str]:
    return [new if word == old else word for word in line]


def _without(*left_out: str) -> list[str]:
    return [kind for kind in KINDS if kind not in left_out]


BUILD = [RUN[0], "build.yaml", *RUN[2:], "--shape", "image=2x1x8x8", "--target", "sm_86"]
PACK = ["bundle", "pack", "made", "--out", "p"]
_PACKING = ("kill", "tear", "shared", "full", "error", "skew")
# The first kinds of each are what few cases try.
COMMANDS = {
    "run": Command(RUN, ("out/model.onnx",), 9, KINDS, _renamed(RUN, "out", "out2")),
    "build": Command(BUILD, ("out/model.onnx", "out/engines/m.engine"), 2,
                     ("boundary", "tear", "full", "corrupt", *KINDS),
                     _renamed(BUILD, "out", "out2")),
    "pack": Command(PACK, ("p",), 3, _PACKING, PACK),
    "pack-zip": Command(_renamed(PACK, "p", "p.zip"), ("p.zip",), 3, _PACKING,
                        _renamed(PACK, "p", "p.zip")),
    "load": Command(["load", "b"], (), 2,
                    ("kill", "read-only", "corrupt", "shared", *_without("boundary")),
                    ["load", "b"]),
    "matrix": Command(["run", "--matrix", "matrix.yaml", "--out", "out", "--jobs", "1", "--json"],
                      ("out/one.clean.sm_86/model.onnx", "out/two.clean.sm_86/model.onnx"), 1,
                      ("kill", "full", "corrupt", "exchange", *_without("boundary", "shared"))),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One fault, drawn from a seed."""

    command: str
    seed: int
    kind: str
    call: str = ""
    nth: int = 0
    seconds: float = 0.0
    warm: bool = False
    """Whether the cache holds all results already."""


def seeded(*facts: object) -> random.Random:
    """Return a source of chance that gives the same for the same facts."""
    return random.Random(" ".join(map(str, facts)))  # noqa: S311  # nothing secret


def draw(name: str, seed: int, calls: Mapping[bool, Sequence[str]]) -> Case:
    """Return the case of a seed.

    Args:
        name: Of the command.
        seed: Number of the case.
        calls: The command's changes of files, with an empty and with a warm cache.
    """
    chance = seeded(name, seed)
    kinds = COMMANDS[name].kinds
    kind = kinds[seed] if seed < len(kinds) else chance.choice(kinds)  # each once, at first
    warm = kind in ("corrupt", "exchange") or (kind == "skew" and chance.random() < 0.5)
    case = Case(name, seed, kind, warm=warm)
    if kind in TIMED:
        changes = calls[warm]
        call = chance.choice(
            sorted({each for each in changes if kind != "tear" or each in ("write", "pwrite")})
        )
        return replace(case, call=call, nth=chance.randrange(changes.count(call)))
    if kind == "boundary":
        return replace(case, nth=chance.randrange(2 * STEPS[name]))
    if kind == "skew":
        return replace(case, seconds=chance.uniform(-3e8, 3e8))
    return case


def write_inputs(folder: Path) -> None:
    """Write models, recipes and data; ``other.onnx`` has the size of ``m.onnx``."""
    folder.mkdir(parents=True)
    model = onnx.load(demo.MODEL)
    onnx.save(model, folder / "m.onnx")
    onnx.save(model, folder / "two.onnx")
    largest = max(model.graph.initializer, key=lambda each: each.ByteSize())
    array = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array[::-1]), largest.name))
    onnx.save(model, folder / "other.onnx")
    shutil.copy(demo.MODEL.with_name("calibration.npz"), folder / "data.npz")
    for name, steps in RECIPES.items():
        (folder / f"{name}.yaml").write_text(f"stages: [{{name: all, steps: {steps}}}]\n")
    (folder / "matrix.yaml").write_text(MATRIX)


def exchange(folder: Path) -> None:
    """Put other models under the names of those that were there: as large, and as old."""
    for old, new in (("m.onnx", "other.onnx"), ("two.onnx", "other.onnx")):
        place = folder / old
        stat = place.stat()
        assert (folder / new).stat().st_size == stat.st_size
        shutil.copyfile(folder / new, place)
        os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if (folder / "b").exists():
        shutil.rmtree(folder / "b")
        shutil.copytree(folder / "b-other", folder / "b")


def damage(cache: Path, chance: random.Random) -> None:
    """Change, shorten, empty, remove or exchange one file of the cache."""
    # A link leads out of the cache: to the library of TensorRT that is installed here.
    files = sorted(p for p in cache.rglob("*") if p.is_file() and not p.is_symlink())
    place = chance.choice(files)
    data = bytearray(place.read_bytes())
    match chance.choice(("bit", "cut", "empty", "gone", "foreign")):
        case "bit" if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "cut" if data:
            del data[chance.randrange(len(data)) :]
        case "gone":
            place.unlink()
            return
        case "foreign":
            data = bytearray(chance.choice(files).read_bytes())
        case _:
            data.clear()
    place.write_bytes(data)


def age(cache: Path, chance: random.Random) -> None:
    """Give the files of the cache any age, also one to come."""
    for path in cache.rglob("*"):
        if not path.is_symlink():
            at = time.time() + chance.uniform(-3e8, 3e8)
            os.utime(path, (at, at))
