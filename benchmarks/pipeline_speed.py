"""Time and memory of the recipe ``convert`` beside onnxsim and OnnxSlim, from file to file.

    python benchmarks/pipeline_speed.py --limit 60 --out benchmarks/results/pipeline_speed.json
    ... --python onnxsim=PEERS/bin/python --python onnxslim=PEERS/bin/python

It prints a table at its end; ``--limit 60`` keeps it short, as the other tools do not end with the
largest graphs within minutes.

Each tool runs as a whole process on the same file, in turn: ``onnxsim in out`` and ``onnxslim in
out`` as they are after installation, and ``trtforge run convert`` twice: ``trtforge`` is without
the comparison at the end (``--no-compare``; the other tools compare nothing either, unless asked
to), ``trtforge-compare`` is the default, which runs both models under ONNX Runtime. Both write the
report and the step cache, each time into an empty one. All tools find their bytecode compiled, as
after an installation, also where the environment forbids Python to write it.

The graphs have 1 to 50 thousand nodes (``tests/noisy_graphs.py``), one has 3 GB of weights
(``large_model.py``). A tool that takes longer than ``--limit`` seconds is stopped and not tried on
larger graphs of that kind. What each tool wrote in the first round is run beside the given model
under ONNX Runtime; ``difference`` is the largest one, relative to the largest output.

Figures: median wall time; ``beyond_start``, that time less the tool's time on a model of one node;
median processor time of all threads, which says more on a machine that does other things too; peak
resident memory as the kernel counts it (``ru_maxrss``, mapped file pages included).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
NOISY = HERE.parent / "tests" / "noisy_graphs.py"
OURS = ("trtforge", "trtforge-compare")
TOOLS = (*OURS, "onnxsim", "onnxslim")
NODES = (1_000, 5_000, 20_000, 50_000)
KINDS = ("transformer", "cnn")
START = "one node"
LARGE = "3 GB"
LONG = 10.0
"""Seconds; what takes longer is run once, as noise of seconds does not matter there."""
# This process stays small: a child's ru_maxrss counts what its parent held when it was started.
MAKE_LARGE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from large_model import make_model
make_model(int(sys.argv[3]), Path(sys.argv[2]))
"""
COMPARE = """
import sys
import numpy as np
import onnxruntime as ort

def outputs(path, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if feeds is None:
        value = session.get_inputs()[0]
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        feeds = {value.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    return feeds, session.run(None, feeds)

feeds, given = outputs(sys.argv[1], None)
_, made = outputs(sys.argv[2], feeds)
assert all(a.shape == b.shape and np.isfinite(a).all() for a, b in zip(given, made, strict=True))
print(max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(given, made, strict=True)))
"""


@dataclass
class Measured:
    """What one tool needed on one model."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    difference: float | None = None
    failure: str = ""

    def row(self, start: float | None) -> dict[str, Any]:
        """Return the figures; ``start`` is the tool's time on a model of one node."""
        if self.failure or not self.seconds:
            return {"failure": self.failure}
        seconds = median(self.seconds)
        return {
            "seconds": round(seconds, 3),
            "beyond_start": None if start is None else round(seconds - start, 3),
            "processor": round(median(self.processor), 3),
            "runs": len(self.seconds),
            "peak_mb": round(max(self.peaks) / 1e6),
            "difference": self.difference,
        }


def command(tool: str, python: str, model: Path, out: Path) -> tuple[list[str], Path]:
    """Return the command by which a user runs ``tool``, and where the result will lie."""
    if tool in OURS:
        code = "from trtforge.cli import main; main()"
        options = ["--out", str(out / "run"), *(["--no-compare"] if tool == "trtforge" else [])]
        words = ["run", "convert", "--model", str(model), *options]
        return [python, "-c", code, *words], out / "run" / "model.onnx"
    result = out / "model.onnx"
    script = Path(python).with_name(tool)  # the command that its installation puts there
    return [str(script), str(model), str(result)], result


