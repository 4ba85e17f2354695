"""Fuzzes the readers of files from strangers, guided by which of our code an input reaches.

    pip install '.[test,fuzz]' && python scripts/fuzz.py [--seconds 300] [--examples 300]
                                    [--only PART] [--keep FOLDER] [--result FILE [--add]]

For the nightly mode. Readers of models, recipes, arrays, ranges and bundles share the seconds. Each
may read its input or refuse it with one of our errors; any other exception, 20 seconds for one
input, or 2 GiB of memory ends the run with exit code 1, and the input is kept in FOLDER;
``--only READER FILE`` reads it again. The part ``properties`` is ``tests/test_fuzz.py`` with new
examples, so many for each test. ``--result`` writes how many inputs each part had and what was
found (``benchmarks/results/fuzz.json``); parts that were not asked for keep their earlier entry.
With ``--add`` the figures are added to it: a long run may be made of short ones, each of which
goes on from the inputs in FOLDER.

Atheris (libFuzzer for Python) makes the inputs: https://github.com/google/atheris
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
READERS = ("model", "recipe", "arrays", "ranges", "bundles")
PROPERTIES = "properties"
LIMITS = (
    "-timeout=20",
    "-rss_limit_mb=2048",
    "-max_len=8192",
    "-verbosity=1",
    "-print_final_stats=1",
)


def seeds(reader: str) -> list[bytes]:
    """Return the good files that the inputs are made from."""
    from test_fuzz import CACHE, GOOD, NPY, NPZ, RANGES, RECIPE, bundle_parts

    return {
        "model": [GOOD],
        "recipe": [RECIPE.encode()],
        "arrays": [NPY, NPZ],
        "ranges": [CACHE, RANGES],
        "bundles": [bundle_parts()[0], bundle_parts()[1]["manifest.json"]],
    }[reader]


def reading(reader: str, folder: Path) -> Callable[[bytes], None]:
    """Return what reads one input, as the commands do; files go into ``folder``."""
    from test_fuzz import load_and_use, read_all, read_bundle
    from trtforge_plugins.precision import range_files

    from trtforge.host import Host
    from trtforge.recipe_reader import parse

    host = Host()
    names = {"model": "m.onnx", "arrays": "a.npy", "ranges": "ranges.cache"}
    read = {"model": load_and_use, "arrays": read_all, "ranges": range_files.read}

    def one(data: bytes) -> None:
        if reader == "bundles":
            read_bundle(data, folder)
            return
        if reader == "recipe":
            parse(data.decode("utf-8", "replace"), host, "fuzz.yaml")
            return
        packed = reader == "arrays" and data.startswith(b"PK")
        path = folder / ("a.npz" if packed else names[reader])
        path.write_bytes(data)
        read[reader](path)

    return one


def fuzz(reader: str, arguments: list[str]) -> None:
    """Fuzz one reader; never returns, as libFuzzer ends the process itself."""
    import atheris

    logging.disable()  # onnx-ir tells of each value that is missing
    with atheris.instrument_imports(include=["trtforge", "trtforge_plugins"]):
        from trtforge.errors import TrtforgeError

        folder = TemporaryDirectory(prefix="trtforge-fuzz-")
        one = reading(reader, Path(folder.name))

    def test(data: bytes) -> None:
        refusal = None
        try:
            one(data)
        except TrtforgeError as error:
            refusal = error
        if refusal is not None and not (refusal.code and refusal.remedy):
            raise ValueError(f"an error without code or remedy: {refusal.what}")

    atheris.Setup([sys.argv[0], *arguments], test)
    atheris.Fuzz()


def run_properties(examples: int) -> dict[str, Any]:
    """Run the property tests with new examples, and return what became of them."""
    tests = ROOT / "tests" / "test_fuzz.py"
    line = [sys.executable, "-m", "pytest", "-q", "--no-cov", "--timeout=1200", str(tests)]
    line += ["--hypothesis-profile=nightly", "-rf", "-p", "no:cacheprovider"]
    print(f"{PROPERTIES}: {examples} examples", flush=True)
    started = time.monotonic()
    many = {**os.environ, "TRTFORGE_FUZZ_EXAMPLES": str(examples)}
    done = subprocess.run(line, check=False, cwd=ROOT, env=many, stdout=subprocess.PIPE)
    told = done.stdout.decode(errors="replace")
    print(told)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started),
        "inputs": examples * len(re.findall(r"^@fuzzed$", tests.read_text(), re.MULTILINE)),
        "status": done.returncode,
        "found": re.findall(r"^FAILED \S+::(\S+)", told, re.MULTILINE),
    }


def run(reader: str, seconds: int, keep: Path) -> dict[str, Any]:
    """Fuzz one reader in a process of its own and return what became of it."""
    corpus = keep / reader
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(reader)):
        (corpus / f"seed{number}").write_bytes(seed)
    line = [sys.executable, __file__, "--only", reader, f"-max_total_time={seconds}", *LIMITS]
    line += [f"-artifact_prefix={keep / reader}-", str(corpus)]
    print(f"{reader}: {seconds} s", flush=True)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(line, check=False, env=quiet, stderr=subprocess.PIPE)
    told = done.stderr.decode(errors="replace")
    sys.stderr.write(told)
    count = re.search(r"number_of_executed_units:\s*(\d+)", told)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "inputs": int(count[1]) if count else None,
        "status": done.returncode,
        "found": sorted(path.name for path in keep.glob(f"{reader}-*")),
    }


def added(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return one entry for two runs of the same part."""
    sums = {name: (before[name] or 0) + (now[name] or 0) for name in ("seconds", "inputs")}
    found = sorted({*before["found"], *now["found"]})
    return {**now, **sums, "status": before["status"] or now["status"], "found": found}


def write(result: Path, found: Mapping[str, Mapping[str, Any]], *, add: bool) -> None:
    """Put what was found into ``result``, beside the parts that were fuzzed earlier."""
    known = json.loads(result.read_text())["readers"] if result.is_file() else {}
    if add:
        found = {
            name: added(known[name], each) if name in known else each
            for name, each in found.items()
        }
    packages = ("trtforge", "atheris", "onnx-ir", "numpy")
    data = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in packages},
        "readers": {**known, **found},
    }
    result.write_text(json.dumps(data, indent=1) + "\n")


def main() -> int:
    """Fuzz everything, or one part of it."""
    sys.path.insert(0, str(ROOT / "tests"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--only", choices=(*READERS, PROPERTIES), metavar="PART")
    parser.add_argument("--keep", type=Path, default=Path("fuzz"), metavar="FOLDER")
    parser.add_argument("--result", type=Path, metavar="FILE")
    parser.add_argument("--add", action="store_true")
    asked, rest = parser.parse_known_args()
    if rest and asked.only:  # libFuzzer's own arguments, or files to read again
        fuzz(asked.only, rest)
    wanted = [asked.only] if asked.only else [PROPERTIES, *READERS]
    share = asked.seconds // len([part for part in wanted if part != PROPERTIES] or wanted)
    found = {
        part: run_properties(asked.examples) if part == PROPERTIES else run(part, share, asked.keep)
        for part in wanted
    }
    if asked.result:
        write(asked.result, found, add=asked.add)
    failed = [part for part, outcome in found.items() if outcome["status"]]
    print(f"failed: {', '.join(failed)}" if failed else "nothing was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
