"""Two finished runs side by side: throughput, cost, and how their tags differ."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.costs.prices import PriceTable
from pipeline.finished_run import FinishedRun
from pipeline.report.document import Options, Report, make_report
from pipeline.report.numbers import money, plain, share
from pipeline.report.tag_drift import ERROR, Drift, Kind, TagShift, tag_drift


@dataclass(frozen=True)
class Comparison:
    """A and B, and how the tags drifted from one to the other."""

    a: Report
    b: Report
    drift: Drift


def compare_runs(a: FinishedRun, b: FinishedRun, prices: PriceTable | None = None) -> Comparison:
    """Compare two runs in memory that does not grow with their images."""
    options = Options(prices=prices, pictures=0)
    return Comparison(make_report(a, options), make_report(b, options), tag_drift(a, b))


_STRANGE = 12
"""Tags that are named before the others are counted."""
_PARTLY = ", without nodes that have no price"
FIGURES = ("images tagged", "rejected", "tags of an image", "images/s", "time of work", "cost", "for 1,000 images",
           "images for one unit of money", "GPU-hours", "busy")  # fmt: skip


def figure_rows(found: Comparison) -> list[tuple[str, str, str, str]]:
    """(figure, of A, of B, change); "–" where a run has no such figure, or where the two cannot be compared.

    So are costs in two currencies, and a cost that is not that of all nodes, which is said.
    """
    currencies = [report.ledger.currency if report.ledger else None for report in (found.a, found.b)]
    partly = [_unpriced_s(report) > 0 for report in (found.a, found.b)]
    rows = []
    for name, a, b in zip(FIGURES, _figures(found.a), _figures(found.b), strict=True):
        comparable = ("for" not in name and name != "cost") or currencies[0] == currencies[1]
        text_a, text_b = _text(name, a, currencies[0]), _text(name, b, currencies[1])
        if name == "cost":
            comparable = comparable and not any(partly)
            text_a, text_b = text_a + _PARTLY * partly[0], text_b + _PARTLY * partly[1]
        rows.append((name, text_a, text_b, _change(a, b, comparable)))
    return rows


def _unpriced_s(report: Report) -> float:
    """Seconds of nodes that its cost leaves out, as they have no price."""
    return 0.0 if report.ledger is None else float(report.ledger.run.unpriced_seconds)


def _figures(report: Report) -> list[float | None]:
    """In the order of FIGURES."""
    run = None if report.ledger is None else report.ledger.run
    images = report.tags.images
    return [
        images,
        report.counts["rejected"],
        float(report.tags.fired.sum()) / images if images else None,
        report.images_per_s,
        report.work_s,
        None if run is None or run.total_cost is None else float(run.total_cost),
        None if run is None else run.dollars_per_1000,
        None if run is None else run.images_per_dollar,
        None if run is None else run.gpu_hours,
        float(run.seconds["busy"] / run.node_seconds) if run is not None and run.node_seconds else None,
    ]


def _text(name: str, value: float | None, currency: str | None) -> str:
    if value is None:
        return "–"
    if name in ("cost", "for 1,000 images"):
        return money(value, currency or "USD")
    if name in ("images tagged", "rejected"):
        return f"{value:,.0f}"
    return share(value) if name == "busy" else f"{plain(value)} s" if name == "time of work" else plain(value)


def _change(a: float | None, b: float | None, comparable: bool) -> str:
    if a is None or b is None or not a or not comparable:
        return "–"
    return f"{100 * (b / a - 1):+.1f} %"


DRIFT_COLUMNS = ("tag", "in A", "in B", "points", "95 % interval", "gained", "lost")
"""Of `drift_row`."""
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("changed", "Tags that changed most"),
    ("appeared", "Tags that appeared"),
    ("vanished", "Tags that vanished"),
)


def drift_tables(drift: Drift, most: int) -> list[tuple[str, list[tuple[str, ...]]]]:
    """(title, rows of DRIFT_COLUMNS) for each kind of drift; the title says how many tags there are in all."""
    tables = []
    for kind, title in _KINDS:
        shifts = drift.of_kind(kind)
        marked = sum(shift.marked for shift in shifts)
        tables.append((f"{title} ({len(shifts):,}, {marked:,} of them marked)", [*map(drift_row, shifts[:most])]))
    return tables


def drift_row(shift: TagShift) -> tuple[str, ...]:
    """A tag that drifted. A star stands for a mark."""
    shares = share(shift.share_a), share(shift.share_b)
    interval = f"{100 * shift.low:+.2f} to {100 * shift.high:+.2f}"
    counts = f"{shift.gained:,}", f"{shift.lost:,}"
    return f"{shift.tag}{' *' if shift.marked else ''}", *shares, f"{100 * shift.change:+.2f}", interval, *counts


def agreement_line(drift: Drift) -> str:
    """How far the two agree on the images in both."""
    agreement = drift.agreement
    if agreement.mean_overlap is None:
        return "The two runs have no tagged image in common."
    return (
        f"{agreement.images:,} images in both: {share(agreement.same / agreement.images)} with the same tags; "
        f"{share(agreement.mean_overlap)} of the tags of an image are the same on average."
    )


def method_line(drift: Drift) -> str:
    """What the shares are of, and how the intervals and marks are to be read."""
    if drift.paired:
        basis = f"Shares are of the {drift.images_a:,} images in both runs, compared in pairs."
    else:
        basis = f"Shares are of all {drift.images_a:,} and {drift.images_b:,} images, as two independent samples."
    return (
        f"{basis} Intervals (Newcombe's hybrid score) hold for images like these, each in 95 of 100 cases. "
        f"* = still not 0 with the error of {ERROR:.0%} shared among all {drift.tested:,} tags (Bonferroni)."
    )


def strange_line(drift: Drift) -> str:
    """Tags that one of the two cannot have; "" if there are none."""
    notes = []
    for side, other in (("a", "B"), ("b", "A")):
        tags = [shift.tag for shift in drift.shifts if shift.known == side]
        if tags:
            more = f" and {len(tags) - _STRANGE:,} more" if len(tags) > _STRANGE else ""
            notes.append(f"Not in the vocabulary of {other}: {', '.join(tags[:_STRANGE])}{more}.")
    return " ".join(notes)


def closing_lines(drift: Drift) -> list[str]:
    """What is said below the tables, where there is no page for it."""
    return [line for line in (method_line(drift), strange_line(drift), agreement_line(drift)) if line]


def as_dict(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON knows it, with all tags."""
    drift = found.drift
    sides = {side: _side(report) for side, report in (("a", found.a), ("b", found.b))}
    agreement = {name: getattr(drift.agreement, name) for name in ("images", "same", "mean_overlap")}
    basis = {name: getattr(drift, name) for name in ("paired", "images_a", "images_b", "tested")}
    return {
        **sides,
        "agreement": agreement,
        "drift": {**basis, "error": ERROR},
        "tags": [asdict(shift) for shift in drift.shifts],
        "images": [asdict(image) for image in drift.changed],
    }


def _side(report: Report) -> dict[str, Any]:
    figures: dict[str, Any] = dict(zip(FIGURES, _figures(report), strict=True))
    currency = report.ledger.currency if report.ledger else None
    return {"run": report.root, "currency": currency, "unpriced_s": _unpriced_s(report), **figures}
