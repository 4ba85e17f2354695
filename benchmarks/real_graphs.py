"""What becomes of real torch exports: built by TensorRT, equal, how many layers, how much memory.

    python benchmarks/real_graphs.py [--only REGEX] [--work FOLDER] [--python TOOL=EXE] [--jobs 1]

Each architecture of ``benchmarks/architectures`` is exported by both of torch's exporters, with
dynamic axes. TensorRT-RTX then builds it (SM 89, ahead of time, no GPU) as it is, and after
trtforge's ``make_convertible``, onnxsim and OnnxSlim, each run in a process of its own by the
interpreter that has it (``--python onnxsim=/path/to/python``; a tool that is not installed is left
out). The raw export must give torch's outputs under ONNX Runtime, what a tool made of it the raw
export's, at the smallest and at the largest sizes.

Exports are kept in the work folder and rows in ``benchmarks/results/real_graphs.json``: a run that
was broken off goes on where it was, and a graph is measured again only when it changed. A full run
also writes the table in ``docs/conversion.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock, local
from typing import Any

import real_graph_table
from architectures import ARCHITECTURES
from architectures.architecture import EXPORTERS, Architecture, Exporter
from trtforge_plugins.tensorrt import library

from trtforge import TrtforgeError
from trtforge.worker import Job, Worker

RESULT = Path(__file__).resolve().parent / "results" / "real_graphs.json"
LIMIT = 300.0  # seconds for an export, a transformation or a build
TRANSFORM = {
    "trtforge": "import onnx, sys, trtforge;"
    "onnx.save(trtforge.make_convertible(onnx.load(sys.argv[1])), sys.argv[2])",
    "onnxsim": "import onnx, onnxsim, sys;"
    "model, _ = onnxsim.simplify(sys.argv[1]); onnx.save(model, sys.argv[2])",
    "onnxslim": "import onnxslim, sys; onnxslim.slim(sys.argv[1], sys.argv[2])",
}


class Bench:
    """The rows so far, and where files and tools are.

    Args:
        options: The command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.work: Path = options.work
        self.out: Path = options.out
        chosen = dict(each.split("=", 1) for each in options.python)
        self.pythons = {tool: chosen.get(tool, sys.executable) for tool in TRANSFORM}
        self.pythons = {tool: exe for tool, exe in self.pythons.items() if _has(exe, tool)}
        self.threads = local()
        self.lock = Lock()
        self.rows = {_key(row): row for row in self._saved()}

    def _saved(self) -> list[dict[str, Any]]:
        return list(json.loads(self.out.read_text())["rows"]) if self.out.is_file() else []

    def case(self, wanted: Architecture, exporter: Exporter) -> None:
        """Measure one architecture as one exporter writes it, with every tool."""
        row = {"architecture": wanted.name, "family": wanted.family, "exporter": exporter}
        earlier = self.rows.get(_key(row), {})
        if exporter in wanted.left_out:
            self._keep({**row, "left_out": wanted.left_out[exporter]})
            return
        folder = self.work / f"{wanted.name}.{exporter}"
        exported = self._ask(
            "export", {"name": wanted.name, "exporter": exporter, "folder": str(folder)}
        )
        if exported["reason"]:
            self._keep({**row, "left_out": exported["reason"]})
            return
        raw = folder / "raw.onnx"
        row["raw"] = self._measured(folder, "raw", wanted, earlier)
        for tool, python in self.pythons.items():
            started = time.perf_counter()
            failure = transform(python, tool, raw, folder / f"{tool}.onnx")
            seconds = round(time.perf_counter() - started, 2)
            if failure:
                row[tool] = {"built": False, "equal": False, "reason": failure}
            else:
                row[tool] = self._measured(folder, tool, wanted, earlier)
            row[tool]["seconds"] = seconds
        self._keep(row)

    def _measured(
        self, folder: Path, tool: str, wanted: Architecture, earlier: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the row of one model; an earlier one if the model and the export are the same."""
        files = (folder / f"{tool}.onnx", folder / "raw.onnx", folder / "stamp")
        digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        if earlier.get(tool, {}).get("digest") == digest:
            return dict(earlier[tool])
        question = {"folder": str(folder), "tool": tool, "tolerance": wanted.tolerance}
        return {**self._ask("measure", question), "digest": digest}

    def _ask(self, function: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Ask this thread's worker; it starts anew after a crash."""
        kind = f"{function}_worker"
        if not hasattr(self.threads, kind):
            setattr(self.threads, kind, Worker(environment=library.find("auto").variables()))
        title = f"{payload.get('name', '')}{Path(payload['folder']).name}"
        log = Path(payload["folder"]).with_suffix(f".{payload.get('tool', 'export')}.log")
        job = Job(f"real_graph_jobs:{function}", payload, title, log, LIMIT)
        try:
            return dict(getattr(self.threads, kind).call(job))
        except TrtforgeError as error:
            return {"built": False, "equal": False, "reason": f"CRASH: {error.what}"}

    def _keep(self, row: dict[str, Any]) -> None:
        with self.lock:
            self.rows[_key(row)] = row
            order = [f"{each.name}.{exporter}" for each in ARCHITECTURES for exporter in EXPORTERS]
            rows = [self.rows[key] for key in order if key in self.rows]
            self.out.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.out.with_suffix(".part")
            fresh.write_text(document(rows))
            fresh.replace(self.out)
        print(_line(row), flush=True)


def transform(python: str, tool: str, model: Path, result: Path) -> str:
    """Let a tool rewrite ``model`` into ``result``; return why it failed, or ""."""
    result.unlink(missing_ok=True)
    command = [python, "-c", TRANSFORM[tool], str(model), str(result)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return f"did not end within {LIMIT:g} seconds"
    if done.returncode or not result.is_file():
        words = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        return f"exit {done.returncode}: {words[:200]}"
    return ""


def document(rows: list[dict[str, Any]]) -> str:
    """Return the result file: the summary, and a line for each row."""
    head = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "tensorrt-rtx")},
        "target": "sm_89",
        "machine": f"{os.cpu_count()} cores, no GPU",
        "summary": real_graph_table.summarize(rows),
    }
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n'


def _key(row: dict[str, Any]) -> str:
    return f"{row['architecture']}.{row['exporter']}"


def _has(python: str, tool: str) -> bool:
    command = [python, "-c", f"import {tool}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _line(row: dict[str, Any]) -> str:
    parts = [_key(row), row.get("left_out", "")]
    for tool in real_graph_table.TOOLS:
        if tool in row:
            found = row[tool]
            figures = f"{found.get('layers', '-')} {found.get('activation', '-')}"
            parts.append(f"{tool}: {figures} {found['reason'][:160]}".strip())
    return " | ".join(filter(None, parts))


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression on name.exporter")
    parser.add_argument("--work", type=Path, default=Path("real-graphs"), help="keeps the exports")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=EXE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bench = Bench(options)
    cases = [(each, exporter) for each in ARCHITECTURES for exporter in EXPORTERS]
    wanted = [case for case in cases if re.search(options.only, f"{case[0].name}.{case[1]}")]
    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(lambda case: bench.case(*case), wanted):
            pass
    print(json.dumps(json.loads(options.out.read_text())["summary"], indent=1))
    if not options.only and options.out == RESULT:
        real_graph_table.write_page(json.loads(options.out.read_text())["rows"])


if __name__ == "__main__":
    main()
