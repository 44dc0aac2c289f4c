"""All that a report says, gathered from a finished run; and the same as JSON knows it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.config import Config, FetchConfig, StorageConfig
from pipeline.costs.ledger import Ledger, LedgerRow
from pipeline.costs.prices import PriceTable
from pipeline.costs.run_costs import ledger_of
from pipeline.events.log import events_in_order
from pipeline.finished_run import FinishedRun
from pipeline.quoting.saved_quote import SavedQuote, kept_quote
from pipeline.report.attempts import Attempts, gather_attempts
from pipeline.report.contact_sheet import Picture, contact_sheet
from pipeline.report.life import Life
from pipeline.report.next_dollar import NextDollar, next_dollar
from pipeline.report.predicted import Predicted, predicted
from pipeline.report.rejects import RejectKind, gather_rejects
from pipeline.report.tag_stats import TagStats, gather_tags

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Options:
    """What a report reads beyond the run.

    prices: to reckon with instead of those that were noted when nodes joined; pictures: of the sheet, 0 for none, all
    within pictures_timeout_s; quote: to be held against the run, instead of the one that is kept in it.
    """

    prices: PriceTable | None = None
    fetch: FetchConfig = field(default_factory=FetchConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    pictures: int = 24
    pictures_timeout_s: float = 10.0
    quote: SavedQuote | None = None

    @classmethod
    def of(cls, config: Config) -> "Options":
        """For the report at the end of a run."""
        return cls(fetch=config.fetch, storage=config.storage)


@dataclass(frozen=True)
class Report:
    """ledger: None where no attempt was recorded, as in a run that `ramfleet threshold` made; predicted: None where no
    quote is known."""

    root: str
    document: dict[str, Any]
    generated_at: datetime
    attempts: Attempts
    life: Life
    tags: TagStats
    rejects: list[RejectKind]
    pictures: list[Picture]
    ledger: Ledger | None
    next_dollar: NextDollar | None
    predicted: Predicted | None

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the run, as run.json has them."""
        counts: dict[str, int] = self.document["counts"]
        return counts

    @property
    def work_s(self) -> float | None:
        """Seconds of the run without the pauses between its sessions; None where nothing went through the model."""
        throughput = self.attempts.throughput
        return None if throughput is None else throughput.axis.length

    @property
    def images_per_s(self) -> float | None:
        """Images that went through the model in a second of `work_s`."""
        images = sum(card.images for card in self.attempts.cards.values())
        return images / self.work_s if self.work_s else None


def make_report(run: FinishedRun, options: Options | None = None) -> Report:
    """Gather the report of a run."""
    options = options or Options()
    attempts, life = gather_attempts(run), Life()
    ledger = _ledger(run, life, options.prices)
    tags = gather_tags(run, options.pictures)
    return Report(
        root=run.root,
        document=run.document,
        generated_at=datetime.now(UTC).replace(microsecond=0),
        attempts=attempts,
        life=life,
        tags=tags,
        rejects=gather_rejects(run),
        pictures=contact_sheet(tags.samples, options.fetch, options.storage, options.pictures_timeout_s),
        ledger=ledger,
        next_dollar=None if ledger is None else next_dollar(ledger, attempts, life),
        predicted=None if ledger is None else _predicted(run, ledger, life, options.quote),
    )


def _ledger(run: FinishedRun, life: Life, prices: PriceTable | None) -> Ledger | None:
    """The account of the run, with its events read once for both; None where no attempt was recorded."""
    events = life.watch(events_in_order(run.store))
    return ledger_of(events, run.telemetry(), prices) if run.has("telemetry") else None


def _predicted(run: FinishedRun, ledger: Ledger, life: Life, given: SavedQuote | None) -> Predicted | None:
    quote = given or kept_quote(run.store)
    return None if quote is None else predicted(quote, ledger, life.counts["died"] + life.counts["drained"])