def measure(words: list[str], limit: float, folder: Path, own: Measured) -> None:
    """Run a command and add to ``own`` what it needed, or why it failed."""
    environment = {
        **os.environ,
        "TRTFORGE_CACHE": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode"),
    }
    with (folder / "log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        stop = started + limit
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if time.perf_counter() > stop:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        _, status, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    own.seconds.append(seconds)
    own.processor.append(usage.ru_utime + usage.ru_stime)
    own.peaks.append(usage.ru_maxrss * unit)
    if seconds > limit:
        own.failure = f"stopped after {limit:.0f} s"
    elif status:
        last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
        code = os.waitstatus_to_exitcode(status)
        own.failure = f"ended with {code}: {''.join(last)[:200]}"


def difference(given: Path, made: Path) -> tuple[float | None, str]:
    """Return how much outputs differ under ONNX Runtime, and why they could not be compared."""
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(given), str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return None, f"result is not equal: {done.stderr.strip().splitlines()[-1][:200]}"
    return float(done.stdout), ""


def race(
    model: Path, tools: list[str], options: argparse.Namespace, folder: Path
) -> dict[str, Measured]:
    """Run all tools on one model in turn, ``options.rounds`` times; one that failed rests."""
    measured = {tool: Measured() for tool in tools}
    for number in range(options.rounds):
        for tool in tools:
            own = measured[tool]
            if own.failure or (own.seconds and own.seconds[0] > LONG):
                continue
            place = folder / "work"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            words, result = command(tool, options.pythons[tool], model, place)
            measure(words, options.limit, place, own)
            if not own.failure and number == 0:
                own.difference, own.failure = difference(model, result)
            figures = f"{own.seconds[-1]:8.2f} s {own.peaks[-1] / 1e6:6.0f} MB"
            print(f"{model.parent.name:20} {tool:18} {figures} {own.failure}", flush=True)
    return measured


def make(case: str, folder: Path) -> Path:
    """Write the model of ``case`` and return its path."""
    place = folder / case.replace(" ", "-")
    place.mkdir()
    path = place / "model.onnx"
    if case == LARGE:
        words = ["-c", MAKE_LARGE, str(HERE), str(place), str(3 * 10**9)]
    elif case == START:
        words = [str(NOISY), "start", "1", str(path)]
    else:
        kind, _, nodes = case.partition(" ")
        words = [str(NOISY), kind, nodes, str(path)]
    subprocess.run([sys.executable, *words], check=True)
    return path


def all_cases(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure all models, small ones first."""
    rows: list[dict[str, Any]] = []
    starts: dict[str, float] = {}
    given_up: set[tuple[str, str]] = set()
    cases = [START, *(f"{kind} {nodes}" for kind in KINDS for nodes in options.nodes)]
    for case in [*cases, *([] if options.no_large else [LARGE])]:
        kind = case.partition(" ")[0]
        model = make(case, folder)
        if case == START:  # each tool once without counting, which compiles its bytecode
            race(model, list(TOOLS), argparse.Namespace(**{**vars(options), "rounds": 1}), folder)
        tools = [tool for tool in TOOLS if (kind, tool) not in given_up]
        measured = race(model, tools, options, folder)
        shutil.rmtree(model.parent)
        if case == START:
            starts = {tool: median(own.seconds) for tool, own in measured.items()}
        given_up |= {(kind, tool) for tool, own in measured.items() if own.failure}
        figures = {tool: own.row(starts.get(tool)) for tool, own in measured.items()}
        rows.append({"model": case, **figures, "best_peer": best_peer(figures)})
    return rows


def best_peer(figures: dict[str, dict[str, Any]]) -> dict[str, float] | None:
    """Return our time and memory over those of the better peer; below 1 is quicker, smaller."""
    peers = [row for tool, row in figures.items() if tool not in OURS and "seconds" in row]
    if not peers:
        return None
    ratios = {}
    for tool in OURS:
        for key in ("seconds", "processor", "peak_mb"):
            if key in figures[tool]:
                least = min(row[key] for row in peers)
                ratios[f"{tool} {key}"] = round(figures[tool][key] / least, 2)
    return ratios


def table(rows: list[dict[str, Any]]) -> str:
    """Return seconds and MB of each tool on each model, and ours over those of the better peer."""
    lines = [f"{'':20}" + "".join(f"{tool:>20}" for tool in TOOLS) + f"{'of the better peer':>22}"]
    for row in rows:
        cells = [f"{row['model']:20}", *(_cell(row.get(tool, {})) for tool in TOOLS)]
        ratios = row["best_peer"] or {}
        kept = [ratios.get(f"trtforge {figure}", "-") for figure in ("seconds", "peak_mb")]
        lines.append("".join(cells) + f"{f'{kept[0]} time {kept[1]} memory':>22}")
    return "\n".join(lines)


def _cell(figures: dict[str, Any]) -> str:
    if "seconds" not in figures:
        return f"{figures.get('failure', 'not tried')[:18]:>20}"
    return f"{figures['seconds']:.2f} s {figures['peak_mb']} MB".rjust(20)


def versions(pythons: dict[str, str]) -> dict[str, str]:
    """Return the version of each tool, as its own interpreter finds it."""
    found = {}
    for tool in ("trtforge", "onnxsim", "onnxslim"):
        code = f"from importlib.metadata import version; print(version({tool!r}))"
        done = subprocess.run([pythons[tool], "-c", code], capture_output=True, check=True)
        found[tool] = done.stdout.decode().strip()
    return found


def main() -> None:
    """Measure everything, print it, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES, help="none: only 3 GB")
    parser.add_argument("--limit", type=float, default=100.0, help="seconds per run")
    parser.add_argument("--no-large", action="store_true", help="leave the 3 GB model out")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=EXE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chosen = dict(text.split("=", 1) for text in options.python)
    options.pythons = {tool: chosen.get(tool, sys.executable) for tool in TOOLS}
    with TemporaryDirectory(prefix="trtforge-pipeline-") as folder:
        rows = all_cases(options, Path(folder))
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": versions(options.pythons),
        "rounds": options.rounds,
        "limit_s": options.limit,
        "rows": rows,
    }
    text = json.dumps(result, indent=2) + "\n"
    print(table(rows))
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
