"""What a run cost, from its telemetry and its events: the ledger of a run folder, and its summary for run.json."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipeline.costs.ledger import SPLITS, Done, Ledger, LedgerRow, NodeCost, Span, Split, Stay, build_ledger
from pipeline.costs.prices import PriceTable
from pipeline.events.log import events_in_order
from pipeline.finished_run import FinishedRun
from pipeline.stores.run_store import RunStore

_COMMITTED = ("committed", "shared")
_OF_REPLICA = ("lease", "lease_done", "lease_failed", "lease_lost", "replica_gone")
_UNSEEN = "the events of the run do not tell when it joined"


def read_ledger(store: RunStore, prices: PriceTable | None = None) -> Ledger:
    """The ledger of a run that was finalized, at the prices that were written down when its nodes joined.

    prices: to reckon with instead. Raises InputError if the run was not finalized.
    """
    return ledger_of(events_in_order(store), FinishedRun(store).telemetry(), prices)


def ledger_of(events: Iterable[Mapping[str, Any]], telemetry: pa.Table, prices: PriceTable | None = None) -> Ledger:
    """The ledger of these events, session by session and in each by time, and of rows of TELEMETRY_SCHEMA."""
    account = _RunAccount(telemetry)
    for event in events:
        account.take(event)
    return account.close(prices)


def cost_summary(ledger: Ledger) -> dict[str, Any]:
    """What run.json says of costs. Amounts in the ledger's currency, times in seconds, as plain numbers."""
    return {
        "currency": ledger.currency,
        **_figures(ledger.run),
        "by_node_type": {row.key: _figures(row) for row in ledger.rows_by_type},
        "unpriced": list(ledger.unpriced),
        "price_sources": list(ledger.price_sources),
    }


def _figures(row: LedgerRow) -> dict[str, Any]:
    dollars = row.dollars
    return {
        "total": None if row.total_dollars is None else float(row.total_dollars),
        "cost": None if dollars is None else {split: float(dollars[split]) for split in SPLITS},
        "price_per_hour": None if row.price_per_hour is None else float(row.price_per_hour),
        "per_1000_images": row.dollars_per_1000,
        "per_tagged_image": row.dollars_per_tagged,
        "images_per_unit": row.images_per_dollar,
        "nodes": row.nodes,
        "images": row.images,
        "tagged": row.tagged,
        "images_per_s": row.images_per_s,
        "share_of_limit": row.share_of_limit,
        "gpu_hours": row.gpu_hours,
        "node_seconds": float(row.node_seconds),
        "seconds": {split: float(row.seconds[split]) for split in SPLITS},
    }


@dataclass
class _Life:
    """A replica. lane: where it was expected; gpus: that it had; open: leases without an end, with grant and chunk;
    ended_ms: when its last lease ended."""

    replica: str
    node_id: str
    lane: int
    num_gpus: float
    started_ms: int
    gpus: tuple[str, ...] = ()
    is_ready: bool = False
    gone_ms: int | None = None
    open: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended_ms: int = 0


@dataclass
class _Session:
    """One driver at work. there: since when nodes are; went: nodes; lives: replicas of the present Fleet process."""

    first_ms: int = 0
    last_ms: int = 0
    ended_ms: int | None = None
    there: dict[str, int] = field(default_factory=dict)
    went: set[str] = field(default_factory=set)
    lives: dict[str, _Life] = field(default_factory=dict)


