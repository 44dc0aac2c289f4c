"""What was quoted beside what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.costs.ledger import Ledger, LedgerRow
from pipeline.quoting.saved_quote import Drawn, QuotedKind, SavedQuote

Unit = Literal["seconds", "money", "rate"]
PER_MONEY = "images for the money"
"""Name of the figure of images for one unit of the currency."""


@dataclass(frozen=True)
class Figure:
    """Of the whole run. expected: the middle of the simulated runs; low, high: four of five lie between; actual: None
    where it is not known."""

    name: str
    unit: Unit
    low: float
    expected: float
    high: float
    actual: float | None

    @property
    def off(self) -> float | None:
        """By which share of what was expected the actual value is more; negative: less."""
        return None if self.actual is None or not self.expected else self.actual / self.expected - 1

    @property
    def is_within(self) -> bool | None:
        """Whether it came out as in four of five of the simulated runs."""
        return None if self.actual is None else self.low <= self.actual <= self.high


@dataclass(frozen=True)
class Kind:
    """One kind of node as quoted, and the nodes of the run that are taken for it, None where there were none.

    rates: images/s of one busy card; of_images: share of the images of all.
    """

    name: str
    quoted_nodes: int
    nodes: int
    quoted_rate: float
    rate: float | None
    quoted_share: float
    share: float | None


@dataclass(frozen=True)
class Predicted:
    """images: that the quote was for; figures without time and cost where the run had another number of them.

    others: node types of the run that were not quoted; preemptions: quoted, and nodes that died or were drained.
    """

    images: int
    figures: tuple[Figure, ...]
    kinds: tuple[Kind, ...]
    others: tuple[str, ...]
    preemptions: tuple[float, int]
    currency: str


def predicted(quote: SavedQuote, ledger: Ledger, preemptions: int) -> Predicted:
    """Hold a quote against the account of a run. preemptions: nodes that died or were drained in it."""
    rows = {kind.name: _rows_of(kind, quote.kinds, ledger) for kind in quote.kinds}
    taken = {row.key for found in rows.values() for row in found}
    return Predicted(
        images=quote.images,
        figures=tuple(_figures(quote, ledger)),
        kinds=tuple(
            _kind(kind, rows[kind.name], quote, ledger) for kind in quote.kinds if kind.nodes or rows[kind.name]
        ),
        others=tuple(row.key for row in ledger.rows_by_type if row.key not in taken and (row.images or row.gpus)),
        preemptions=(sum(kind.preemptions for kind in quote.kinds), preemptions),
        currency=ledger.currency,
    )


def _rows_of(kind: QuotedKind, kinds: Sequence[QuotedKind], ledger: Ledger) -> list[LedgerRow]:
    """The node types that are called as it was quoted; or else, if no other quoted kind has its card, that have it."""
    named = [row for row in ledger.rows_by_type if row.key == kind.name]
    if named:
        return named
    names = {other.name for other in kinds}
    if sum(_plain(other.card) == _plain(kind.card) for other in kinds) > 1:
        return []
    return [row for row in ledger.rows_by_type if _plain(row.card) == _plain(kind.card) and row.key not in names]


def _plain(card: str | None) -> str:
    return "" if card is None else card.lower().replace("-", " ").strip()


def _figures(quote: SavedQuote, ledger: Ledger) -> list[Figure]:
    run, seconds = ledger.run, quote.simulated.seconds
    dollars = quote.simulated.dollars if quote.currency == ledger.currency else None
    elapsed = float(run.elapsed_s)
    cost = None if run.total_cost is None or run.unpriced_seconds else float(run.total_cost)
    figures = []
    if run.images == quote.images:
        figures.append(_figure("time", "seconds", seconds, elapsed))
        if dollars is not None:
            figures.append(_figure("cost", "money", dollars, cost))
    if elapsed and seconds.p10:
        figures.append(_rate("images/s", quote.images, seconds, run.images / elapsed))
    if dollars is not None and dollars.p10:
        figures.append(_rate(PER_MONEY, quote.images, dollars, run.images / cost if cost else None))
    return figures


def _figure(name: str, unit: Unit, drawn: Drawn, actual: float | None) -> Figure:
    return Figure(name, unit, drawn.p10, drawn.p50, drawn.p90, actual)


def _rate(name: str, images: int, drawn: Drawn, actual: float | None) -> Figure:
    """The more of what is drawn an image takes, the fewer of them there are for it."""
    return Figure(name, "rate", images / drawn.p90, images / drawn.p50, images / drawn.p10, actual)


def _kind(kind: QuotedKind, rows: Sequence[LedgerRow], quote: SavedQuote, ledger: Ledger) -> Kind:
    tagged = sum(row.tagged for row in rows)
    busy = float(sum(row.busy_card_seconds for row in rows))
    done = sum(row.images for row in rows)
    return Kind(
        name=kind.name,
        quoted_nodes=kind.nodes,
        nodes=sum(row.nodes for row in rows),
        quoted_rate=kind.images_per_s,
        rate=tagged / busy if busy else None,
        quoted_share=kind.images / quote.images,
        share=done / ledger.run.images if rows and ledger.run.images else None,
    )
