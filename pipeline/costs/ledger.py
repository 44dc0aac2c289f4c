"""What a run's time and money went into, node by node: exact arithmetic on intervals, without Ray and files.

Every moment of every card belongs to one of SPLITS. Times are whole milliseconds, shares of a node's time and amounts
of money are fractions: what is split adds up to the whole exactly, not nearly.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, TypeVar

Split = Literal["busy", "load", "retried", "preempted", "wasted", "idle"]
SPLITS: tuple[Split, ...] = ("busy", "load", "retried", "preempted", "wasted", "idle")
"""busy: the model worked on what was committed; load: a replica started; retried: the model worked for nothing although
its replica lived; preempted: work in hand when the node went; wasted: work in hand when only its process died;
idle: all else. Where several hold at once the first one counts."""

RUN = "run"
"""Key of the row of the whole run."""

_MS_PER_S = 1000
_S_PER_H = 3600
_DECIMALS = 12
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Stay:
    """A node took part from start_ms until end_ms, milliseconds since 1970. A node may have several stays."""

    node_id: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class NodeCost:
    """A node of the run.

    cards: among which its time and price are shared equally, 1 for a node that works on its CPUs; gpus: that it has;
    per_hour: price of the whole node, None if unknown; price_source, why_unpriced: for a person;
    limit_images_per_s: what one of its cards could do at best, None if unknown.
    """

    node_id: str
    node_type: str
    card: str
    cards: int = 1
    gpus: int = 0
    per_hour: Decimal | None = None
    price_source: str = ""
    why_unpriced: str = ""
    limit_images_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """One card, lane 0 … cards-1 of a node, from start_ms until end_ms. Any number of them may overlap."""

    node_id: str
    lane: int
    split: Split
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Done:
    """Images whose chunk was committed by work of this node: tagged, and rejected. No node: none had any work left."""

    node_id: str | None
    tagged: int
    rejected: int = 0


@dataclass(frozen=True)
class LedgerRow:
    """One node, one node type or the run.

    key: node id, node type or RUN; card, price_per_hour: None where its nodes differ, the price also where it is not
    known; gpus: of all its nodes; images = tagged + rejected; node_seconds: of all its nodes together;
    seconds: the same, by split; card_seconds, busy_card_seconds: of each card by itself; elapsed_s: while any of its
    nodes was there; cost: exact, by split, of the nodes that have a price, None where none has;
    priced_tagged: what these tagged; unpriced_seconds: node-seconds of the others;
    limit_images: what the cards could have tagged at best in the time that they were busy, None where not known of all.
    """

    key: str
    node_type: str | None
    card: str | None
    nodes: int
    gpus: int
    tagged: int
    rejected: int
    node_seconds: Fraction
    seconds: Mapping[Split, Fraction]
    card_seconds: Fraction
    busy_card_seconds: Fraction
    gpu_seconds: Fraction
    elapsed_s: Fraction
    price_per_hour: Decimal | None
    cost: Mapping[Split, Fraction] | None
    priced_images: int
    priced_tagged: int
    unpriced_seconds: Fraction
    limit_images: float | None = None

    @property
    def images(self) -> int:
        """Tagged or rejected."""
        return self.tagged + self.rejected

    @property
    def total_cost(self) -> Fraction | None:
        """In the ledger's currency, exact: Σ node-seconds × price."""
        return None if self.cost is None else sum(self.cost.values(), Fraction(0))

    @property
    def dollars(self) -> dict[Split, Decimal] | None:
        """`cost` in steps of 1e-12, rounded so that idle takes the rest: these add up to `total_dollars` exactly."""
        if self.cost is None:
            return None
        parts = {split: _rounded(self.cost[split]) for split in SPLITS}
        parts["idle"] += _rounded(self.total_cost or Fraction(0)) - sum(parts.values(), Decimal(0))
        return parts

    @property
    def total_dollars(self) -> Decimal | None:
        """`total_cost` in steps of 1e-12, rounded down."""
        return None if self.total_cost is None else _rounded(self.total_cost)

    @property
    def images_per_s(self) -> float | None:
        """Of one card while it was busy, on average; None where none ever was."""
        return _ratio(self.tagged, self.busy_card_seconds)

    @property
    def throughput(self) -> float | None:
        """Images a second of all its nodes together, by the clock."""
        return _ratio(self.images, self.elapsed_s)

    @property
    def images_per_dollar(self) -> float | None:
        """Of the nodes that have a price."""
        return None if self.total_cost is None else _ratio(self.priced_images, self.total_cost)

    @property
    def dollars_per_1000(self) -> float | None:
        """For 1,000 images, tagged or rejected, of the nodes that have a price."""
        return None if self.total_cost is None else _ratio(1000 * self.total_cost, self.priced_images)

    @property
    def dollars_per_tagged(self) -> float | None:
        """For each image that got tags: what the rejects cost is in it."""
        return None if self.total_cost is None else _ratio(self.total_cost, self.priced_tagged)

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs, busy or not; 0 for nodes without any."""
        return float(self.gpu_seconds / _S_PER_H)

    @property
    def share_of_limit(self) -> float | None:
        """Images tagged, as a share of what the cards could have done at best while busy."""
        return _ratio(self.tagged, self.limit_images) if self.limit_images else None


@dataclass(frozen=True)
class Ledger:
    """The account of a run, its rows by time, the longest first.

    unpriced: nodes without a price, a line for each kind of them with the reason; price_sources: where prices are from.
    """

    rows_by_node: tuple[LedgerRow, ...]
    rows_by_type: tuple[LedgerRow, ...]
    run: LedgerRow
    currency: str
    unpriced: tuple[str, ...] = ()
    price_sources: tuple[str, ...] = ()


def build_ledger(
    nodes: Iterable[NodeCost], stays: Iterable[Stay], spans: Iterable[Span], done: Iterable[Done], currency: str
) -> Ledger:
    """The account of a run. What a node's spans have beyond its stays, by clocks that differ, does not count.

    Raises ValueError for a span, a stay or images of a node that is not among the nodes, or of a card it does not have.
    """
    accounts = {node.node_id: _Account(node) for node in nodes}
    for stay in stays:
        _account(accounts, stay.node_id).stays.append((stay.start_ms, stay.end_ms))
    for span in spans:
        _account(accounts, span.node_id).add(span)
    homeless = Done(None, 0)
    for work in done:
        if work.node_id is None:
            homeless = _sum_of(homeless, work)
        else:
            account = _account(accounts, work.node_id)
            account.done = _sum_of(account.done, work)
    entries = [account.close() for account in accounts.values()]
    by_type: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_type[entry.node.node_type].append(entry)
    return Ledger(
        rows_by_node=_by_time(_row(entry.node.node_id, [entry]) for entry in entries),
        rows_by_type=_by_time(_row(name, members) for name, members in by_type.items()),
        run=_row(RUN, entries, homeless),
        currency=currency,
        unpriced=_unpriced(entries),
        price_sources=tuple(sorted({e.node.price_source for e in entries if e.node.per_hour is not None} - {""})),
    )


@dataclass(frozen=True)
class _Entry:
    """What a node did. moments: merged stays, in milliseconds; lane_ms: of all its cards, by split."""

    node: NodeCost
    moments: Sequence[tuple[int, int]]
    lane_ms: Mapping[Split, int]
    done: Done

    @property
    def ms(self) -> int:
        return sum(end - start for start, end in self.moments)

    def seconds(self, split: Split) -> Fraction:
        """Of the node: each card has an equal part of it."""
        return Fraction(self.lane_ms[split], self.node.cards * _MS_PER_S)


class _Account:
    """Collects what is known of one node."""

    def __init__(self, node: NodeCost) -> None:
        self.node = node
        self.stays: list[tuple[int, int]] = []
        self.done = Done(node.node_id, 0)
        self._lanes: list[list[Span]] = [[] for _ in range(node.cards)]

    def add(self, span: Span) -> None:
        if not 0 <= span.lane < self.node.cards:
            raise ValueError(f"node {span.node_id} has {self.node.cards} card(s), and no number {span.lane}")
        self._lanes[span.lane].append(span)

    def close(self) -> _Entry:
        moments = _merged(self.stays)
        lane_ms: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        for lane in self._lanes:
            for split, ms in _parted(moments, lane).items():
                lane_ms[split] += ms
        return _Entry(self.node, moments, lane_ms, self.done)


def _account(accounts: Mapping[str, _Account], node_id: str) -> _Account:
    if node_id not in accounts:
        raise ValueError(f"node {node_id} is not among the nodes")
    return accounts[node_id]


def _parted(moments: Sequence[tuple[int, int]], spans: Sequence[Span]) -> dict[Split, int]:
    """Milliseconds of one card by split: of all that holds at a moment the first in SPLITS counts, else it is idle."""
    changes = [(at, -1, step) for start, end in moments for at, step in ((start, 1), (end, -1))]
    for span in spans:
        if span.end_ms > span.start_ms:
            rank = SPLITS.index(span.split)
            changes += [(span.start_ms, rank, 1), (span.end_ms, rank, -1)]
    changes.sort()
    active, present, before = [0] * len(SPLITS), 0, 0
    parted: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for at, rank, step in changes:
        if present and at > before:
            parted[_first(active)] += at - before
        before = at
        if rank < 0:
            present += step
        else:
            active[rank] += step
    return parted


def _first(active: Sequence[int]) -> Split:
    """The first split that holds."""
    return next((split for split, count in zip(SPLITS, active, strict=True) if count), SPLITS[-1])


def _merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of intervals, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(interval for interval in intervals if interval[1] > interval[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _row(key: str, entries: Sequence[_Entry], homeless: Done | None = None) -> LedgerRow:
    priced = [entry for entry in entries if entry.node.per_hour is not None]
    done = homeless or Done(None, 0)
    tagged = done.tagged + sum(entry.done.tagged for entry in entries)
    rejected = done.rejected + sum(entry.done.rejected for entry in entries)
    priced_tagged = done.tagged + sum(entry.done.tagged for entry in priced)
    priced_rejected = done.rejected + sum(entry.done.rejected for entry in priced)
    seconds = {split: sum((entry.seconds(split) for entry in entries), Fraction(0)) for split in SPLITS}
    moments = _merged(moment for entry in entries for moment in entry.moments)
    return LedgerRow(
        key=key,
        node_type=_common(entry.node.node_type for entry in entries),
        card=_common(entry.node.card for entry in entries),
        nodes=len(entries),
        gpus=sum(entry.node.gpus for entry in entries),
        tagged=tagged,
        rejected=rejected,
        node_seconds=Fraction(sum(entry.ms for entry in entries), _MS_PER_S),
        seconds=seconds,
        card_seconds=Fraction(sum(entry.ms * entry.node.cards for entry in entries), _MS_PER_S),
        busy_card_seconds=Fraction(sum(entry.lane_ms["busy"] for entry in entries), _MS_PER_S),
        gpu_seconds=Fraction(sum(entry.ms * entry.node.gpus for entry in entries), _MS_PER_S),
        elapsed_s=Fraction(sum(end - start for start, end in moments), _MS_PER_S),
        price_per_hour=_common(entry.node.per_hour for entry in entries),
        cost={split: _cost(priced, split) for split in SPLITS} if priced else None,
        priced_images=priced_tagged + priced_rejected,
        priced_tagged=priced_tagged,
        unpriced_seconds=Fraction(sum(e.ms for e in entries if e.node.per_hour is None), _MS_PER_S),
        limit_images=_limit(entries),
    )


def _cost(entries: Sequence[_Entry], split: Split) -> Fraction:
    return sum((entry.seconds(split) * Fraction(entry.node.per_hour or 0) for entry in entries), Fraction(0)) / _S_PER_H


def _limit(entries: Sequence[_Entry]) -> float | None:
    """What the cards could have tagged while they were busy; None where that is not known of each that ever was."""
    total = 0.0
    for entry in entries:
        if entry.lane_ms["busy"]:
            if entry.node.limit_images_per_s is None:
                return None
            total += entry.node.limit_images_per_s * entry.lane_ms["busy"] / _MS_PER_S
    return total or None


def _unpriced(entries: Sequence[_Entry]) -> tuple[str, ...]:
    lines: dict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.node.per_hour is None:
            lines[f"{entry.node.node_type}: {entry.node.why_unpriced or 'no price'}"] += 1
    return tuple(f"{count} × {line}" for line, count in sorted(lines.items()))


def _by_time(rows: Iterable[LedgerRow]) -> tuple[LedgerRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.card_seconds, row.key)))


def _sum_of(one: Done, other: Done) -> Done:
    return Done(one.node_id, one.tagged + other.tagged, one.rejected + other.rejected)


def _common(values: Iterable[_Value]) -> _Value | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _rounded(amount: Fraction) -> Decimal:
    return Decimal(amount.numerator * 10**_DECIMALS // amount.denominator).scaleb(-_DECIMALS)


def _ratio(part: Fraction | int, whole: Fraction | float) -> float | None:
    return float(part) / float(whole) if whole else None