def as_dict(report: Report) -> dict[str, Any]:
    """The report as JSON knows it; amounts of money are decimal texts, exact."""
    document = report.document
    return {
        "run": report.root,
        "generated_at": report.generated_at.isoformat(),
        **{
            name: document[name] for name in ("status", "finalized_at", "demo", "counts", "model", "pinned", "versions")
        },
        "work_s": report.work_s,
        "images_per_s": report.images_per_s,
        "cost": None if report.ledger is None else _cost(report.ledger),
        "next_dollar": None if report.next_dollar is None else _next_dollar(report.next_dollar),
        "predicted": None if report.predicted is None else _compared(report.predicted),
        "attempts": dict(report.attempts.outcomes),
        "stage_seconds": dict(report.attempts.seconds),
        "cards": {name: _card(report, name) for name in report.attempts.cards},
        "throughput": _throughput(report.attempts),
        "life": dict(report.life.counts),
        "rejects": [asdict(kind) | {"cause": kind.cause, "remedy": kind.remedy} for kind in report.rejects],
        "tags": _tags(report.tags),
    }


def row_dict(row: LedgerRow) -> dict[str, Any]:
    """A row of the ledger, flat, for JSON and CSV; seconds and money by split."""
    values: dict[str, Any] = {
        name: getattr(row, name)
        for name in ("key", "node_type", "card", "nodes", "gpus", "images", "tagged", "rejected", "gpu_hours",
                     "images_per_s", "throughput", "images_per_dollar", "dollars_per_1000", "dollars_per_tagged",
                     "share_of_limit")
    }  # fmt: skip
    values["node_seconds"] = float(row.node_seconds)
    values |= {f"{split}_s": float(seconds) for split, seconds in row.seconds.items()}
    values["price_per_hour"] = _text(row.price_per_hour)
    values["cost"] = _text(row.total_dollars)
    values |= {f"{split}_cost": _text(amount) for split, amount in _dollars(row).items()}
    values["unpriced_s"] = float(row.unpriced_seconds)
    return values


def _dollars(row: LedgerRow) -> Mapping[Any, Any]:
    return row.dollars or dict.fromkeys(row.seconds)


def _text(amount: Any) -> str | None:
    return None if amount is None else f"{amount:f}"


def _cost(ledger: Ledger) -> dict[str, Any]:
    return {
        "currency": ledger.currency,
        "unpriced": list(ledger.unpriced),
        "run": row_dict(ledger.run),
        "by_type": [row_dict(row) for row in ledger.rows_by_type],
        "by_node": [row_dict(row) for row in ledger.rows_by_node],
    }


def _next_dollar(found: NextDollar) -> dict[str, Any]:
    levers = [asdict(lever) | {"dollars": _text(lever.dollars)} for lever in found.levers]
    return {"bottleneck": found.bottleneck.name, "brings": found.brings, "levers": levers}


def _compared(found: Predicted) -> dict[str, Any]:
    figures = {
        figure.name: asdict(figure) | {"off": figure.off, "within": figure.is_within} for figure in found.figures
    }
    quoted, seen = found.preemptions
    return {
        "images": found.images,
        "figures": figures,
        "kinds": [asdict(kind) for kind in found.kinds],
        "not_quoted": list(found.others),
        "preemptions": {"quoted": quoted, "actual": seen},
        "currency": found.currency,
    }


def _card(report: Report, name: str) -> dict[str, Any]:
    card = report.attempts.cards[name]
    sketch = card.per_image
    quantiles = sketch.quantiles(QUANTILES) if sketch.count else []
    return {
        "images": card.images,
        "model_s": card.model_s,
        "seconds_per_image": dict(zip((f"p{round(100 * part)}" for part in QUANTILES), quantiles, strict=False)),
        "microbatches": {str(size): images for size, images in sorted(card.microbatches.items(), key=str)},
        "dtypes": dict(card.dtypes),
        "peak_vram_bytes": card.peak_vram_bytes,
    }


def _throughput(attempts: Attempts) -> dict[str, Any] | None:
    found = attempts.throughput
    if found is None:
        return None
    return {
        "edges_s": found.edges.tolist(),
        "images_per_s": {card: rates.tolist() for card, rates in found.by_card.items()},
        "pauses": [{"at_s": at, "seconds": seconds} for at, seconds in found.axis.cuts],
    }


def _tags(tags: TagStats) -> dict[str, Any]:
    names = tags.vocabulary.tags
    order = (-tags.fired).argsort(kind="stable")
    return {
        "images": tags.images,
        "fired": {"tag_id": order.tolist(), "tag": [names[tag] for tag in order], "images": tags.fired[order].tolist()},
        "never_fired": [names[tag] for tag in tags.never],
        "images_by_number_of_tags": tags.per_image.tolist(),
        "scores": {"stored": tags.scores.sum(axis=0).tolist(), "tags": tags.over.tolist()},
    }
