"""What the GPU's counters say of custom ops: why a kernel is not faster.

    python benchmarks/h200_op_counters.py --results benchmarks/results/h200_ops.json
        --out benchmarks/results/h200_op_counters.json [CASE ...]

Launches each case of ``h200_ops.py`` with the tactic that was fastest there, under Nsight Compute
(``ncu``). Clocks and caches are left alone: each launch has buffers of its own, the second is kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
METRICS = {
    "microseconds": "gpu__time_duration.sum",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram_bytes_read": "dram__bytes_read.sum",
    "dram_bytes_written": "dram__bytes_write.sum",
    "l2_percent": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "l1_percent": "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "issue_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "special_function_percent": "smsp__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "warps_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "blocks": "launch__grid_size",
    "threads_of_a_block": "launch__block_size",
    "waves": "launch__waves_per_multiprocessor",
    "stalled_on_memory": STALL.format("long_scoreboard"),
    "stalled_at_barriers": STALL.format("barrier"),
    "stalled_on_arithmetic": STALL.format("math_pipe_throttle"),
    "stalled_on_queue_of_loads": STALL.format("lg_throttle"),
}
"""What is kept of each kernel, by ncu's names; stalls are warps that wait, for each issued one."""
UNITS = {"nsecond": 1e-3, "ns": 1e-3, "usecond": 1, "us": 1, "msecond": 1e3, "ms": 1e3,
         "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}  # fmt: skip


def launch(results: Path, names: list[str], order: Path) -> None:
    """Launch the cases twice, and write down which kernel was which."""
    from h200_op_cases import every_case
    from h200_ops import launchers

    fastest = {r["name"]: r["tactic"] for r in json.loads(results.read_text())["results"]}
    launched = []
    with tempfile.TemporaryDirectory() as folder:
        for case in every_case(["small", "medium", "large"]):
            if case.name in fastest and (not names or case.name in names):
                sets = [case.make() for _ in range(2)]
                for number, call in enumerate(
                    launchers(case, sets, fastest[case.name], Path(folder))
                ):
                    call()
                    launched += [(case.name, number)] * len(call.calls)
    order.write_text(json.dumps(launched))


def counters(results: Path, names: list[str]) -> list[dict[str, Any]]:
    """Return what was counted, a row for each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder, "order.json")
        command = [
            "ncu", "--csv", "--page", "raw", "--metrics", ",".join(METRICS.values()),
            "--clock-control", "none", "--cache-control", "none", "-k", "regex:^trtforge_",
            sys.executable, __file__, "--results", str(results), "--launch", str(order), *names,
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        table = [line for line in done.stdout.splitlines() if line.startswith('"')]
        if done.returncode or not table:
            raise SystemExit(f"ncu ended with exit code {done.returncode}:\n{done.stdout[-3000:]}")
        rows = list(csv.DictReader(table))
        units, rows = rows[0], rows[1:]
        launched = json.loads(order.read_text())
    if len(rows) != len(launched):
        raise SystemExit(f"{len(launched)} kernels were launched, ncu saw {len(rows)}")
    return [
        {"case": case, "kernel": row["Kernel Name"], **_values(row, units)}
        for row, (case, number) in zip(rows, launched, strict=True)
        if number == 1
    ]


def _values(row: dict[str, str], units: dict[str, str]) -> dict[str, float]:
    found = {}
    for name, metric in METRICS.items():
        text = row.get(metric, "").replace(",", "")
        if text:
            found[name] = round(float(text) * UNITS.get(units[metric], 1), 3)
    return found


def main() -> None:
    """Count what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CASE", help="all of the results, else")
    parser.add_argument("--results", type=Path, required=True, help="of h200_ops.py")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.launch:
        launch(args.results, args.names, args.launch)
        return
    measured = json.loads(args.results.read_text())
    rows = counters(args.results, args.names)
    for row in rows:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    if args.out:
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": "python benchmarks/h200_op_counters.py",
            "device": measured["device"], "driver": measured["driver"],
            "metrics": METRICS, "kernels": rows,
        }  # fmt: skip
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
