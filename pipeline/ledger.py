"""What a run's time and money went into, node by node: exact arithmetic on intervals, without Ray and files.

Every moment of every card belongs to one of SPLITS. Times are whole milliseconds, shares of a node's time and amounts of
money are fractions: what is split adds up to the whole exactly, not nearly.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Literal

Split = Literal["busy", "load", "retried", "preempted", "wasted", "idle"]
SPLITS: tuple[Split, ...] = ("busy", "load", "retried", "preempted", "wasted", "idle")
"""busy: the model worked on what was committed; load: a replica started; retried: the model worked for nothing although
its replica lived; preempted: work in hand when the node went; wasted: work in hand when only its process died;
idle: all else. Where several hold at once the first one counts."""

RUN = "run"
"""Key of the row of the whole run."""

_MS_PER_S = 1000
_MS_PER_H = 3_600_000
_S_PER_H = 3600
_DOLLAR_STEP = Decimal("1e-12")


@dataclass(frozen=True)
class Stay:
    """A node took part from start_ms until end_ms, milliseconds since 1970. A node may have several stays."""

    node_id: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class NodeCost:
    """A node of the run.

    cards: among which its time and price are shared equally, 1 for a node that works on its CPUs; gpus: of these;
    per_hour: price of the whole node, None if unknown; why_unpriced: for a person; limit_images_per_s: what one of its
    cards could do at best, None if unknown.
    """

    node_id: str
    node_type: str
    card: str
    cards: int = 1
    gpus: int = 0
    per_hour: Decimal | None = None
    why_unpriced: str = ""
    limit_images_per_s: float | None = None


@dataclass(frozen=True)
class Span:
    """One card, lane 0 … cards-1 of a node, from start_ms until end_ms. Any number of them may overlap."""

    node_id: str
    lane: int
    split: Split
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Done:
    """Images whose chunk was committed and that this node had to tag: tagged, and rejected after all."""

    node_id: str
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
        parts = {split: _rounded(self.cost[split]) for split in SPLITS if split != "idle"}
        return {**parts, "idle": _rounded(self.total_cost or Fraction(0)) - sum(parts.values(), Decimal(0))}

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
    """The account of a run. unpriced: nodes without a price, a line for each kind of them with the reason."""

    rows_by_node: tuple[LedgerRow, ...]
    rows_by_type: tuple[LedgerRow, ...]
    run: LedgerRow
    currency: str
    unpriced: tuple[str, ...] = ()
    sources: tuple[str, ...] = field(default=())