class _RunAccount:
    """Takes in events one by one; what it keeps grows with the leases of a run."""

    def __init__(self, telemetry: pa.Table) -> None:
        self._work = list(_work_of(telemetry))
        self._tagged_by = {(work.replica, work.chunk) for work in self._work}
        self._nodes: dict[str, Mapping[str, Any]] = {}
        self._stays: list[Stay] = []
        self._spans: list[tuple[_Life, Split, int, int]] = []
        self._lives: list[_Life] = []
        self._sessions: dict[str, _Session] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        """The next event. Those of several sessions may be mixed."""
        session = self._sessions.setdefault(event["session"], _Session())
        at = _ms(event["at"])
        session.first_ms = min(at, session.first_ms or at)
        session.last_ms = max(session.last_ms, at)
        match event["event"]:
            case "driver_ended":
                session.ended_ms = session.last_ms  # by a clock that was set back it would be before it began
            case "node_joined":
                self._joined(session, event, at)
            case "node_gone" if event["node"] in session.there:
                self._stays.append(Stay(event["node"], session.there.pop(event["node"]), at))
                session.went.add(event["node"])
            case "fleet_started":  # again: what the one before had is lost
                self._end_replicas(session, at)
            case "replica_started":
                self._begin(session, event, event.get("lane", 0), event.get("num_gpus", 1.0), at)
            case "replica_ready" if "node" in event:
                self._ready(session, event, at)
            case name if name in _OF_REPLICA and event["replica"] in session.lives:
                self._of_replica(event, session.lives[event["replica"]], at)

    def close(self, prices: PriceTable | None) -> Ledger:
        """No event is left."""
        for session in self._sessions.values():
            self._end(session)
        self._add_unseen()
        currency = prices.currency if prices is not None else self._currency()
        on_cpus = {life.node_id for life in self._lives if not life.num_gpus}
        nodes = {
            node_id: _node_cost(node_id, event, currency, prices, node_id in on_cpus)
            for node_id, event in self._nodes.items()
        }
        lanes = _Lanes(self._lives, nodes)
        spans = [Span(life.node_id, lanes.of(life), split, start, end) for life, split, start, end in self._spans]
        for work in self._work:
            if work.node_id is not None and work.model_ms:
                lane = lanes.of_replica(work.node_id, work.replica)
                spans.append(Span(work.node_id, lane, "busy", work.ended_ms - work.model_ms, work.ended_ms))
        done = [Done(work.node_id, work.images - work.rejects, work.rejects) for work in self._work]
        return build_ledger(nodes.values(), self._stays, spans, done, currency)

    # ---- nodes ----

    def _joined(self, session: _Session, event: Mapping[str, Any], at: int) -> None:
        node_id = event["node"]
        since = _ms(event.get("since", event["at"]))
        session.there.setdefault(node_id, max(session.first_ms, min(since, at)))
        known = self._nodes.get(node_id)
        if known is None or (known.get("price") is None and event.get("price") is not None):
            self._nodes[node_id] = event

    def _end(self, session: _Session) -> None:
        end = session.ended_ms if session.ended_ms is not None else session.last_ms
        self._end_replicas(session, end)
        self._stays += [Stay(node_id, since, end) for node_id, since in session.there.items()]

    def _add_unseen(self) -> None:
        """Nodes whose joining is not in the events: they were there while they did something that is known."""
        known: dict[str, list[int]] = {}
        for work in self._work:
            if work.node_id is not None and work.node_id not in self._nodes:
                known.setdefault(work.node_id, []).extend((work.ended_ms - work.model_ms, work.ended_ms))
        for life, _, start, end in self._spans:
            if life.node_id not in self._nodes:
                known.setdefault(life.node_id, []).extend((start, end))
        types = {work.node_id: (work.node_type, work.card) for work in self._work}
        for node_id, times in known.items():
            kind, card = types.get(node_id, (None, None))
            self._nodes[node_id] = {"node_type": kind or "unknown", "card": card or "unknown", "unpriced": _UNSEEN}
            self._stays.append(Stay(node_id, min(times), max(times)))

    def _currency(self) -> str:
        priced = [event["price"]["currency"] for event in self._nodes.values() if event.get("price")]
        return priced[-1] if priced else PriceTable().currency

    # ---- replicas ----

    def _begin(self, session: _Session, event: Mapping[str, Any], lane: int, num_gpus: float, started_ms: int) -> _Life:
        life = _Life(event["replica"], event["node"], lane, num_gpus, started_ms)
        session.lives[life.replica] = life
        self._lives.append(life)
        return life

    def _ready(self, session: _Session, event: Mapping[str, Any], at: int) -> None:
        life = session.lives.get(event["replica"])
        if life is None:
            load_ms = round(event.get("load_s", 0.0) * 1000)
            life = self._begin(session, event, 0, event.get("num_gpus", 1.0), at - load_ms)
        life.is_ready, life.gpus = True, tuple(event.get("gpus", ()))
        self._spans.append((life, "load", life.started_ms, at))

    def _of_replica(self, event: Mapping[str, Any], life: _Life, at: int) -> None:
        match event["event"]:
            case "lease":
                life.open[event["lease"]] = at, event["work"][0]
            case "lease_done":
                life.open.pop(event["lease"], None)
                life.ended_ms = max(life.ended_ms, _ms(event["ended_at"]))
                # Of what was committed it is known from the telemetry that it was not for nothing.
                self._spans.append((life, "retried", *_before(event["ended_at"], event["model_s"])))
            case "lease_failed":
                life.open.pop(event["lease"], None)
                life.ended_ms = max(life.ended_ms, at)
                self._spans.append((life, "retried", *_before(event["at"], event["ran_s"])))
            case "lease_lost":
                life.open.pop(event.get("lease", ""), None)
                split: Split = "preempted" if event.get("node_gone") else "wasted"
                span = _before(event.get("died_at", event["at"]), event.get("ran_s", 0.0))
                self._spans.append((life, split, *span))
            case "replica_gone":
                life.gone_ms = at
                if not life.is_ready:
                    self._spans.append((life, "load", life.started_ms, at))

    def _end_replicas(self, session: _Session, end: int) -> None:
        """All replicas end here that have not ended before; the first lease of each that has no end was in hand."""
        for life in session.lives.values():
            if life.gone_ms is None and not life.is_ready:
                self._spans.append((life, "load", life.started_ms, end))
            left = [granted for granted, chunk in life.open.values() if (life.replica, chunk) not in self._tagged_by]
            if left:
                until = end if life.gone_ms is None else life.gone_ms
                split: Split = "preempted" if life.node_id in session.went else "wasted"
                self._spans.append((life, split, max(min(left), life.ended_ms), until))
        session.lives = {}


