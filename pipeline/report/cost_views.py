"""What a run cost and where its time went, as charts and tables of its page; and what had been quoted beside it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.costs.ledger import SPLITS, Ledger, LedgerRow
from pipeline.report import charts
from pipeline.report.charts import Bar
from pipeline.report.document import Report
from pipeline.report.numbers import duration, money, plain, share, unit
from pipeline.report.predicted import PER_MONEY, Figure, Predicted
from pipeline.report.sketch import Sketch

NO_PRICES = "no price is known for these nodes: give --prices with one (docs/costs.md)"
NO_QUOTE = (
    "No quote is kept with this run: `ramfleet quote … --json > quote.json` before it, then `ramfleet tag … --quote "
    "quote.json`, or `ramfleet report RUN --quote quote.json`."
)

Spread = tuple[float, float, float, float]
"""Of a bar: the ends of its line, and of the thick part of it, as `charts.Bar` has them."""

_MOST_BARS = 24
_MOST_NODES = 500
_MOST_DOTS = 60
_SPREAD = (0.05, 0.25, 0.75, 0.95)

SPLIT_NAMES = {
    "busy": "busy: the model at work on what was committed",
    "load": "load: replicas starting",
    "retried": "retried: work that came to nothing on a living replica",
    "preempted": "preempted: in hand when the node went",
    "wasted": "wasted: in hand when the process died",
    "idle": "idle: waiting",
}


def rate_chart(report: Report, ledger: Ledger) -> Markup | None:
    """Images per second of one busy card, by node type."""
    bars = _bars(ledger, "images_per_s", lambda row: _rate_spread(report, row))
    return _bar_chart("rates", "Images per second of one busy card", bars, "images/s of a busy card")


def money_chart(ledger: Ledger) -> Markup | None:
    """Images for one unit of money, by node type."""
    what = f"images for {unit(ledger.currency)}"
    bars = _bars(ledger, "images_per_dollar", lambda row: _node_spread(ledger, row))
    return _bar_chart("money", f"Images for {unit(ledger.currency)}", bars, what)


def _bars(ledger: Ledger, figure: str, spread: Callable[[LedgerRow], Spread | None]) -> list[Bar]:
    """One for each node type that has the figure, the highest first."""
    known = [(getattr(row, figure), row) for row in ledger.rows_by_type if getattr(row, figure)]
    known.sort(key=lambda pair: -pair[0])
    return [
        Bar(row.key, value, plain(value), spread(row), _dots(ledger, row, figure)) for value, row in known[:_MOST_BARS]
    ]


def _bar_chart(name: str, title: str, bars: Sequence[Bar], axis: str) -> Markup | None:
    if not bars:
        return None
    said = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    return charts.bar_chart(name, f"{title}. {said}", bars, axis)


def _rate_spread(report: Report, row: LedgerRow) -> Spread | None:
    """The card's rate while each piece of work was done: the piece's own rate, times the pieces done at once."""
    nodes = [node for node in report.attempts.nodes.values() if node.node_type == row.key]
    merged = Sketch()
    for node in nodes:
        merged.merge(node.per_image)
    if merged.count < 5 or not row.busy_card_seconds:
        return None
    at_once = sum(node.model_s for node in nodes) / float(row.busy_card_seconds)
    low, first, third, high = merged.quantiles([1 - part for part in _SPREAD])
    return at_once / low, at_once / first, at_once / third, at_once / high


def _dots(ledger: Ledger, row: LedgerRow, figure: str) -> Sequence[float]:
    """The figure of each of its nodes, where there are a few."""
    nodes = [getattr(node, figure) for node in ledger.rows_by_node if node.node_type == row.key]
    known = [value for value in nodes if value]
    return known if 1 < len(known) <= _MOST_DOTS else ()


def _node_spread(ledger: Ledger, row: LedgerRow) -> Spread | None:
    values = [node.images_per_dollar for node in ledger.rows_by_node if node.node_type == row.key]
    known = [value for value in values if value]
    if len(known) < 5:
        return None
    low, first, third, high = (float(value) for value in np.quantile(known, _SPREAD))
    return low, first, third, high


def cost_table(rows: Sequence[LedgerRow], currency: str) -> list[list[str]]:
    """The ledger's rows as text, "–" where nothing is known; columns as `cost_columns`."""
    return [_cost_row(row, currency) for row in rows]


def cost_columns(currency: str) -> tuple[str, ...]:
    """Heads of the columns of `cost_table`."""
    return ("", "card", "nodes", "GPUs", "images", "images/s of a busy card", "share of its limit", "GPU-hours",
            "price/h", "cost", "for 1,000 images", f"images for {unit(currency)}", "for a tagged image")  # fmt: skip


