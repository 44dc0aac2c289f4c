"""Two finished runs side by side: throughput, cost, and how their tags differ."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pandas.util import hash_array

from pipeline.costs.prices import PriceTable
from pipeline.finished_run import FinishedRun
from pipeline.redecide import fired_scores
from pipeline.report.document import Options, Report, make_report
from pipeline.report.numbers import money, plain, share
from pipeline.report.tag_stats import stored_scores

_SAMPLE = 100_000
_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class TagShift:
    """One tag in both runs. share_a, share_b: of all tagged images; gained, lost: images of the sample that have it in
    B only, in A only."""

    tag: str
    share_a: float
    share_b: float
    gained: int = 0
    lost: int = 0

    @property
    def change(self) -> float:
        """Of the share, from A to B."""
        return self.share_b - self.share_a


@dataclass
class Agreement:
    """Images that both runs tagged. every: one in so many was looked at; same: with the same tags; overlap: sum over
    images of tags in both / tags in either; gained, lost: images by tag."""

    every: int = 1
    images: int = 0
    same: int = 0
    overlap: float = 0.0
    gained: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, before: frozenset[str], after: frozenset[str]) -> None:
        """Take in the tags of one image."""
        self.images += 1
        self.same += before == after
        either = before | after
        self.overlap += len(before & after) / len(either) if either else 1.0
        self.gained.update(after - before)
        self.lost.update(before - after)

    @property
    def mean_overlap(self) -> float | None:
        """Tags in both / tags in either, on average over images (Jaccard's index); None without images."""
        return self.overlap / self.images if self.images else None


@dataclass(frozen=True)
class Comparison:
    """A and B, the tags by how much their share changed, and the agreement on common images."""

    a: Report
    b: Report
    shifts: list[TagShift]
    agreement: Agreement


def compare_runs(a: FinishedRun, b: FinishedRun, prices: PriceTable | None = None) -> Comparison:
    """Compare two runs in memory that does not grow with their images.

    Tags are told apart by name. Of large runs every n-th image is compared, by a hash of its id.
    """
    options = Options(prices=prices, pictures=0)
    reports = make_report(a, options), make_report(b, options)
    agreement = _agreement(a, b)
    return Comparison(*reports, _shifts(*reports, agreement), agreement)


def _shifts(a: Report, b: Report, agreement: Agreement) -> list[TagShift]:
    shares = [_shares(report) for report in (a, b)]
    shifts = [
        TagShift(tag, shares[0].get(tag, 0.0), shares[1].get(tag, 0.0), agreement.gained[tag], agreement.lost[tag])
        for tag in shares[0] | shares[1]
    ]
    return sorted(shifts, key=lambda shift: (-abs(shift.change), shift.tag))


def _shares(report: Report) -> dict[str, float]:
    fired: Counter[str] = Counter()
    for tag, images in zip(report.tags.vocabulary.tags, report.tags.fired.tolist(), strict=True):
        fired[tag] += images
    return {tag: images / max(1, report.tags.images) for tag, images in fired.items()}


def _agreement(a: FinishedRun, b: FinishedRun) -> Agreement:
    every = max(1, -(-max(a.rows("tags"), b.rows("tags")) // _SAMPLE))
    before, after = (_sampled(run, every) for run in (a, b))
    agreement = Agreement(every)
    for image_id in before.keys() & after.keys():
        agreement.add(before[image_id], after[image_id])
    return agreement


def _sampled(run: FinishedRun, every: int) -> dict[str, frozenset[str]]:
    """The tags of every n-th image, by id."""
    vocabulary = run.vocabulary()
    top_k = run.document.get("derived_from", {}).get("top_k", 0)
    found: dict[str, frozenset[str]] = {}
    for batch in run.batches("tags", ("image_id", "tag_ids", "scores"), _BATCH_ROWS):
        rows = batch.take(pa.array(_chosen(batch, every)))
        fired = fired_scores(stored_scores(rows), vocabulary.thresholds, top_k)
        ends = np.cumsum(fired.counts)
        ids = np.split(fired.tag_ids, ends[:-1])
        for image_id, tags in zip(rows["image_id"].to_pylist(), ids, strict=False):
            found[image_id] = frozenset(vocabulary.tags[tag] for tag in tags)
    return found


def _chosen(batch: pa.RecordBatch, every: int) -> NDArray[np.int64]:
    ids = batch["image_id"].to_numpy(zero_copy_only=False)
    return np.flatnonzero(hash_array(ids, categorize=False) % np.uint64(every) == 0)


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


def as_dict(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON knows it, with all tags."""
    sides = {side: _side(report) for side, report in (("a", found.a), ("b", found.b))}
    agreement = {name: getattr(found.agreement, name) for name in ("every", "images", "same", "mean_overlap")}
    return {**sides, "agreement": agreement, "tags": [asdict(shift) for shift in found.shifts]}


def _side(report: Report) -> dict[str, Any]:
    figures: dict[str, Any] = dict(zip(FIGURES, _figures(report), strict=True))
    currency = report.ledger.currency if report.ledger else None
    return {"run": report.root, "currency": currency, "unpriced_s": _unpriced_s(report), **figures}