@dataclass(frozen=True, slots=True)
class _Work:
    """A piece of a committed chunk; no node where none had any work left."""

    chunk: int
    node_id: str | None
    node_type: str | None
    card: str | None
    replica: str | None
    images: int
    rejects: int
    model_ms: int
    ended_ms: int


def _work_of(telemetry: pa.Table) -> Iterator[_Work]:
    names = ("outcome", "chunk", "node_id", "node_type", "card", "replica", "images", "rejects", "model_s")
    columns = [telemetry[name].to_pylist() for name in names]
    ended = telemetry["ended_at"].cast(pa.int64()).to_pylist()
    for *values, ended_ms in zip(*columns, ended, strict=True):
        outcome, chunk, node_id, node_type, card, replica, images, rejects, model_s = values
        if outcome in _COMMITTED:
            model_ms = round((model_s or 0.0) * 1000)
            yield _Work(chunk, node_id, node_type, card, replica, images, rejects or 0, model_ms, ended_ms)


class _Lanes:
    """On which card of its node each replica was: by Ray's numbers of the cards, else where it was expected."""

    def __init__(self, lives: Iterable[_Life], nodes: Mapping[str, NodeCost]) -> None:
        here = [life for life in lives if life.node_id in nodes]
        names: dict[str, set[str]] = defaultdict(set)
        for life in here:
            names[life.node_id].update(life.gpus)
        self._nodes = nodes
        self._numbers = {node_id: _numbered(found, nodes[node_id].cards) for node_id, found in names.items()}
        self._by_name = {(life.node_id, life.replica): life for life in here}

    def of(self, life: _Life) -> int:
        """From 0."""
        numbers = self._numbers[life.node_id]
        return (numbers[life.gpus[0]] if life.gpus else life.lane) % self._nodes[life.node_id].cards

    def of_replica(self, node_id: str, replica: str | None) -> int:
        """0 for a replica that the events do not know."""
        life = self._by_name.get((node_id, replica or ""))
        return 0 if life is None else self.of(life)


def _numbered(names: Iterable[str], cards: int) -> dict[str, int]:
    """Ray's numbers where they count the node's cards, else their order."""
    ordered = sorted(names)
    if all(name.isdigit() and int(name) < cards for name in ordered):
        return {name: int(name) for name in ordered}
    return {name: index for index, name in enumerate(ordered)}


def _node_cost(
    node_id: str, event: Mapping[str, Any], currency: str, prices: PriceTable | None, on_cpus: bool
) -> NodeCost:
    price = _price(event, currency, prices)
    gpus = int(event.get("gpus", 0))
    return NodeCost(
        node_id=node_id,
        node_type=event.get("node_type", "unknown"),
        card=event.get("card", "unknown"),
        cards=1 if on_cpus else max(1, gpus),
        gpus=gpus,
        per_hour=None if isinstance(price, str) else price[0],
        price_source="" if isinstance(price, str) else price[1],
        why_unpriced=price if isinstance(price, str) else "",
        limit_images_per_s=None if on_cpus else event.get("limit_images_per_s"),
    )


def _price(event: Mapping[str, Any], currency: str, prices: PriceTable | None) -> tuple[Decimal, str] | str:
    """Price of an hour and its source, or why there is none."""
    if prices is not None and "gpus" in event:
        place = event.get("zone") or event.get("region")
        found = prices.find(
            event.get("card"), event.get("instance_type"), event.get("market"), place, event["gpus"], event["vram_gib"]
        )
        return found if isinstance(found, str) else (found.per_hour, found.source)
    price = event.get("price")
    if price is None:
        return str(event.get("unpriced", "no price was known when it joined"))
    if price["currency"] != currency:
        return f"its price is in {price['currency']}, those of the others in {currency}"
    return Decimal(price["per_hour"]), price["source"]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _before(ended_at: float, seconds: float) -> tuple[int, int]:
    """From so many seconds before a moment until then, in milliseconds; both sources of a lease round it alike."""
    end = _ms(ended_at)
    return end - round(seconds * 1000), end
