"""Draws docs/architecture.svg: where the parts of a run are, and what goes from one to the other."""

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PICTURE = Path(__file__).parents[1] / "architecture.svg"
_INK, _CODE, _STORE, _NODE, _ALERT = "#1f2430", "#dbe7f6", "#e6f0df", "#f4f4f1", "#b3432b"
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "architecture", "font.family": "sans-serif"})


def draw() -> None:
    """Write the picture; the same bytes every time."""
    figure = Figure(figsize=(11, 6.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 110), ylim=(0, 66))
    axes.set_axis_off()
    _nodes(axes)
    _stores(axes)
    _ways(axes)
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None}, facecolor="white")


_FLEET = "one actor: keeps replicas\nalive, leases them, takes\nover from the dead"
_WORKER = (
    "fetch: many at once, limits, retries\n\ndecode, resize to uint8\n\nhand over: lease, send,\nawait tags, commit"
)


def _nodes(axes: Axes) -> None:
    _frame(axes, 2, 24, 31, 39, "the driver's node")
    _box(axes, 4, 47, 27, 11, "driver", "plans, feeds pending chunks\nin waves, finalizes", _CODE)
    _box(axes, 9, 27, 22, 13, "Fleet", _FLEET, _CODE)
    _frame(axes, 38, 24, 70, 39, "every node, also those that come later")
    _box(axes, 40, 29, 30, 27, "ChunkWorker, on the CPUs", _WORKER, _CODE)
    _box(axes, 80, 44, 26, 12, "replica, on a card", "the model; micro-batch and\nnumber type of the card", _CODE)
    _box(axes, 80, 29, 26, 12, "replica, on another", "as many as the card\ncan hold", _CODE)


def _stores(axes: Axes) -> None:
    _frame(axes, 2, 2, 106, 16, "")
    axes.text(25.5, 15.4, "the run folder, local or a bucket", fontsize=9, style="italic", color=_INK)
    _box(axes, 4, 4, 20, 10, "plan/", "once, hashed:\nrows and chunks", _STORE)
    _box(axes, 38, 4, 28, 10, "chunks/0000042.g0.parquet", "created only if absent:\nthe only commit point", _STORE)
    _box(axes, 69, 4, 13, 10, "events/", "append-only", _STORE)
    _box(axes, 85, 4, 21, 10, "tags/ rejects/ …", "run.json, report.html", _STORE)


def _ways(axes: Axes) -> None:
    _arrow(axes, (6.5, 47), (6.5, 14), "1 plan", (7.3, 20.7))
    _arrow(axes, (31, 53), (40, 53), "2 ids", (33.6, 54.4))
    _arrow(axes, (40, 36), (31, 36), "3 lease", (33.2, 37.4), both=True)
    _arrow(axes, (70, 50), (80, 50), "4 pixels", (72.2, 51.6), both=True)
    _arrow(axes, (70, 35), (80, 35), "scores", (72.6, 36.6), both=True)
    _arrow(axes, (52, 29), (52, 14), "5 commit", (53, 20.7), _ALERT)
    _arrow(axes, (96, 20), (96, 14), "", (0, 0))
    axes.text(69, 20.7, "6 finalize: a function of plan, chunks and events", fontsize=9, color=_INK)


def _frame(axes: Axes, x: float, y: float, width: float, height: float, title: str) -> None:
    _patch(axes, x, y, width, height, _NODE, 0.6)
    axes.text(x + 1.2, y + height - 2.6, title, fontsize=9, style="italic", color=_INK)


def _box(axes: Axes, x: float, y: float, width: float, height: float, title: str, text: str, colour: str) -> None:
    _patch(axes, x, y, width, height, colour, 1.0)
    axes.text(x + width / 2, y + height - 2.6, title, fontsize=10.5, weight="bold", ha="center", color=_INK)
    axes.text(x + width / 2, y + height - 4.2, text, fontsize=9, ha="center", va="top", color=_INK)


def _patch(axes: Axes, x: float, y: float, width: float, height: float, colour: str, line: float) -> None:
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1", fc=colour, ec=_INK, lw=line)
    axes.add_patch(shape)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    at: tuple[float, float],
    colour: str = _INK,
    both: bool = False,
) -> None:
    head = "<|-|>" if both else "-|>"
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle=head, mutation_scale=12, lw=1.4, color=colour))
    axes.text(*at, text, fontsize=9, color=colour)


if __name__ == "__main__":
    draw()
    sys.stdout.write("docs/architecture.svg\n")
