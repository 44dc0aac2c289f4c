"""The charts of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pipeline.report.chart_style import HALF, SERIES, WIDE, Shape, chart, colour, series_colour
from pipeline.report.numbers import duration, plain
from pipeline.report.sketch import Sketch
from pipeline.report.time_axis import Floats

_ROW = 30.0
_LABEL_LETTERS = 26


@dataclass(frozen=True)
class Bar:
    """One bar. spread: the 5th, 25th, 75th and 95th percentile, None where one value is all there is; dots: single
    values, such as those of nodes."""

    label: str
    value: float
    text: str
    spread: tuple[float, float, float, float] | None = None
    dots: Sequence[float] = ()


def bar_chart(name: str, label: str, bars: Sequence[Bar], axis: str) -> Markup:
    """Horizontal bars with their distributions, the first on top."""
    return chart(name, label, HALF, lambda shape: 44 + len(bars) * _row(shape), lambda a, s: _bars(a, s, bars, axis))


def _row(shape: Shape) -> float:
    return _ROW + (16 if shape.narrow else 4)


def _bars(axes: Axes, shape: Shape, bars: Sequence[Bar], axis: str) -> None:
    places = np.arange(len(bars))[::-1]
    values = [bar.value for bar in bars]
    thick = 0.42 if shape.narrow else 0.62
    axes.barh(places, values, height=thick, color=colour("accent"), alpha=0.55)
    for place, bar in zip(places, bars, strict=True):
        if bar.spread is not None:
            low, first, third, high = bar.spread
            axes.plot([low, high], [place, place], color=colour("ink"), linewidth=1.2)
            axes.plot([first, third], [place, place], color=colour("ink"), linewidth=4, solid_capstyle="butt")
        axes.plot(bar.dots, [place] * len(bar.dots), "o", color=colour("ink"), markersize=2.6, alpha=0.6)
    ends = [max([bar.value, *(bar.spread or ()), *bar.dots]) for bar in bars]
    most = max(ends) or 1.0
    for place, bar, end in zip(places, bars, ends, strict=True):
        axes.text(end + 0.02 * most, place, bar.text, va="center", ha="left")
    axes.set_xlim(0, most * (1.32 if shape.narrow else 1.24))
    axes.set_ylim(-0.6, len(bars) - 0.3 if shape.narrow else len(bars) - 0.4)
    _row_labels(axes, shape, places, [bar.label for bar in bars], thick)
    _value_axis(axes, axis)


def _row_labels(axes: Axes, shape: Shape, places: NDArray[np.int64], labels: Sequence[str], thick: float) -> None:
    """Beside the rows, or above them where there is little room."""
    if not shape.narrow:
        axes.set_yticks(places, [_short(label) for label in labels])
        return
    axes.set_yticks([])
    for place, label in zip(places, labels, strict=True):
        axes.text(0, place + thick / 2 + 0.06, " " + _short(label, 44), va="bottom", ha="left",
                  transform=axes.get_yaxis_transform())  # fmt: skip


def _value_axis(axes: Axes, label: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _short(label: str, letters: int = _LABEL_LETTERS) -> str:
    return label if len(label) <= letters else label[: letters - 1] + "…"


@dataclass(frozen=True)
class Change:
    """A difference with its limits, all in one unit. marked: stands out."""

    label: str
    value: float
    low: float
    high: float
    marked: bool


def change_chart(label: str, rows: Sequence[Change], axis: str) -> Markup:
    """Differences to both sides of nothing, the first on top."""
    return chart(
        "changes", label, WIDE, lambda shape: 44 + len(rows) * _row(shape), lambda a, s: _changes(a, s, rows, axis)
    )


def _changes(axes: Axes, shape: Shape, rows: Sequence[Change], axis: str) -> None:
    places = np.arange(len(rows))[::-1]
    axes.axvline(0, color=colour("muted"), linewidth=1)
    for place, row in zip(places, rows, strict=True):
        shade = colour("accent" if row.marked else "muted")
        axes.plot([row.low, row.high], [place, place], color=shade, linewidth=1.6)
        axes.plot([row.value], [place], "o", color=shade, markersize=6)
    axes.set_ylim(-0.6, len(rows) - 0.3 if shape.narrow else len(rows) - 0.4)
    _row_labels(axes, shape, places, [row.label for row in rows], 0.42)
    _value_axis(axes, axis)


def throughput_chart(
    label: str, edges: Floats, layers: Sequence[tuple[str, Floats]], cuts: Sequence[float], marks: "Sequence[MarkRow]"
) -> Markup:
    """Images per second over time, stacked; below, what came and went."""

    def draw(axes: Axes, shape: Shape) -> None:
        _throughput(axes, shape, edges, layers, cuts, marks)

    return chart("throughput", label, WIDE, lambda shape: 260 + 22 * len(marks), draw)


@dataclass(frozen=True)
class MarkRow:
    """Moments of one kind, seconds on the axis of the chart. how_many: at each moment."""

    label: str
    colour: str
    symbol: str
    at: Sequence[float]
    how_many: Sequence[int]


def _throughput(
    axes: Axes,
    shape: Shape,
    edges: Floats,
    layers: Sequence[tuple[str, Floats]],
    cuts: Sequence[float],
    marks: Sequence[MarkRow],
) -> None:
    base = np.zeros(len(edges) - 1)
    for number, (_, rates) in enumerate(layers):
        axes.stairs(base + rates, edges, baseline=base, fill=True, color=series_colour(number), alpha=0.85, linewidth=0)
        base = base + rates
    top = float(base.max()) * 1.08 or 1.0
    row = top * 22 / 210
    for number, kind in enumerate(marks):
        height = -row * (number + 0.8)
        axes.scatter(kind.at, [height] * len(kind.at), marker=kind.symbol, s=34, color=colour(kind.colour), zorder=3)
        for at, how_many in zip(kind.at, kind.how_many, strict=True):
            if how_many > 1 and len(kind.at) <= 12:
                axes.annotate(f"{how_many:,}", (at, height), (5, 0), textcoords="offset points", va="center", size=10.5)
    for cut in cuts:
        axes.axvline(cut, color=colour("muted"), linewidth=1, linestyle=(0, (2, 3)))
    axes.axhline(0, color=colour("grid"), linewidth=1)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-row * (len(marks) + 0.4) if marks else 0, top)
    _time_ticks(axes, float(edges[-1]), shape)
    ticks = MaxNLocator(4).tick_values(0, top)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if 0 <= tick <= top]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.tick_params(axis="y", labelcolor=colour("muted"))
    axes.set_ylabel("images/s")
    axes.set_xlabel("time of work since the start")
    axes.grid(axis="y")
    axes.spines[["left", "bottom"]].set_visible(False)


_STEPS_S = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)


def _time_ticks(axes: Axes, length: float, shape: Shape) -> None:
    wanted = length / (4 if shape.narrow else 8)
    step = next((step for step in _STEPS_S if step >= wanted), 86400 * max(1, round(wanted / 86400)))
    axes.xaxis.set_major_locator(FixedLocator(np.arange(0, length * 1.0001, step).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))


def splits_chart(label: str, rows: Sequence[tuple[str, dict[str, float]]]) -> Markup:
    """Shares of time, stacked, a row for each node type; rows: (label, share by split)."""

    def draw(axes: Axes, shape: Shape) -> None:
        places = np.arange(len(rows))[::-1]
        thick = 0.42 if shape.narrow else 0.62
        left = np.zeros(len(rows))
        for split in rows[0][1]:
            shares = np.array([100 * shares[split] for _, shares in rows])
            axes.barh(places, shares, left=left, height=thick, color=colour(split))
            for place, share, start in zip(places, shares, left, strict=True):
                if share >= (9 if shape.narrow else 6):
                    axes.text(start + share / 2, place, f"{share:.0f} %", va="center", ha="center",
                              color=colour("surface"))  # fmt: skip
            left = left + shares
        axes.set_xlim(0, 100)
        axes.set_ylim(-0.6, len(rows) - 0.3 if shape.narrow else len(rows) - 0.4)
        _row_labels(axes, shape, places, [name for name, _ in rows], thick)
        _value_axis(axes, "% of the time that the cards were there")

    return chart("splits", label, WIDE, lambda shape: 44 + len(rows) * _row(shape), draw)


def latency_chart(label: str, cards: Sequence[tuple[str, Sketch]]) -> Markup:
    """How model seconds of an image are distributed, a ridge for each card, on one logarithmic axis."""
    low = min(sketch.quantiles([0.001])[0] for _, sketch in cards) * 1000 / 1.25
    high = max(sketch.quantiles([0.999])[0] for _, sketch in cards) * 1000 * 1.25

    def draw(axes: Axes, shape: Shape) -> None:
        _ridges(axes, shape, cards, low, high)

    return chart("latency", label, WIDE, lambda shape: 50 + len(cards) * (64 if shape.narrow else 48), draw)


def _ridges(axes: Axes, shape: Shape, cards: Sequence[tuple[str, Sketch]], low: float, high: float) -> None:
    edges = np.geomspace(low, high, 90)
    places = np.arange(len(cards))[::-1]
    floor, height = (-0.36, 0.5) if shape.narrow else (-0.3, 0.72)
    for number, (place, (_, sketch)) in enumerate(zip(places, cards, strict=True)):
        counts = sketch.histogram(edges / 1000)
        base = place + floor
        heights = base + height * counts / max(1, counts.max())
        axes.stairs(heights, edges, baseline=base, fill=True, color=series_colour(number), alpha=0.75)
        fifth, median, late = (1000 * value for value in sketch.quantiles([0.05, 0.5, 0.95]))
        axes.plot([fifth, late], [base - 0.08] * 2, color=colour("ink"), linewidth=1.2)
        axes.plot([median], [base - 0.08], "o", color=colour("ink"), markersize=4)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(cards) - 0.4)
    _row_labels(axes, shape, places, [name for name, _ in cards], 0.28)
    axes.xaxis.set_major_locator(FixedLocator(_log_ticks(low, high, 4 if shape.narrow else 8)))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.set_xlabel("milliseconds of the model for an image")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between the two, as many as there is room for."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            return inside
    return inside[:: len(inside) // most + 1]


def score_chart(label: str, stored: NDArray[np.int64], tags: NDArray[np.int64]) -> Markup:
    """Stored scores, and those of them that are tags, over 0 … 1."""
    edges = np.linspace(0, 1, len(stored) + 1)

    def draw(axes: Axes, shape: Shape) -> None:
        axes.stairs(stored, edges, fill=True, color=colour("muted"), alpha=0.45)
        axes.stairs(tags, edges, fill=True, color=colour("accent"))
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        _counted(axes, "score")

    return chart("scores", label, HALF, lambda shape: 230, draw)


def tags_per_image_chart(label: str, images: NDArray[np.int64]) -> Markup:
    """Images by their number of tags; the last bin is for that many and more."""

    def draw(axes: Axes, shape: Shape) -> None:
        last = int(np.flatnonzero(images).max(initial=0)) + 1
        axes.bar(np.arange(last), images[:last], width=0.86, color=colour("accent"))
        axes.set_xlim(-0.6, max(last - 0.4, 4.6))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _counted(axes, f"tags of an image ({len(images) - 1} = or more)" if last == len(images) else "tags of an image")

    return chart("tags-per-image", label, HALF, lambda shape: 230, draw)


def _counted(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.tick_params(axis="y", labelcolor=colour("muted"))
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


MOST_SERIES = SERIES
"""More series than this are put together into a last one."""
