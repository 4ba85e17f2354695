"""What the rows of ``real_graphs.py`` add up to, and the table of them in docs/conversion.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, log
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conversion.md"
START, END = "<!-- real graphs: written by benchmarks/real_graphs.py -->", "<!-- end of graphs -->"
TOOLS = ("raw", "trtforge", "onnxsim", "onnxslim")
Row = Mapping[str, Any]


def good(row: Row, tool: str) -> bool:
    """Whether the tool's model was built, and has the right outputs."""
    found = row.get(tool, {})
    return bool(found.get("built") and found.get("equal"))


def summarize(rows: Iterable[Row]) -> dict[str, Any]:
    """Return, per tool: what was built and equal, and its engines beside those of the raw export.

    Engines are compared where both the raw export and the tool's model were built and are equal.
    """
    exported = [row for row in rows if not row.get("left_out")]
    return {
        "architectures": len({row["architecture"] for row in exported}),
        "graphs": len(exported),
        **{tool: _of_tool(exported, tool) for tool in TOOLS},
    }


def _of_tool(rows: list[Row], tool: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "built": sum(bool(row.get(tool, {}).get("built")) for row in rows),
        "equal": sum(bool(row.get(tool, {}).get("equal")) for row in rows),
        "built and equal": sum(good(row, tool) for row in rows),
    }
    if tool == "raw":
        return result
    both = [row for row in rows if good(row, "raw") and good(row, tool)]
    for figure in ("layers", "activation"):
        pairs = {_name(row): (row[tool][figure], row["raw"][figure]) for row in both}
        result[figure] = {
            "fewer than raw": sum(here < raw for here, raw in pairs.values()),
            "as many": sum(here == raw for here, raw in pairs.values()),
            "more than raw": [name for name, (here, raw) in pairs.items() if here > raw],
            "ratio": _mean_ratio(pairs.values()),
        }
    return result


def _name(row: Row) -> str:
    return f"{row['architecture']}.{row['exporter']}"


def _mean_ratio(pairs: Iterable[tuple[int, int]]) -> float:
    """Return the geometric mean of the ratios."""
    logs = [log(here / raw) for here, raw in pairs if here and raw]
    return round(exp(sum(logs) / len(logs)), 4) if logs else 1.0


def table(rows: list[Row]) -> str:
    """Return the summary and each graph as Markdown."""
    summary = summarize(rows)
    lines = [
        f"{summary['architectures']} architectures, {summary['graphs']} exported graphs.",
        "",
        (
            "| | built | equal | layers: fewer / as many / more | ratio |"
            " activation memory: less / as much / more | ratio |"
        ),
        "|---|---|---|---|---|---|---|",
        *(_tool_line(tool, summary[tool]) for tool in TOOLS),
        "",
        (
            "Engine layers and activation memory (KiB) of each graph; `-`: not built, `≠`: other"
            " outputs."
        ),
        "",
        "| graph | exporter | raw | trtforge | onnxsim | OnnxSlim |",
        "|---|---|---|---|---|---|",
        *(_graph_line(row) for row in rows),
    ]
    return "\n".join(lines)


def _tool_line(tool: str, found: Mapping[str, Any]) -> str:
    cells = [tool, str(found["built"]), str(found["equal"])]
    for figure in ("layers", "activation"):
        if figure in found:
            each = found[figure]
            counts = each["fewer than raw"], each["as many"], len(each["more than raw"])
            cells += [" / ".join(map(str, counts)), f"{each['ratio']:.3f}"]
        else:
            cells += ["", ""]
    return f"| {' | '.join(cells)} |"


def _graph_line(row: Row) -> str:
    start = f"| {row['architecture']} | {row['exporter']} |"
    if row.get("left_out"):
        return f"{start} not exported: {row['left_out'].replace('|', '/')[:120]} | | | |"
    return f"{start} {' | '.join(_cell(row.get(tool, {})) for tool in TOOLS)} |"


def _cell(found: Mapping[str, Any]) -> str:
    if not found.get("built"):
        return "-" if found.get("equal", True) else "- ≠"
    sign = "" if found["equal"] else " ≠"
    return f"{found['layers']}, {found['activation'] / 1024:.0f}{sign}"


def write_page(rows: list[Row]) -> None:
    """Put the table between its markers in docs/conversion.md."""
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.partition(END)[2]}")
