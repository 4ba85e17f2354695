"""The picture of ``h200_models.py``: how fast trtforge's model is beside the others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TITLES = {"float32": "float32", "float16": "float16", "qdq": "Q/DQ (INT8)"}
BATCHES = {1: ("o", "#0072b2"), 32: ("s", "#d55e00")}
"""Marker and colour, which everybody can tell apart."""
Row = dict[str, Any]


def title(row: Row) -> str:
    """Return what a row is called."""
    return " ".join(str(row[key]) for key in ("model", "precision", "batch") if key in row)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel for each precision, beside the best other tool and beside torch.compile."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "h200_models"
    from matplotlib import pyplot as plt

    timed = [row for row in rows if "ratio" in row]
    names = sorted({row["model"] for row in timed}, reverse=True)
    figure, axes = plt.subplots(
        2, 3, figsize=(11, 2 + 0.5 * len(names)), sharey=True, sharex="row", layout="constrained"
    )
    for column, (precision, head) in enumerate(TITLES.items()):
        mine = [row for row in timed if row["precision"] == precision]
        best = [(row, row["ratio"][row["best"]]) for row in mine]
        compiled = [(r, r["ratio"]["torch.compile"]) for r in mine if "torch.compile" in r["ratio"]]
        axes[0, column].axvline(0.98, color="#999999", linewidth=0.8, linestyle=":")
        _panel(axes[0, column], names, best)
        axes[0, column].set_title(head)
        if compiled:
            _panel(axes[1, column], names, compiled)
        else:
            axes[1, column].set_axis_off()
    axes[0, 0].set_ylabel("beside the best of\nraw, onnxsim, OnnxSlim")
    axes[1, 0].set_ylabel("beside torch.compile")
    axes[0, 0].legend(loc="lower right", frameon=False, fontsize=8)
    figure.supxlabel("speed of trtforge's model under ONNX Runtime (CUDA); above 1 it is faster")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Any, names: Sequence[str], found: Sequence[tuple[Row, list[float]]]) -> None:
    """Draw a point with its confidence interval for each row."""
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for batch, (marker, colour) in BATCHES.items():
        mine = [(row, ratio) for row, ratio in found if row["batch"] == batch]
        places = [names.index(row["model"]) + (0.16 if batch == 1 else -0.16) for row, _ in mine]
        middle = [ratio[0] for _, ratio in mine]
        spread = [[r[0] - r[1] for _, r in mine], [r[2] - r[0] for _, r in mine]]
        axes.errorbar(
            middle, places, xerr=spread, fmt=marker, color=colour, markersize=4.5, linewidth=0.9,
            label=f"batch {batch}",
        )  # fmt: skip