def _cost_row(row: LedgerRow, currency: str) -> list[str]:
    def amount(value: Any) -> str:
        return "–" if value is None else money(value, currency)

    return [
        row.key,
        row.card or "several",
        f"{row.nodes:,}",
        f"{row.gpus:,}",
        f"{row.images:,}",
        "–" if row.images_per_s is None else plain(row.images_per_s),
        "–" if row.share_of_limit is None else share(row.share_of_limit),
        plain(row.gpu_hours) if row.gpus else "–",
        amount(row.price_per_hour),
        amount(row.total_dollars),
        amount(row.dollars_per_1000),
        "–" if row.images_per_dollar is None else plain(row.images_per_dollar),
        amount(row.dollars_per_tagged),
    ]


PREDICTED_COLUMNS = ("", "quoted", "actual", "off by", "four of five simulated runs", "")
"""Heads of the columns of `predicted_rows`."""

KIND_COLUMNS = ("", "nodes quoted", "nodes there", "images/s of a card quoted", "actual", "off by",
                "share of images quoted", "actual")  # fmt: skip
"""Heads of the columns of `predicted_kinds`."""


def predicted_rows(found: Predicted) -> list[list[str]]:
    """What was quoted for the whole run beside what it was."""
    rows = [_predicted_row(figure, found.currency) for figure in found.figures]
    quoted, seen = found.preemptions
    return [*rows, ["nodes preempted", plain(quoted), f"{seen:,}", "–", "–", ""]]


def _predicted_row(figure: Figure, currency: str) -> list[str]:
    def text(value: float | None) -> str:
        if value is None:
            return "not known"
        if figure.unit == "money":
            return money(value, currency)
        return duration(value) if figure.unit == "seconds" else plain(value)

    within = {None: "", True: "as expected", False: "outside"}[figure.is_within]
    spread = f"{text(figure.low)} to {text(figure.high)}"
    name = f"images for {unit(currency)}" if figure.name == PER_MONEY else figure.name
    return [name, text(figure.expected), text(figure.actual), _off(figure.off), spread, within]


def _off(part: float | None) -> str:
    return "–" if part is None else f"{100 * part:+.1f} %"


def predicted_kinds(found: Predicted) -> list[list[str]]:
    """The same for each kind of node."""
    return [
        [
            kind.name,
            f"{kind.quoted_nodes:,}",
            f"{kind.nodes:,}",
            plain(kind.quoted_rate),
            "–" if kind.rate is None else plain(kind.rate),
            "–" if kind.rate is None or not kind.quoted_rate else _off(kind.rate / kind.quoted_rate - 1),
            share(kind.quoted_share),
            "–" if kind.share is None else share(kind.share),
        ]
        for kind in found.kinds
    ]


def node_rows(ledger: Ledger) -> tuple[list[LedgerRow], int]:
    """The nodes that the page lists, those with most images first, and how many it leaves out."""
    rows = sorted(ledger.rows_by_node, key=lambda row: (-row.images, row.key))
    return rows[:_MOST_NODES], max(0, len(rows) - _MOST_NODES)


def splits_chart(ledger: Ledger) -> Markup | None:
    """Where time goes, by node type, and the run below if there are several."""
    rows = [row for row in ledger.rows_by_type if row.node_seconds]
    rows = sorted(rows, key=lambda row: -row.node_seconds)[:_MOST_BARS]
    if not rows:
        return None
    if len(rows) > 1:
        rows.append(ledger.run)
    shares = [("whole run" if row is ledger.run else row.key, _shares(row)) for row in rows]
    said = "; ".join(
        f"{name}: " + ", ".join(f"{split} {share(part)}" for split, part in parts.items() if part)
        for name, parts in shares
    )
    return charts.splits_chart(f"Where time goes. {said}", shares)


def _shares(row: LedgerRow) -> dict[str, float]:
    return {split: float(row.seconds[split] / row.node_seconds) for split in SPLITS}


def splits_table(ledger: Ledger) -> list[list[str]]:
    """Time and money by split, for each node type and the run."""
    rows = []
    for row in (*ledger.rows_by_type, ledger.run):
        cells = [row.key]
        for split in SPLITS:
            part = share(row.seconds[split] / row.node_seconds) if row.node_seconds else "–"
            paid = "" if row.dollars is None else f", {money(row.dollars[split], ledger.currency)}"
            cells.append(f"{duration(float(row.seconds[split]))} ({part}{paid})")
        rows.append(cells)
    return rows
